"""What Composer leaves undone when a run continues in the middle of an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import reproducibility

if TYPE_CHECKING:
    from composer import Trainer


class RestoreRandomState(Callback):
    """Give the first batch after a resume the random state of the checkpoint.

    Composer 0.32 restores it only while it skips the batches of an epoch that were seen; a
    StreamingDataLoader resumes by itself, nothing is skipped, and dropout would draw other masks.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """Restore once, after the loader has drawn its own random numbers."""
        if self.trainer._rng_state is not None:
            reproducibility.load_rng_state(self.trainer._rng_state)
            self.trainer._rng_state = None
