"""How long torch.compile works, and in which steps."""

from __future__ import annotations

import itertools

from composer.core import Callback, State
from composer.loggers import Logger

from lvf.records.schema import Metric

PHASES = ("entire_frame_compile", "entire_backward_compile")
"""Which dynamo times; the others are parts of these."""


class CompileTime(Callback):
    """Tells the compiler's time from that of the steps in which it works."""

    def __init__(self) -> None:
        self._spent: list[float] = []

    def fit_start(self, state: State, logger: Logger) -> None:
        """What was compiled before does not count."""
        self._mark()

    def batch_end(self, state: State, logger: Logger) -> None:
        """See what the step has added."""
        self._mark()

    def metric(self) -> Metric:
        """Seconds of all steps, and each step's as items; cached kernels take less."""
        steps = [after - before for before, after in itertools.pairwise(self._spent)]
        return Metric(value=sum(steps), n=len(steps), items=steps)

    def _mark(self) -> None:
        from torch._dynamo.utils import cumulative_time_spent_ns as spent_ns

        self._spent.append(sum(spent_ns.get(phase, 0.0) for phase in PHASES) / 1e9)
