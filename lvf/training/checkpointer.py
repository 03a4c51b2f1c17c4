"""Saves the whole state of a run while it trains, in Composer's terms."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist, reproducibility

from lvf.runs.checkpoints import by_age, commit, name_of, state_file
from lvf.training.sharded_checkpoint import SHARDED, save_sharded
from lvf.training.stopping import StoppedError, StopRequest


class Checkpointer(Callback):
    """Save a run's whole state every `every` batches, at `kept` ones, at a stop and at the end.

    Composer's own saver gives a half-written file its final name, and loses the last whole one when
    it is killed while it moves its `latest` link; here the folder `ba0000100` appears by a rename
    when all of it is on disk. The newest `keep` folders stay, those of the `kept` batches always.

    Any number of ranks can load it: with Lion, 8 bytes a trained parameter. Where FSDP2 shards a
    model, every rank writes its part of the weights and of the optimiser's state, and rank 0 what
    else there is; else rank 0 writes all.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        keep: int,
        end: int,
        kept: Collection[int],
        stop: StopRequest,
        stop_batch: int | None = None,
    ) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep
        self.end = end
        self.kept = {name_of(batch) for batch in kept}
        self.stop = stop
        self.stop_batch = stop_batch

    def fit_start(self, state: State, logger: Logger) -> None:
        """Take what is written in parts out of Composer's state, which gathers it on rank 0."""
        if state.fsdp_enabled:
            names = state.serialized_attributes
            state.serialized_attributes = [name for name in names if name not in SHARDED]

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Save after this batch if its turn has come, or if the run is to stop."""
        batch = state.timestamp.batch.value
        stop = (self.stop.is_made(state) or batch == self.stop_batch) and batch != self.end
        if stop or batch % self.every == 0 or batch == self.end or name_of(batch) in self.kept:
            self._save(state, self.folder / name_of(batch))
        if stop:
            raise StoppedError(f"stopped at batch {batch}, which is saved")

    def _save(self, state: State, target: Path) -> None:
        partial = target.with_name(f".{target.name}.partial")
        is_rank_zero = dist.get_global_rank() == 0
        try:
            with failing_together(self.folder.parent):
                if is_rank_zero:
                    shutil.rmtree(partial, ignore_errors=True)  # of a save that was killed
                    partial.mkdir(parents=True)
            with failing_together(self.folder.parent):
                if state.fsdp_enabled:
                    save_sharded(state, partial)
                tree: dict[str, Any] = {"state": state.state_dict()}
                tree["rng"] = reproducibility.get_rng_state()
                if is_rank_zero:
                    torch.save(tree, state_file(partial))
                    commit(partial, target)
                    self._prune()
        except Exception:
            if is_rank_zero:
                shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
            raise

    def _prune(self) -> None:
        passing = [path for path in by_age(self.folder) if path.name not in self.kept]
        for old in passing[: -self.keep]:
            shutil.rmtree(old)


@contextmanager
def failing_together(folder: Path) -> Iterator[None]:
    """Synchronise ranks and re-raise the first error on all, so that none hangs.

    Inside the block, collectives must come before anything that can fail on one rank alone.

    Raises:
        OSError: what went wrong; where the disk of `folder` is full, it says so, while torch says
            only that a write failed.
    """
    cause = message = None
    try:
        yield
    except Exception as error:
        cause, message = error, f"{type(error).__name__}: {error}"
        if shutil.disk_usage(folder).free < 1 << 20:
            message = os.strerror(errno.ENOSPC)
    failures = [one for one in dist.all_gather_object(message) if one]
    if failures:
        raise OSError(f"cannot write to {folder}: {failures[0]}") from cause
