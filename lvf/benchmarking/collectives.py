"""How long a step's collectives take: what ranks say to each other."""

from __future__ import annotations

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from torch.profiler import ProfilerActivity, profile

COLLECTIVES = {"gloo": "gloo:", "nccl": "ncclDevKernel"}
"""How the profiler names them, by backend: on the CPU the operation, on a GPU its kernel."""


class CollectiveTime(Callback):
    """Profiles one step. Much of the time may pass beside the backward pass, and while waiting."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.seconds = 0.0
        self._profile: profile | None = None

    def batch_start(self, state: State, logger: Logger) -> None:
        """Start with the step."""
        if state.timestamp.batch.value == self.step - 1:
            on_gpu = torch.cuda.is_available()
            activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
            self._profile = profile(activities=[activity])
            self._profile.start()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Add up what the backend did in it."""
        if self._profile is None:
            return
        self._profile.stop()
        start = COLLECTIVES[state.device.dist_backend]
        events = [one for one in self._profile.events() or () if one.name.startswith(start)]
        self.seconds = sum(one.time_range.elapsed_us() for one in events) / 1e6
        self._profile = None
