"""Divides the time of each training step among its parts, while Composer trains."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from composer.core import Callback, State
from composer.loggers import Logger

PARTS = ("data", "forward", "backward", "optimiser", "other")
"""Which sum to the step. Forward has the loss, the optimiser the clipping; other is what the
trainer does between them: copying to the device, counting, logging, the schedule."""
STEP = "step"
"""The mark at the end of a step."""


@dataclass
class Steps:
    """What was measured of each step, (num_steps,)."""

    seconds: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PARTS})
    tokens: list[int] = field(default_factory=list)
    """Without padding, on all ranks."""
    own_tokens: list[int] = field(default_factory=list)
    """The same on this rank."""
    own_pairs: list[int] = field(default_factory=list)
    """Pairs of a token and one that it sees, itself among them, on this rank."""
    own_places: list[int] = field(default_factory=list)
    """Tokens and padding on this rank."""

    def some(self, start: int, end: int) -> Steps:
        """Of the steps from `start` to before `end`."""
        parts = {name: values[start:end] for name, values in self.parts.items()}
        names = ("seconds", "tokens", "own_tokens", "own_pairs", "own_places")
        return Steps(parts=parts, **{name: getattr(self, name)[start:end] for name in names})


class StepClock(Callback):
    """Marks the end of each part of a step; the time between two marks belongs to the latter.

    A step lasts from the end of the one before to its own. On a GPU the marks are events in its
    stream: they say when the device came there, and make it wait for nothing. It must be the last
    of the callbacks, so that what the others do is timed.
    """

    def __init__(self) -> None:
        self.steps = Steps()
        self._on_gpu = torch.cuda.is_available()
        self._marks: list[tuple[str, Any]] = []
        self._last_tokens = 0

    def fit_start(self, state: State, logger: Logger) -> None:
        """Start; ask to be told of the optimiser's steps, which Composer has no event for."""
        state.optimizers[0].register_step_post_hook(lambda *_: self._mark("optimiser"))
        self._mark("other")

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """The step before, or the start, is over."""
        self._mark("other")

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """The batch is there, on the CPU still; count what is in it."""
        self._mark("data")
        num_tokens = state.batch["num_tokens"].numpy()
        positions = state.batch["position_ids"].numpy()
        real = np.arange(positions.shape[1]) < num_tokens[:, None]
        self.steps.own_tokens.append(int(num_tokens.sum()))
        self.steps.own_pairs.append(int((positions + 1)[real].sum()))
        self.steps.own_places.append(positions.size)

    def before_forward(self, state: State, logger: Logger) -> None:
        """The microbatch is on the device."""
        self._mark("other")

    def after_loss(self, state: State, logger: Logger) -> None:
        """Its loss is computed."""
        self._mark("forward")

    def after_backward(self, state: State, logger: Logger) -> None:
        """Its gradients are computed."""
        self._mark("backward")

    def batch_end(self, state: State, logger: Logger) -> None:
        """The step ends."""
        self._mark(STEP)
        tokens = state.timestamp.token.value
        self.steps.tokens.append(tokens - self._last_tokens)
        self._last_tokens = tokens

    def fit_end(self, state: State, logger: Logger) -> None:
        """Turn marks into seconds."""
        if self._on_gpu:
            torch.cuda.synchronize()
        spent: dict[str, float] = defaultdict(float)
        _, step_start = self._marks[0]
        for (_, start), (name, end) in itertools.pairwise(self._marks):
            spent["other" if name == STEP else name] += self._seconds(start, end)
            if name == STEP:
                self.steps.seconds.append(self._seconds(step_start, end))
                for part in PARTS:
                    self.steps.parts[part].append(spent.pop(part, 0.0))
                step_start = end

    def _seconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) / 1000 if self._on_gpu else end - start

    def _mark(self, name: str) -> None:
        if self._on_gpu:
            now: Any = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((name, now))
