"""Means over seeds, and p values that hold together."""

import math
from collections.abc import Sequence

import numpy as np

from lvf.records.estimate import Estimate


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean over runs that differ in their seed alone; one run has no standard error."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Estimate(mean)
    return Estimate(mean, float(np.std(values, ddof=1)) / math.sqrt(count), count - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values that hold together: Holm's step-down correction (Scand. J. Statist. 6, 1979).

    The chance that any true null hypothesis has an adjusted p below a level is at most that level,
    however the tests depend on each other.
    """
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    steps = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    adjusted = np.empty(len(p_values))
    adjusted[order] = steps
    return [float(p) for p in adjusted]
