"""A number with its standard error, and differences paired by benchmark item."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error (None: unknown) and its degrees of freedom."""

    value: float
    stderr: float | None = None
    dof: float = math.inf
    """Of the standard error; infinite where it comes from many items."""

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Student-t interval of this level; None without a standard error."""
        if self.stderr is None:
            return None
        quantile = float(stdtrit(min(self.dof, 1e9), (1 + level) / 2))
        half = quantile * self.stderr
        return self.value - half, self.value + half

    def p_above(self) -> float | None:
        """One-sided p of "the truth is not above zero"; None without a standard error."""
        if self.stderr is None:
            return None
        if self.stderr == 0:
            return 0.5 if self.value == 0 else float(self.value < 0)
        return float(stdtr(min(self.dof, 1e9), -self.value / self.stderr))

    def p_two_sided(self) -> float | None:
        """Two-sided p of "the truth is zero"; None without a standard error."""
        above = Estimate(abs(self.value), self.stderr, self.dof).p_above()
        return None if above is None else 2 * above


def paired_difference(scores: np.ndarray, others: np.ndarray) -> Estimate:
    """Mean of `scores - others`, each (num_items,), with the standard error of paired items.

    Raises:
        ValueError: the arrays are not of one length of at least 2.
    """
    if scores.shape != others.shape or scores.ndim != 1 or len(scores) < 2:
        raise ValueError(f"cannot pair items of shapes {scores.shape} and {others.shape}")
    difference = scores - others
    stderr = difference.std(ddof=1) / math.sqrt(len(difference))
    return Estimate(float(difference.mean()), float(stderr))


def mean_of(parts: Sequence[Estimate]) -> Estimate:
    """Mean of independent estimates: stderr = sqrt(sum of squares) / number of parts."""
    value = float(np.mean([one.value for one in parts]))
    known = [one.stderr for one in parts if one.stderr is not None]
    if len(known) < len(parts):
        return Estimate(value)
    return Estimate(value, math.sqrt(sum(se * se for se in known)) / len(parts))
