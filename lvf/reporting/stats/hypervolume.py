"""How much of the learning-forgetting plane a method's models cover, in one number."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lvf.reporting.stats.bootstrap import resampled_settings, setting_means
from lvf.reporting.stats.matched import frontier

RETENTION = {"retention": lambda accuracy: accuracy, "nll_source": lambda nats: np.exp(-nats)}
"""Measure of the source domain to a retention from 0 to 1: accuracy itself; e^-NLL is the geometric
mean of the probabilities given to source tokens."""


@dataclass(frozen=True)
class Hypervolume:
    """Share of the unit square of (target score, retention) that a method's models dominate."""

    value: float
    span: tuple[float, float] | None
    """Ends of the 95 % percentile interval of the bootstrap; None where no errors are known."""


def hypervolume(rows: pd.DataFrame, kept: str, num_draws: int = 1000) -> Hypervolume | None:
    """Area below the frontier of one method's settings (Zitzler and Thiele, PPSN 1998).

    The reference point is (0, 0): nothing learned, nothing kept. A setting is a learning rate and a
    duration, the mean over its seeds. The interval repeats the choice of the frontier in every
    resample of items and seeds (`resampled_settings`). A method with more rates had more tries, so
    compare methods over grids of one length.

    Args:
        rows: rows of `models` of one method, not-cooled-down ones left out by the caller.
        kept: `retention` or `nll_source`.
        num_draws: bootstrap draws.

    Returns:
        None where no row has both measures.
    """
    complete = rows[rows.target.notna() & rows[kept].notna()]
    if complete.empty:
        return None
    share = RETENTION[kept]
    value = area(setting_means(complete, "target"), share(setting_means(complete, kept)))
    draws = resampled_settings(complete, ["target", kept], num_draws)
    if draws is None:
        return Hypervolume(value, None)
    areas = [area(x, share(y)) for x, y in zip(draws[0].T, draws[1].T, strict=True)]
    low, high = np.percentile(areas, [2.5, 97.5])
    return Hypervolume(value, (float(low), float(high)))


def area(learning: np.ndarray, retention: np.ndarray) -> float:
    """Area of the union of the rectangles from (0, 0) to each point, both (num_points,)."""
    x, y = frontier(learning, retention)
    return float(np.sum(np.diff(x, prepend=0.0) * y))
