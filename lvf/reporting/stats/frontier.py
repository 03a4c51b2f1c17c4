"""Learning against forgetting along frontiers: gaps at equal learning, and the plane covered."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from lvf.records.schema import ALTERATIONS
from lvf.reporting.stats.contrast import Contrast, linearised, setting_labels

MORE_IS_BETTER = {"target": 1, "retention": 1, "nll_target": -1, "nll_source": -1}
NUM_LEVELS = 21
RETENTION = {"retention": lambda accuracy: accuracy, "nll_source": lambda nats: np.exp(-nats)}
"""Measure of the source domain to a retention from 0 to 1: accuracy itself; e^-NLL is the geometric
mean of the probabilities given to source tokens."""


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
) -> float | None:
    """Mean retention of the first minus the second over 21 equal steps of shared learning.

    Each frontier is a piecewise linear curve through its points, never continued beyond them.

    Returns:
        None where the ranges of learning do not meet.
    """
    low, high = max(first[0][0], second[0][0]), min(first[0][-1], second[0][-1])
    if low > high:
        return None
    levels = np.linspace(low, high, NUM_LEVELS)
    return float(np.mean(np.interp(levels, *first) - np.interp(levels, *second)))


def matched_learning(
    models: pd.DataFrame,
    first: pd.DataFrame,
    second: pd.DataFrame,
    learning: str = "target",
    kept: str = "nll_source",
) -> Contrast | str:
    """Retention of the first method minus the second where they have learned equally much.

    A method's points are its settings (rate, duration), each the mean over its seeds; `frontier`
    keeps the undominated points and `gap_at_equal_learning` compares the two curves. Positive: the
    first method forgets less. Its error is that of the delta method, with the choice of the points
    held; a method with more points had more tries.

    Args:
        models: all models of the evidence set.
        first: rows of one method, not-cooled-down ones left out by the caller.
        second: likewise, of the other.
        learning: `target` or `nll_target`; the measure that is held equal.
        kept: `retention` or `nll_source`; the measure compared. The two may change places.

    Returns:
        Why there is none, where the two never learned equally much.
    """
    sides = [rows.dropna(subset=[learning, kept]) for rows in (first, second)]
    for rows, name in zip(sides, ("first", "second"), strict=True):
        if rows.empty:
            return f"the {name} method lacks {learning} or {kept}"
    settings = [setting_labels(rows) for rows in sides]
    signs = np.array([MORE_IS_BETTER[learning], MORE_IS_BETTER[kept]])

    def gap(means: np.ndarray) -> float:
        points = np.split(means * signs, [len(settings[0])])
        found = gap_at_equal_learning(*(frontier(*side.T) for side in points))
        return np.nan if found is None else found

    found = linearised(models, [*settings[0], *settings[1]], (learning, kept), gap)
    if not np.isnan([found.value, *(x for t in found.terms.values() for x in t.weights)]).any():
        return found
    spans = [f"{rows[learning].min():.3f} to {rows[learning].max():.3f}" for rows in sides]
    return f"no shared level of learning: {' against '.join(spans)}"


def along_strength(
    models: pd.DataFrame, altered: pd.DataFrame
) -> Iterator[tuple[str, str, Contrast | str]]:
    """Every main method along strength against every main method along training.

    Yields the label of the method whose longest trained update was scaled, that of the trained
    method, and `matched_learning` of both: positive where the scaled method forgets less.

    Args:
        models: of one group, as in `lvf.reporting.select.selection.Selection`.
        altered: of the same group, likewise.
    """
    both = pd.concat([models, altered])
    usable = both[(both.role == "main") & both.is_drawn & both.cooled_down]
    scaled = usable[usable.strength.notna()]
    trained = usable[usable[list(ALTERATIONS)].isna().all(axis=1)]
    for label, first in scaled.groupby("label"):
        first = first[first.duration == first.duration.max()]
        for other, second in trained.groupby("label"):
            yield str(label), str(other), matched_learning(both, first, second)


def hypervolume(
    models: pd.DataFrame, rows: pd.DataFrame, kept: str, base_score: float
) -> Contrast | None:
    """Area below the frontier of one method's settings (Zitzler and Thiele, PPSN 1998).

    The reference point is the base's target score and a retention of zero: what the base could do
    already counts nothing, and the base itself has no area. A method with more rates had more
    tries, so compare methods over grids of one length.

    Args:
        models: all models of the evidence set.
        rows: of one method, not-cooled-down ones left out by the caller.
        kept: `retention` or `nll_source`.
        base_score: target score of the base model.

    Returns:
        None where no row has both measures.
    """
    complete = rows.dropna(subset=["target", kept])
    if complete.empty:
        return None

    def covered(means: np.ndarray) -> float:
        return area(means[:, 0] - base_score, RETENTION[kept](means[:, 1]))

    return linearised(models, setting_labels(complete), ("target", kept), covered)


def area(learning: np.ndarray, retention: np.ndarray) -> float:
    """Area of the union of the rectangles from (0, 0) to each point, both (num_points,)."""
    x, y = frontier(np.maximum(learning, 0.0), retention)
    return float(np.sum(np.diff(x, prepend=0.0) * y))
