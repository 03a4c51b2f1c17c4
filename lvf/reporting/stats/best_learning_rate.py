"""The best learning rate of a method, and how sure the records are of it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lvf.reporting.stats.contrast import Contrast, linearised, setting_labels

NUM_LEARNING_RATES = 3
"""Learning rates that a best rate between them needs."""


def best_learning_rates(
    models: pd.DataFrame, sides: Sequence[pd.DataFrame], factors: Sequence[float]
) -> Contrast | str:
    """Sum of factor times log10(best rate) over methods.

    A best rate is the vertex of the parabola through the lowest mean validation NLL and its
    neighbours, in log10(rate).

    Args:
        models: all models of the evidence set.
        sides: models of each method that differ in rate and seed, at least three rates.
        factors: of each method.

    Returns:
        Why there is none, where a lowest loss is at an end of the grid.
    """
    settings = [setting_labels(rows) for rows in sides]
    rates = [np.log10([models.lr_peak[labels[0]] for labels in of_side]) for of_side in settings]
    for rows, of_side in zip(sides, settings, strict=True):
        losses = [rows.nll_validation[labels].mean() for labels in of_side]
        if int(np.argmin(losses)) in (0, len(losses) - 1):
            return f"{rows.label.iloc[0]}'s lowest loss is at an end of its rates"
    ends = np.cumsum([len(of_side) for of_side in settings])[:-1]

    def total(means: np.ndarray) -> float:
        losses = np.split(means[:, 0], ends)
        return sum(f * vertex(x, y) for f, x, y in zip(factors, rates, losses, strict=True))

    return linearised(models, [one for x in settings for one in x], ("nll_validation",), total)


def vertex(x: np.ndarray, y: np.ndarray) -> float:
    """Place of the minimum of the parabola through the lowest of points and its two neighbours.

    The lowest point itself where it is at an end.

    Args:
        x: (num_points,), rising.
        y: (num_points,).
    """
    lowest = int(y.argmin())
    if lowest in (0, len(x) - 1):
        return float(x[lowest])
    near = slice(lowest - 1, lowest + 2)
    curve = np.polyfit(x[near] - x[lowest], y[near], 2)
    return float(x[lowest] - curve[1] / (2 * curve[0])) if curve[0] else float(x[lowest])
