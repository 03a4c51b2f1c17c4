"""Two methods compared at equal learning along their frontiers."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lvf.records.estimate import Estimate
from lvf.reporting.stats.bootstrap import resampled_settings, setting_means

MORE_IS_BETTER = {"target": 1, "retention": 1, "nll_target": -1, "nll_source": -1}
NUM_LEVELS = 21
NORMAL_QUANTILE = 1.959964
LOST_SHARE = 0.05


@dataclass(frozen=True)
class Matched:
    """Gap in forgetting between two methods at equal learning."""

    value: float
    """The first method minus the second, in the units of the measure compared."""
    low: float
    high: float
    """Ends of the 95 % percentile interval of the bootstrap."""
    levels: tuple[float, float]
    """The compared range of the learning measure: where both frontiers have points."""

    def estimate(self) -> Estimate:
        """The gap with a standard error that gives this interval's width to a normal one."""
        return Estimate(self.value, (self.high - self.low) / 2 / NORMAL_QUANTILE)


@dataclass(frozen=True)
class Undecided:
    """Why the data cannot answer."""

    reason: str


def frontier(learning: np.ndarray, retention: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points that no other point beats on both axes, by rising learning.

    Args:
        learning: (num_points,), more is better.
        retention: (num_points,), more is better.

    Returns:
        Learning (rising) and retention (falling) of those points.
    """
    order = np.lexsort((retention, learning))[::-1]
    best = np.maximum.accumulate(retention[order])
    first = np.concatenate([[True], best[1:] > best[:-1]])
    kept = order[first][::-1]
    return learning[kept], retention[kept]


def gap_at_equal_learning(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float, float] | None:
    """Mean retention of the first minus the second over 21 equal steps of shared learning.

    Each frontier is a piecewise linear curve through its points, never continued beyond them.

    Returns:
        The gap, and the ends of the shared range; None where the ranges do not meet.
    """
    low, high = max(first[0][0], second[0][0]), min(first[0][-1], second[0][-1])
    if low > high:
        return None
    levels = np.linspace(low, high, NUM_LEVELS)
    gap = np.mean(np.interp(levels, *first) - np.interp(levels, *second))
    return float(gap), float(low), float(high)


def matched_learning(
    first: pd.DataFrame,
    second: pd.DataFrame,
    learning: str = "target",
    kept: str = "nll_source",
    num_draws: int = 1000,
) -> Matched | Undecided:
    """Difference in forgetting between two methods where they have learned equally much.

    A method's points are its settings (rate, duration), each the mean over its seeds; `frontier`
    keeps the undominated points and `gap_at_equal_learning` compares the two curves. The interval
    is the 2.5 % to 97.5 % range of a bootstrap (see `resampled_settings`) that repeats all of this.
    With one seed a setting it covers item noise alone. The frontier's choice of points is repeated
    too, yet a method with more points had more tries.

    Args:
        first: rows of `models` of one method, not-cooled-down ones left out by the caller.
        second: likewise, of the other.
        learning: `target` or `nll_target`; the measure that is held equal.
        kept: `retention` or `nll_source`; the measure compared. The two may change places.
        num_draws: bootstrap draws.
    """
    sides = []
    for rows, name in ((first, "first"), (second, "second")):
        complete = rows[rows[learning].notna() & rows[kept].notna()]
        if complete.empty:
            return Undecided(f"the {name} method lacks {learning} or {kept}")
        sides.append(complete)
    signs = MORE_IS_BETTER[learning], MORE_IS_BETTER[kept]
    observed = [
        _points(setting_means(rows, learning), setting_means(rows, kept), signs) for rows in sides
    ]
    gap = gap_at_equal_learning(*observed)
    if gap is None:
        spans = " against ".join(_span(x * signs[0]) for x, _ in observed)
        return Undecided(f"no shared level: {spans}")
    draws = [resampled_settings(rows, (learning, kept), num_draws) for rows in sides]
    known = [one for one in draws if one is not None]
    if len(known) < 2:
        return Undecided("the records keep no errors")
    gaps = []
    for index in range(num_draws):
        again = [_points(x[:, index], y[:, index], signs) for x, y in known]
        resampled = gap_at_equal_learning(*again)
        if resampled is not None:
            gaps.append(resampled[0] * signs[1])
    if len(gaps) < (1 - LOST_SHARE) * num_draws:
        lost = 100 * (1 - len(gaps) / num_draws)
        return Undecided(f"the frontiers barely overlap: not at all in {lost:.0f} % of resamples")
    low, high = np.percentile(gaps, [2.5, 97.5])
    ends = sorted((gap[1] * signs[0], gap[2] * signs[0]))
    return Matched(gap[0] * signs[1], float(low), float(high), (ends[0], ends[1]))


def _points(x: np.ndarray, y: np.ndarray, signs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return frontier(x * signs[0], y * signs[1])


def _span(x: np.ndarray) -> str:
    return f"{x.min():.3f} to {x.max():.3f}"
