"""The bootstrap: what settings of models might have scored with other items and other seeds."""

import functools
import zlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lvf.reporting.stats.contrast import item_scores, parts_of


def setting_positions(rows: pd.DataFrame) -> list[np.ndarray]:
    """Positions of the rows of each setting, all seeds; settings by rising rate, then duration."""
    positions = rows.groupby("setting", sort=True).indices.values()
    return [np.asarray(one) for one in positions]


def setting_means(rows: pd.DataFrame, measure: str) -> np.ndarray:
    """Mean over seeds of each setting, (num_settings,)."""
    values = rows[measure].to_numpy()
    return np.array([values[setting].mean() for setting in setting_positions(rows)])


def resampled_settings(
    rows: pd.DataFrame, measures: Sequence[str], num_draws: int
) -> list[np.ndarray] | None:
    """Bootstrap means over seeds, (num_settings, num_draws) for each measure; None without errors.

    Items are drawn with replacement, the same for every model that answered as many; without items
    a setting's scores come from a normal distribution of the recorded standard error. Seeds are
    drawn with replacement within each setting, one draw for all measures, and their deviations
    widened by sqrt(k / (k - 1)), as k drawn seeds vary too little. Item noise that seeds do not
    share takes part in both draws: the spread is rather too wide than too narrow.
    """
    rng = np.random.default_rng(zlib.crc32(str(rows.label.iloc[0]).encode()))
    scores = []
    for measure in measures:
        drawn = _item_draws(rows, measure, num_draws, rng)
        if drawn is None:
            return None
        scores.append(drawn)
    means: list[list[np.ndarray]] = [[] for _ in measures]
    for setting in setting_positions(rows):
        k = len(setting)
        chosen = rng.integers(k, size=(k, num_draws))
        widen = np.sqrt(k / (k - 1)) if k > 1 else 0.0
        for values, out in zip(scores, means, strict=True):
            centre = values[setting].mean(axis=0)
            resampled = np.take_along_axis(values[setting], chosen, axis=0).mean(axis=0)
            out.append(centre + widen * (resampled - centre))
    return [np.array(one) for one in means]


def _item_draws(
    rows: pd.DataFrame, measure: str, num_draws: int, rng: np.random.Generator
) -> np.ndarray | None:
    """Scores (num_models, num_draws) under resampled items, centred on the recorded scores.

    Without items they are drawn from normal distributions of the recorded standard errors,
    independent between settings and the same for the seeds of one.
    """
    recorded = rows[measure].to_numpy()[:, None]
    scores = item_scores(rows, measure)
    if scores is not None:
        deviations = [
            part @ _item_weights(name, part.shape[1], num_draws) - part.mean(axis=1, keepdims=True)
            for name, part in zip(parts_of(measure), scores, strict=True)
        ]
        return recorded + np.mean(deviations, axis=0)
    errors = rows[f"{measure}_se"].to_numpy()
    if np.isnan(errors).any():
        return None
    drawn = np.empty((len(rows), num_draws))
    for setting in setting_positions(rows):
        drawn[setting] = errors[setting].mean() * rng.standard_normal(num_draws)
    return recorded + drawn


@functools.lru_cache(maxsize=8)
def _item_weights(name: str, num_items: int, num_draws: int) -> np.ndarray:
    """Shares (num_items, num_draws) of each item in each resample, the same for every model."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    drawn = rng.multinomial(num_items, np.full(num_items, 1 / num_items), size=num_draws)
    return drawn.T / num_items
