"""When a run has diverged: its loss is no number, or far above where it began."""

from __future__ import annotations

import math
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger

FIRST_BATCHES = 10


class DivergedError(Exception):
    """The run has no score: it is kept apart from results."""


class Divergence(Callback):
    """Stop a run whose batch loss is not finite, or above `factor` times its loss at the start.

    The start is the mean of the first ten batches, which a base model has before it has learnt
    anything: a loss well above it is worse than no training, whatever it was in between. A limit
    relative to the latest loss would stop runs that have memorised their data.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.first_losses: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        """The losses at the start, for a resumed run and for branches."""
        return {"first_losses": self.first_losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the losses of the checkpoint."""
        self.first_losses = state["first_losses"]

    def batch_end(self, state: State, logger: Logger) -> None:
        """Check the loss of the whole batch, which every rank knows."""
        loss = state.total_loss_dict["loss/train/total"]
        batch = state.timestamp.batch.value
        if not math.isfinite(loss):
            raise DivergedError(f"training loss is {loss} at batch {batch}")
        if self.first_losses:
            start = sum(self.first_losses) / len(self.first_losses)
            if loss > self.factor * start:
                raise DivergedError(
                    f"training loss is {loss:.3g} at batch {batch}, above {self.factor:g} times "
                    f"its {start:.3g} at the start (runtime.divergence_factor)"
                )
        if len(self.first_losses) < FIRST_BATCHES:
            self.first_losses.append(loss)
