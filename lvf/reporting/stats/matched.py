"""Two methods compared: at their chosen rates, and at equal learning along their frontiers."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lvf.records.estimate import Estimate
from lvf.reporting.stats.bootstrap import cell_means, resampled_cells
from lvf.reporting.stats.contrast import combined, contrast, evenly

MORE_IS_BETTER = {"target": 1, "forgetting": 1, "nll_target": -1, "nll_source": -1}
NUM_LEVELS = 21
NORMAL_QUANTILE = 1.959964
LOST_SHARE = 0.05


@dataclass(frozen=True)
class Matched:
    """Gap in forgetting between two methods at equal learning."""

    value: float
    """Ours minus theirs, in the units of the forgetting measure."""
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


def difference(ours: pd.DataFrame, theirs: pd.DataFrame, measure: str) -> Estimate | None:
    """Mean of our seeds minus mean of theirs on one measure, paired by item; see `contrast`.

    Args:
        ours: rows of `models` that differ in their seed alone.
        theirs: likewise.
        measure: one of `lvf.records.checkpoints.measures`.

    Returns:
        None where a model lacks the measure.
    """
    weights = combined((1, evenly(ours)), (-1, evenly(theirs)))
    return contrast(pd.concat([ours, theirs]), measure, weights)


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
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float, float] | None:
    """Mean of our retention minus theirs over 21 equal steps of the shared range of learning.

    Each frontier is a piecewise linear curve through its points, never continued beyond them.

    Returns:
        The gap, and the ends of the shared range; None where the ranges do not meet.
    """
    low, high = max(ours[0][0], theirs[0][0]), min(ours[0][-1], theirs[0][-1])
    if low > high:
        return None
    levels = np.linspace(low, high, NUM_LEVELS)
    gap = np.mean(np.interp(levels, *ours) - np.interp(levels, *theirs))
    return float(gap), float(low), float(high)


def matched_learning(
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    learning: str = "target",
    forgetting: str = "nll_source",
    num_draws: int = 1000,
) -> Matched | Undecided:
    """Difference in forgetting between two methods where they have learned equally much.

    A method's points are its cells (rate, duration), each the mean over its seeds; `frontier` keeps
    the undominated ones and `gap_at_equal_learning` compares the two curves. The interval is the
    2.5 % to 97.5 % range of a bootstrap (see `resampled_cells`) that repeats all of this. With one
    seed a cell it covers item noise alone. The frontier's choice of points is repeated too, yet a
    method with more points had more tries.

    Args:
        ours: rows of `models` of one method, not-cooled-down ones left out by the caller.
        theirs: likewise of the other.
        learning: `target` or `nll_target`; the measure that is held equal.
        forgetting: `forgetting` or `nll_source`; the one compared. The two may change places.
        num_draws: bootstrap draws.
    """
    sides = []
    for rows, told in ((ours, "first"), (theirs, "second")):
        complete = rows[rows[learning].notna() & rows[forgetting].notna()]
        if complete.empty:
            return Undecided(f"the {told} method lacks {learning} or {forgetting}")
        sides.append(complete)
    signs = MORE_IS_BETTER[learning], MORE_IS_BETTER[forgetting]
    observed = [
        _points(cell_means(rows, learning), cell_means(rows, forgetting), signs) for rows in sides
    ]
    gap = gap_at_equal_learning(*observed)
    if gap is None:
        spans = " against ".join(_span(x * signs[0]) for x, _ in observed)
        return Undecided(f"no shared level: {spans}")
    draws = [resampled_cells(rows, (learning, forgetting), num_draws) for rows in sides]
    known = [one for one in draws if one is not None]
    if len(known) < 2:
        return Undecided("the records keep no errors")
    found = []
    for index in range(num_draws):
        again = [_points(x[:, index], y[:, index], signs) for x, y in known]
        one = gap_at_equal_learning(*again)
        if one is not None:
            found.append(one[0] * signs[1])
    if len(found) < (1 - LOST_SHARE) * num_draws:
        lost = 100 * (1 - len(found) / num_draws)
        return Undecided(f"the frontiers barely overlap: not at all in {lost:.0f} % of resamples")
    low, high = np.percentile(found, [2.5, 97.5])
    ends = sorted((gap[1] * signs[0], gap[2] * signs[0]))
    return Matched(gap[0] * signs[1], float(low), float(high), (ends[0], ends[1]))


def _points(x: np.ndarray, y: np.ndarray, signs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return frontier(x * signs[0], y * signs[1])


def _span(x: np.ndarray) -> str:
    return f"{x.min():.3f} to {x.max():.3f}"
