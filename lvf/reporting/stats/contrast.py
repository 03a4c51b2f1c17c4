"""Weighted sums of measured models, such as a difference or a slope, with their uncertainty."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from lvf.records.checkpoints import names
from lvf.records.estimate import Estimate
from lvf.records.store import items
from lvf.reporting.stats.variance import (
    MIN_DOF,
    Deviations,
    Runs,
    item_variance,
    seed_variance,
    together,
)

RUN = ["setting", "series", "seed", "condition"]
"""Columns of `lvf.reporting.select.selection.Selection.models` that tell runs apart."""


@dataclass(frozen=True)
class Term:
    """Weights of the models on one measure."""

    models: pd.DataFrame
    """All models of an evidence set, also those of weight zero, which share their seed variance."""
    weights: pd.Series
    """By row label; the seeds of a setting have equal weights."""


@dataclass(frozen=True)
class Contrast:
    """A number made of scores, and how it changes with each of them.

    A difference or a slope is the weighted sum of scores itself. Of any other function of them the
    weights are its derivatives, so that its variance is that of the delta method.
    """

    value: float
    terms: Mapping[str, Term]
    """By measure."""

    @functools.cached_property
    def estimate(self) -> Estimate:
        """Value, standard error and degrees of freedom; no error where no seed variance is known.

        See `lvf.reporting.stats.variance`. Scores that keep no items count as independent between
        settings, and their standard errors as shared by the seeds of one.
        """
        noise = [_item_noise(name, term) for name, term in self.terms.items()]
        known = [one for one in noise if one is not None]
        seeds, dof = _seed_noise(self.terms)
        if len(known) < len(noise) or not dof >= MIN_DOF:
            return Estimate(self.value)
        of_items, interaction = np.sum(known, axis=0)
        total, whole_dof = together(of_items, interaction, np.asarray(seeds), np.asarray(dof))
        return Estimate(self.value, math.sqrt(total), float(whole_dof))

    def seed_deviation_limit(self, level: float = 0.05) -> float | None:
        """Standard deviation over seeds of every score at which the value is just significant.

        Of single runs, whose true deviation nobody knows; zero where the noise of the items alone
        is too large. None where that is not known.
        """
        noise = [_item_noise(name, term) for name, term in self.terms.items()]
        known = [one for one in noise if one is not None]
        if len(known) < len(noise):
            return None
        allowed = (self.value / float(ndtri(1 - level / 2))) ** 2 - float(np.sum(known, axis=0)[0])
        shares = 0.0
        for term in self.terms.values():
            weights = term.weights[term.models.method[term.weights.index] != "base"]
            by_setting = weights.groupby(term.models.setting[weights.index])
            shares += float((by_setting.sum() ** 2 / by_setting.size()).sum())
        return math.sqrt(max(allowed, 0.0) / shares) if shares else None


def linear(models: pd.DataFrame, measure: str, weights: pd.Series) -> Contrast | None:
    """The weighted sum of a measure over models.

    Args:
        models: rows as of `lvf.reporting.select.selection.select`.
        measure: a measure with its columns _se, _n, _path and _metric.
        weights: weight by row label.

    Returns:
        None where no model has weight, or a weighted model lacks the measure.
    """
    weights = weights[weights != 0]
    scores = models.loc[weights.index, measure]
    if scores.empty or scores.isna().any():
        return None
    return Contrast(float((weights * scores).sum()), {measure: Term(models, weights)})


def linearised(
    models: pd.DataFrame,
    settings: Sequence[pd.Index],
    measures: Sequence[str],
    function: Callable[[np.ndarray], float],
) -> Contrast:
    """A function of settings' means as a contrast, with central differences as derivatives.

    Args:
        models: as of `linear`.
        settings: row labels of the seeds of each setting.
        measures: of which the function takes the means.
        function: of an array (num_settings, num_measures).
    """
    scores = models[list(measures)].to_numpy(dtype=float)
    means = np.array([_mean(scores[models.index.get_indexer(rows)]) for rows in settings])
    slopes = np.zeros_like(means)
    for place in np.ndindex(means.shape):
        step = np.zeros_like(means)
        step[place] = 1e-6 * max(1.0, abs(means[place]))
        slopes[place] = (function(means + step) - function(means - step)) / (2 * step[place])
    labels = np.concatenate([rows.to_numpy() for rows in settings])
    sizes = np.array([len(rows) for rows in settings])
    weights = np.repeat(slopes / sizes[:, None], sizes, axis=0)
    terms = {
        measure: Term(models, pd.Series(weights[:, column], labels))
        for column, measure in enumerate(measures)
    }
    return Contrast(float(function(means)), terms)


def _mean(scores: np.ndarray) -> np.ndarray:
    """Mean over seeds of (num_seeds, num_measures), of those that are known."""
    return np.nanmean(scores, axis=0) if np.isnan(scores).any() else scores.mean(axis=0)


def mean_contrast(contrasts: Sequence[Contrast]) -> Contrast:
    """Mean of contrasts; models that several of them share are not counted as independent."""
    if len(contrasts) == 1:
        return contrasts[0]
    terms: dict[str, Term] = {}
    for one in contrasts:
        for measure, term in one.terms.items():
            before = terms[measure].weights if measure in terms else pd.Series(dtype="float64")
            weights = before.add(term.weights / len(contrasts), fill_value=0.0)
            terms[measure] = Term(term.models, weights)
    return Contrast(float(np.mean([one.value for one in contrasts])), terms)


def negative(one: Contrast) -> Contrast:
    """The contrast with its sign turned round."""
    terms = {name: Term(term.models, -term.weights) for name, term in one.terms.items()}
    return Contrast(-one.value, terms)


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


def setting_labels(rows: pd.DataFrame) -> list[pd.Index]:
    """Row labels of the seeds of each setting; settings by rising rate, then duration."""
    return [rows.index[places] for places in rows.groupby("setting", sort=True).indices.values()]


def parts_of(measure: str) -> list[str]:
    """The measures that have items of their own: an average has those of its parts."""
    return names().retention if measure == "retention" else [measure]


def _item_noise(measure: str, term: Term) -> np.ndarray | None:
    """Variance over items and the interaction in it, (2,); None where a score has no error.

    Models are paired by item where they answered as many items by the same metric.
    """
    weights = term.weights[term.weights != 0]
    rows = term.models.index.get_indexer(weights.index)
    shares, setting = weights.to_numpy(), term.models["setting"].to_numpy()[rows]
    parts = parts_of(measure)

    def columns(end: str) -> np.ndarray:
        return np.array([term.models[name + end].to_numpy()[rows] for name in parts], dtype=object)

    paths, metrics, counts = columns("_path"), columns("_metric"), columns("_n")
    answered = ~pd.isna(paths).any(axis=0)
    alike: dict[tuple, list[int]] = {}
    for place in np.flatnonzero(answered):
        alike.setdefault((*counts[:, place], *metrics[:, place]), []).append(int(place))
    lone = [np.flatnonzero(~answered)]
    total = np.zeros(2)
    for group in map(np.array, alike.values()):
        scores = [_scores(*pair) for pair in zip(paths[:, group], metrics[:, group], strict=True)]
        if any(one is None for one in scores):
            lone.append(group)
            continue
        noise = [item_variance(x, shares[group], setting[group]) for x in scores if x is not None]
        total += np.sum(noise, axis=0) / len(parts) ** 2
    errors = term.models[f"{measure}_se"].to_numpy()[rows]
    for group in lone:
        if np.isnan(errors[group]).any():
            return None
        each = pd.DataFrame({"w": shares[group], "e": errors[group]}, index=setting[group])
        if each.index.has_duplicates:
            by_setting = each.groupby(level=0)
            each = pd.DataFrame({"w": by_setting.w.sum(), "e": by_setting.e.mean()})
        each = each.sort_index()
        total[0] += float(((each.w * each.e) ** 2).sum())
    return total


def _scores(paths: Sequence[str], metrics: Sequence[str]) -> np.ndarray | None:
    """Items (num_models, num_items) of one measure; None where a model lacks them."""
    scores = [items(path, metric) for path, metric in zip(paths, metrics, strict=True)]
    known = [one for one in scores if one is not None]
    if len(known) < len(scores) or len({len(one) for one in known}) != 1:
        return None
    return np.stack(known)


def _seed_noise(terms: Mapping[str, Term]) -> tuple[float, float]:
    """Variance over seeds, and its degrees of freedom."""
    frames = [term.models for term in terms.values()]
    rows = frames[0]
    shares = np.zeros((len(rows), len(terms)))
    for column, term in enumerate(terms.values()):
        shares[rows.index.get_indexer(term.weights.index), column] = term.weights
    trained = (rows.method != "base").to_numpy()
    used = (shares != 0).any(axis=1)
    if not (trained & used).any():
        return 0.0, math.inf
    known = trained & (rows.is_chosen.to_numpy() | used)
    values = np.stack(
        [frame[name].to_numpy(dtype=float) for name, frame in zip(terms, frames, strict=True)], -1
    )
    whole = ~np.isnan(values).any(axis=-1)
    if not whole[trained & used].all():
        return math.nan, 0.0
    kept = known & whole
    runs = np.stack([rows[name].fillna(-1).to_numpy(dtype=int)[kept] for name in RUN])
    deviations = _deviations(values[kept].tobytes(), runs.tobytes(), len(terms))
    variance, dof = seed_variance(deviations, shares[kept])
    return float(variance), float(dof)


@functools.lru_cache(maxsize=256)
def _deviations(values: bytes, runs: bytes, num_measures: int) -> Deviations:
    """Most contrasts of a measure are of the same runs, which differ in their weights alone."""
    scores = np.frombuffer(values).reshape(-1, num_measures)
    return Deviations(scores, Runs(*np.frombuffer(runs, dtype=int).reshape(len(RUN), -1)))
