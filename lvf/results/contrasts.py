"""Weighted sums of measured models, such as a difference or a slope, with their uncertainty."""

import math

import numpy as np
import pandas as pd

from lvf.results.cells import CELL
from lvf.results.measured import GROUP, names
from lvf.results.statistics import Estimate
from lvf.results.store import items

SEEDLESS = [*GROUP, *CELL]
"""Models that agree in these differ in their seed alone."""


def contrast(models: pd.DataFrame, measure: str, weights: pd.Series) -> Estimate | None:
    """Sum of weight times score over models, with the noise of items and of seeds.

    Item noise is paired: the weighted sum is formed item by item wherever models answered the
    same items. Scores without items count as independent, but for seeds of one cell, which share
    theirs. Seed noise adds w^2 s^2 / k for every trained cell, s^2 its variance over k seeds; a
    cell of one seed takes the variance pooled over the others, and where no cell has two seeds
    the error is that of items alone. Degrees of freedom are Welch and Satterthwaite's, items
    counting as infinitely many.

    Args:
        models: rows as of `lvf.results.measured.models`.
        measure: a measure with its columns _se, _path and _metric.
        weights: weight by row label; the seeds of a cell have equal weights.

    Returns:
        None where a weighted model lacks the measure.
    """
    weights = weights[weights != 0]
    rows = models.loc[weights.index]
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
    """Weights of a mean over cells: each cell alike, and each seed within it."""
    seeds = rows.groupby(SEEDLESS, dropna=False, sort=False).run_id.transform("size")
    return 1 / seeds / (1 / seeds).sum()


def combined(*terms: tuple[float, pd.Series]) -> pd.Series:
    """Sum of factor times weights, as one set of weights."""
    total = pd.Series(dtype="float64")
    for factor, weights in terms:
        total = total.add(factor * weights, fill_value=0.0)
    return total


def parts_of(measure: str) -> list[str]:
    """The measures that have items of their own: an average has those of its parts."""
    return names().forgetting if measure == "forgetting" else [measure]


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
    total = 0.0
    lone = []
    shapes = rows.apply(lambda row: _shape(row, measure), axis=1)
    for shape, group in rows.groupby(shapes, sort=False):
        scores = item_scores(group, measure) if shape else None
        if scores is None:
            lone.append(group)
            continue
        by_item = [weights[group.index].to_numpy() @ part for part in scores]
        total += sum(x.var(ddof=1) / len(x) for x in by_item) / len(by_item) ** 2
    for group in lone:
        for _, cell in group.groupby(SEEDLESS, dropna=False, sort=False):
            error = cell[f"{measure}_se"].mean()
            if math.isnan(error):
                return None
            total += (weights[cell.index].sum() * error) ** 2
    return total


def _shape(row: pd.Series, measure: str) -> str:
    """Numbers of items of a model's parts: models of one shape answered the same items."""
    parts = parts_of(measure)
    if any(pd.isna(row[f"{name}_path"]) for name in parts):
        return ""
    return ",".join(f"{row[f'{name}_n']:g}" for name in parts)


def _seed_variance(rows: pd.DataFrame, measure: str, weights: pd.Series) -> tuple[float, float]:
    """Variance of the weighted sum over seeds, and sum of variance^2 / dof of its terms."""
    trained = rows[rows.method != "base"]
    cells = [cell for _, cell in trained.groupby(SEEDLESS, dropna=False, sort=False)]
    known = [cell[measure] for cell in cells if len(cell) > 1]
    if not known:
        return 0.0, 0.0
    dof = sum(len(one) - 1 for one in known)
    pooled = sum(one.var(ddof=1) * (len(one) - 1) for one in known) / dof
    total, slack, borrowed = 0.0, 0.0, 0.0
    for cell in cells:
        share = weights[cell.index].sum() ** 2 / len(cell)
        if len(cell) == 1:
            borrowed += share * pooled
            continue
        one = share * cell[measure].var(ddof=1)
        total += one
        slack += one * one / (len(cell) - 1)
    return total + borrowed, slack + borrowed * borrowed / dof
