"""Saves the whole state of a run while it trains, in Composer's terms."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from composer.utils.checkpoint import save_checkpoint

from lvf.training.checkpoints import by_age, name_of, seal


class Checkpointer(Callback):
    """Save the whole state of a run every `every` batches, at its end, and at `kept` batches.

    Composer's own saver gives a half-written file its final name, and loses the last whole one when
    it is killed while it moves its `latest` link; here the folder `ba0000100` appears by a rename
    when all of it is on disk. The newest `keep` folders stay, those of the `kept` batches always.
    """

    def __init__(
        self, folder: Path, every: int, keep: int, end: int, kept: Collection[int]
    ) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep
        self.end = end
        self.kept = {name_of(batch) for batch in kept}

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Save after this batch if its turn has come."""
        batch = state.timestamp.batch.value
        if batch % self.every and batch != self.end and name_of(batch) not in self.kept:
            return
        target = self.folder / name_of(batch)
        if not target.exists():
            self._save(state, target)

    def _save(self, state: State, target: Path) -> None:
        partial = target.with_name(f".{target.name}.partial")
        if dist.get_global_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)  # of a save that was killed
        dist.barrier()
        try:
            save_checkpoint(state, str(partial / "rank{rank}.pt"))  # every rank takes part
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
