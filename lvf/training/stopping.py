"""Time limits, preemption and Ctrl-C: a signal asks a run to stop; it saves after its batch."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.core import State

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
"""Slurm sends, before it ends a job, SIGTERM by itself, SIGUSR2 because our scripts ask so; a
terminal sends SIGINT on Ctrl-C."""

TRY_AGAIN = 75
"""Exit status of a stopped run: EX_TEMPFAIL of BSD's sysexits.h."""


class StoppedError(Exception):
    """The run has saved its state and wants to be started again."""


class StopRequest:
    """Context manager that records `SIGNALS`, and dies only of a second Ctrl-C."""

    def __init__(self) -> None:
        self._received: tuple[int, FrameType | None] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Start listening."""
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Stop listening; hand on what a stopped run has received to whoever listened before.

        submitit puts a job that it started back into the queue in its own handler of SIGUSR2.
        """
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, SystemExit) and error.code == TRY_AGAIN and self._received:
            before = self._before[self._received[0]]
            if self._received[0] == signal.SIGUSR2 and callable(before):
                before(*self._received)

    @property
    def received(self) -> bool:
        """Whether this process has been asked to stop."""
        return self._received is not None

    def is_made(self, state: State) -> bool:
        """Whether any rank has been asked to stop; every rank must call this together."""
        import torch
        from composer.utils import dist

        asked = torch.tensor([int(self.received)], dtype=torch.uint8)
        asked = state.device.tensor_to_device(asked)
        dist.all_reduce(asked, reduce_operation="MAX")
        return bool(asked.item())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt
        self._received = (number, frame)
