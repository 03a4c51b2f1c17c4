"""How much of the learning-forgetting plane a method's models cover, in one number."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lvf.reporting.stats.bootstrap import cell_means, resampled_cells
from lvf.reporting.stats.matched import frontier

RETENTION = {"forgetting": lambda accuracy: accuracy, "nll_source": lambda nats: np.exp(-nats)}
"""Measure of forgetting to a retention from 0 to 1: accuracy itself; e^-NLL is the geometric mean
of the probabilities given to source tokens."""


@dataclass(frozen=True)
class Hypervolume:
    """Share of the unit square of (target score, retention) that a method's models dominate."""

    value: float
    span: tuple[float, float] | None
    """Ends of the 95 % percentile interval of the bootstrap; None where no errors are known."""


def hypervolume(rows: pd.DataFrame, forgetting: str, num_draws: int = 1000) -> Hypervolume | None:
    """Area below the frontier of one method's cells (Zitzler and Thiele, PPSN 1998).

    The reference point is (0, 0): nothing learned, nothing kept. A cell is a rate and a duration,
    the mean over its seeds. The interval repeats the choice of the frontier in every resample of
    items and seeds (`resampled_cells`). A method with more rates had more tries, so compare methods
    over ladders of one length.

    Args:
        rows: rows of `models` of one method, not-cooled-down ones left out by the caller.
        forgetting: `forgetting` or `nll_source`.
        num_draws: bootstrap draws.

    Returns:
        None where no row has both measures.
    """
    complete = rows[rows.target.notna() & rows[forgetting].notna()]
    if complete.empty:
        return None
    kept = RETENTION[forgetting]
    value = area(cell_means(complete, "target"), kept(cell_means(complete, forgetting)))
    draws = resampled_cells(complete, ["target", forgetting], num_draws)
    if draws is None:
        return Hypervolume(value, None)
    areas = [area(x, kept(y)) for x, y in zip(draws[0].T, draws[1].T, strict=True)]
    low, high = np.percentile(areas, [2.5, 97.5])
    return Hypervolume(value, (float(low), float(high)))


def area(learning: np.ndarray, retention: np.ndarray) -> float:
    """Area of the union of the rectangles from (0, 0) to each point, both (num_points,)."""
    x, y = frontier(learning, retention)
    return float(np.sum(np.diff(x, prepend=0.0) * y))
