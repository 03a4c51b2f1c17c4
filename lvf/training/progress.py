"""What a run shows while it trains: a bar, and the batch in its status file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from composer.core import Callback, State
from composer.loggers import Logger

from lvf.runs.run_folder import RUNNING, RunFolder, is_rank_zero

if TYPE_CHECKING:
    from tqdm import tqdm

STATUS_EVERY_SECONDS = 1.0


class Progress(Callback):
    """One bar for the whole run: batches, loss, tokens a second (padding apart)."""

    def __init__(self, folder: RunFolder, total_batches: int) -> None:
        self.folder = folder
        self.total_batches = total_batches
        self._bar: tqdm | None = None
        self._tokens_at_start = 0
        self._began = self._last_status = 0.0

    def fit_start(self, state: State, logger: Logger) -> None:
        """Start the bar where the run starts."""
        from tqdm import tqdm

        done = state.timestamp.batch.value
        self._bar = tqdm(
            total=self.total_batches,
            initial=done,
            unit="ba",
            mininterval=0.5,
            disable=not is_rank_zero(),
        )
        self._tokens_at_start = state.timestamp.token.value
        self._began = time.monotonic()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Move the bar; write the batch for whoever watches from outside."""
        assert self._bar is not None
        now = time.monotonic()
        speed = (state.timestamp.token.value - self._tokens_at_start) / (now - self._began)
        loss = float(state.total_loss_dict["loss/train/total"])
        self._bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} tokens/s", refresh=False)
        self._bar.update()
        if is_rank_zero() and now - self._last_status >= STATUS_EVERY_SECONDS:
            self.folder.write_status(RUNNING, batch=state.timestamp.batch.value)
            self._last_status = now

    def fit_end(self, state: State, logger: Logger) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()
