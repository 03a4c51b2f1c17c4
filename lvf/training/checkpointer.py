"""Saves the whole state of a run while it trains, in Composer's terms."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from composer.utils.checkpoint import save_checkpoint

from lvf.training.checkpoints import by_age, name_of, seal
from lvf.training.stopping import StoppedError, StopRequest


class Checkpointer(Callback):
    """Save a run's whole state every `every` batches, at `kept` ones, at a stop and at the end.

    Composer's own saver gives a half-written file its final name, and loses the last whole one when
    it is killed while it moves its `latest` link; here the folder `ba0000100` appears by a rename
    when all of it is on disk. The newest `keep` folders stay, those of the `kept` batches always.

    With several ranks, rank 0 gathers and writes one file that any number of ranks can load: with
    Lion, 8 bytes a trained parameter. Full finetuning of 7 B parameters thus needs 54 GB on disk,
    in the memory of rank 0 while it saves, and in that of each rank of a node while a run resumes.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        keep: int,
        end: int,
        kept: Collection[int],
        stop: StopRequest,
    ) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep
        self.end = end
        self.kept = {name_of(batch) for batch in kept}
        self.stop = stop

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Save after this batch if its turn has come, or if the run is asked to stop."""
        batch = state.timestamp.batch.value
        stop = self.stop.is_made(state) and batch != self.end
        if stop or batch % self.every == 0 or batch == self.end or name_of(batch) in self.kept:
            self._save(state, self.folder / name_of(batch))
        if stop:
            raise StoppedError(f"stopped at batch {batch}, which is saved")

    def _save(self, state: State, target: Path) -> None:
        partial = target.with_name(f".{target.name}.partial")
        if dist.get_global_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)  # of a save that was killed
        dist.barrier()
        try:
            # Every rank takes part. DDP takes no notice of Composer's filter for adapters.
            path = str(partial / "rank{rank}.pt")
            save_checkpoint(state, path, ignore_keys=lambda tree: _drop_frozen(tree, state))
            if dist.get_global_rank() == 0:
                seal(partial, target)
                self._prune()
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
            raise
        dist.barrier()

    def _prune(self) -> None:
        passing = [path for path in by_age(self.folder) if path.name not in self.kept]
        for old in passing[: -self.keep]:
            shutil.rmtree(old)


def _drop_frozen(tree: dict[str, Any], state: State) -> None:
    """Leave the base, which no step changes, out of a checkpoint of its adapters."""
    weights = tree["state"]["model"]
    for name, parameter in state.model.named_parameters():
        if not parameter.requires_grad:
            weights.pop(name.removeprefix("module."), None)  # which DDP puts before
