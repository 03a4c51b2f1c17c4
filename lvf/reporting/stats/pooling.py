"""Estimates of several conditions as a random-effects mean, and p values that hold together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc

from lvf.records.estimate import Estimate


@dataclass(frozen=True)
class Pooled:
    """Mean over conditions that differ by more than noise."""

    mean: Estimate
    """With the spread between conditions in its error."""
    spread: float
    """Standard deviation of the true values between conditions; zero for a single condition."""
    p_spread: float
    """p of "all conditions have the same true value"; 1 for a single condition."""


def random_effects(conditions: Sequence[Estimate], mean: Estimate) -> Pooled:
    """Unweighted random-effects mean (Hedges and Olkin 1985), with a t interval.

    Its variance is the larger of that of noise alone, T, and s^2/J + C: s^2 is the sample variance
    of the J conditions, and C the part of T that comes from what the conditions share (their
    items). Without C this is the t test of J numbers, as in Hartung and Knapp. Equal weights,
    because the noise differs little between conditions, and estimated weights make intervals of
    few conditions too narrow. The spread is tested by Welch's analysis of variance (Biometrika 38,
    1951), which allows unequal errors of few degrees of freedom.

    Args:
        conditions: an estimate each, all with errors.
        mean: their mean with the error of noise alone.
    """
    count = len(conditions)
    if count < 2 or mean.stderr is None:
        return Pooled(mean, 0.0, 1.0)
    values = np.array([one.value for one in conditions])
    variances = np.array([one.stderr or 0.0 for one in conditions]) ** 2
    noise = mean.stderr**2
    between = float(values.var(ddof=1)) / count
    shared = noise - float(variances.sum()) / count**2
    whole = between + shared
    spread = math.sqrt(max(0.0, count * (whole - noise)))
    if whole > noise:
        dof = min((count - 1) * whole / between, mean.dof)
        mean = Estimate(mean.value, math.sqrt(whole), dof)
    return Pooled(mean, spread, _welch(values, variances, [one.dof for one in conditions]))


def _welch(values: np.ndarray, variances: np.ndarray, dofs: Sequence[float]) -> float:
    """p of Welch's test that several independent numbers have one true value."""
    if (variances == 0).any():
        return 1.0 if np.ptp(values) == 0 else 0.0
    count = len(values)
    weights = 1 / variances
    shares = weights / weights.sum()
    between = float(weights @ (values - shares @ values) ** 2) / (count - 1)
    lost = float(np.sum((1 - shares) ** 2 / np.asarray(dofs)))
    statistic = between / (1 + 2 * (count - 2) / (count**2 - 1) * lost)
    dof = (count**2 - 1) / (3 * lost) if lost else np.inf
    return float(fdtrc(count - 1, min(dof, 1e9), statistic))


def holm(p_values: Sequence[float], total: int | None = None) -> list[float]:
    """p values that hold together: Holm's step-down correction (Scand. J. Statist. 6, 1979).

    The chance that any true null hypothesis has an adjusted p below a level is at most that level,
    however the tests depend on each other.

    Args:
        p_values: of the tests made.
        total: number of tests planned; those that were not made count as p = 1.
    """
    order = np.argsort(p_values)
    factors = (total or len(p_values)) - np.arange(len(p_values))
    steps = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    adjusted = np.empty(len(p_values))
    adjusted[order] = steps
    return [float(p) for p in adjusted]
