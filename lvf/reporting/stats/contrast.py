"""Weighted sums of measured models, such as a difference or a slope, with their uncertainty."""

import math

import numpy as np
import pandas as pd

from lvf.records.checkpoints import names
from lvf.records.estimate import Estimate
from lvf.records.store import items


def contrast(models: pd.DataFrame, measure: str, weights: pd.Series) -> Estimate | None:
    """Sum of weight times score over models, with the noise of items and of seeds.

    Item noise is paired: the weighted sum is formed item by item wherever models answered the
    same items. Scores without items count as independent, but for seeds of one setting, which
    share their noise. Seed noise adds w^2 s^2 / k for every trained setting, s^2 its variance over
    k seeds; a setting of one seed takes the variance pooled over the others, and where no setting
    has two seeds the error is that of items alone. Degrees of freedom are Welch and
    Satterthwaite's, items counting as infinitely many.

    Args:
        models: rows as of `lvf.records.checkpoints.models`.
        measure: a measure with its columns _se, _path and _metric.
        weights: weight by row label; the seeds of a setting have equal weights.

    Returns:
        None where a weighted model lacks the measure.
    """
    weights = weights[weights != 0]
    ends = [name + end for name in parts_of(measure) for end in ("_path", "_metric", "_n")]
    needed = dict.fromkeys([measure, f"{measure}_se", *ends, "setting", "method"])
    rows = models.loc[weights.index, list(needed)]
    if rows.empty or rows[measure].isna().any():
        return None
    value = float((weights * rows[measure]).sum())
    noise = _item_variance(rows, measure, weights)
    seeds, slack = _seed_variance(rows, measure, weights)
    if noise is None:
        return Estimate(value)
    total = noise + seeds
    return Estimate(value, math.sqrt(total), total * total / slack if slack > 0 else math.inf)


def evenly(rows: pd.DataFrame) -> pd.Series:
    """Weights of a mean over settings: each setting alike, and each seed within it."""
    _, setting, seeds = np.unique(rows.setting, return_inverse=True, return_counts=True)
    shares = 1 / seeds[setting]
    return pd.Series(shares / shares.sum(), index=rows.index)


def combined(*terms: tuple[float, pd.Series]) -> pd.Series:
    """Sum of factor times weights, as one set of weights."""
    total = pd.Series(dtype="float64")
    for factor, weights in terms:
        total = total.add(factor * weights, fill_value=0.0)
    return total


def parts_of(measure: str) -> list[str]:
    """The measures that have items of their own: an average has those of its parts."""
    return names().retention if measure == "retention" else [measure]


def item_scores(rows: pd.DataFrame, measure: str) -> list[np.ndarray] | None:
    """Items of each part of a measure, (num_models, num_items); None where one lacks them."""
    parts = []
    for name in parts_of(measure):
        if rows[f"{name}_path"].isna().any():
            return None
        where = zip(rows[f"{name}_path"], rows[f"{name}_metric"], strict=True)
        scores = [items(path, metric) for path, metric in where]
        found = [one for one in scores if one is not None]
        if len({len(one) for one in found}) != 1:
            return None
        parts.append(np.stack(found))
    return parts


def _item_variance(rows: pd.DataFrame, measure: str, weights: pd.Series) -> float | None:
    """Variance of the weighted sum over items; None where a score has no error."""
    parts = parts_of(measure)
    answered = rows[[f"{name}_path" for name in parts]].notna().all(axis=1).to_numpy()
    sizes = rows[[f"{name}_n" for name in parts]].apply(tuple, axis=1)  # of one: the same items
    lone = [rows[~answered]]
    total = 0.0
    for _, group in rows[answered].groupby(sizes[answered], sort=False):
        scores = item_scores(group, measure)
        if scores is None:
            lone.append(group)
            continue
        by_item = [weights[group.index].to_numpy() @ part for part in scores]
        total += sum(x.var(ddof=1) / len(x) for x in by_item) / len(by_item) ** 2
    for group in lone:
        shares, errors = weights[group.index].to_numpy(), group[f"{measure}_se"].to_numpy()
        if np.isnan(errors).any():
            return None
        for setting in _setting_positions(group):
            total += float(shares[setting].sum() * errors[setting].mean()) ** 2
    return total


def _seed_variance(rows: pd.DataFrame, measure: str, weights: pd.Series) -> tuple[float, float]:
    """Variance of the weighted sum over seeds, and sum of variance^2 / dof of its terms."""
    trained = rows[rows.method != "base"]
    scores, shares = trained[measure].to_numpy(), weights[trained.index].to_numpy()
    settings = _setting_positions(trained)
    known = [scores[setting] for setting in settings if len(setting) > 1]
    if not known:
        return 0.0, 0.0
    dof = sum(len(one) - 1 for one in known)
    pooled = sum(one.var(ddof=1) * (len(one) - 1) for one in known) / dof
    total, slack, borrowed = 0.0, 0.0, 0.0
    for setting in settings:
        share = shares[setting].sum() ** 2 / len(setting)
        if len(setting) == 1:
            borrowed += share * pooled
            continue
        one = share * scores[setting].var(ddof=1)
        total += one
        slack += one * one / (len(setting) - 1)
    return float(total + borrowed), float(slack + borrowed * borrowed / dof)


def _setting_positions(rows: pd.DataFrame) -> list[np.ndarray]:
    """Positions of the rows of each setting."""
    settings = rows.setting.to_numpy()
    return [np.flatnonzero(settings == setting) for setting in np.unique(settings)]
