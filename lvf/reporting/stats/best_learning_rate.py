"""The best learning rate of a method, and how sure the records are of it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lvf.reporting.stats.bootstrap import resampled_settings, setting_means, setting_positions

NUM_LEARNING_RATES = 3
"""Learning rates that a best rate between them needs."""
NUM_DRAWS = 4000


@dataclass(frozen=True)
class BestLearningRate:
    """log10 of the rate of the lowest validation loss."""

    value: float
    draws: np.ndarray
    """Bootstrap, (num_draws,)."""


def best_learning_rate(rows: pd.DataFrame) -> BestLearningRate | str:
    """Vertex of the parabola through the lowest validation NLL and its neighbours, in log10(rate).

    A draw whose lowest loss is at an end of the grid counts as that end.

    Args:
        rows: models that differ in rate and seed, at least three rates.

    Returns:
        Why there is none, where the lowest loss is at an end of the grid or has no error.
    """
    rates = np.log10([rows.lr_peak.iloc[setting[0]] for setting in setting_positions(rows)])
    losses = setting_means(rows, "nll_validation")
    lowest = int(losses.argmin())
    if lowest in (0, len(losses) - 1):
        return f"{rows.label.iloc[0]}'s lowest loss is at an end of its rates"
    draws = resampled_settings(rows, ["nll_validation"], NUM_DRAWS)
    if draws is None:
        return "no error is known"
    vertices = np.array([vertex(rates, losses_drawn) for losses_drawn in draws[0].T])
    return BestLearningRate(vertex(rates, losses), vertices)


def vertex(x: np.ndarray, y: np.ndarray) -> float:
    """Place of the minimum of the parabola through the lowest of points and its two neighbours.

    Args:
        x: (num_points,), rising.
        y: (num_points,).
    """
    lowest = int(y.argmin())
    if lowest in (0, len(x) - 1):
        return float(x[lowest])
    left, middle, right = slice(lowest - 1, lowest), lowest, slice(lowest + 1, lowest + 2)
    a, b = (x[middle] - x[left]).item(), (x[middle] - x[right]).item()
    rise, fall = (y[middle] - y[right]).item(), (y[middle] - y[left]).item()
    denominator = a * rise - b * fall
    return (
        float(x[middle])
        if denominator == 0
        else float(x[middle] - 0.5 * (a * a * rise - b * b * fall) / denominator)
    )
