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

    def seed_deviation_limit(self) -> float | None:
        """Standard deviation over seeds of every score at which the value is just significant, 5 %.

        Of single runs, whose true deviation nobody knows; zero where the noise of the items alone
        is too large. None where that is not known.
        """
        noise = [_item_noise(name, term) for name, term in self.terms.items()]
        known = [one for one in noise if one is not None]
        if len(known) < len(noise):
            return None
        allowed = (self.value / float(ndtri(0.975))) ** 2 - float(np.sum(known, axis=0)[0])
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
    means = np.array([models.loc[rows, list(measures)].mean().to_numpy() for rows in settings])
    slopes = np.zeros_like(means)
    for place in np.ndindex(means.shape):
        step = np.zeros_like(means)
        step[place] = 1e-6 * max(1.0, abs(means[place]))
        slopes[place] = (function(means + step) - function(means - step)) / (2 * step[place])
    terms = {}
    for column, measure in enumerate(measures):
        parts = [pd.Series(slopes[i, column] / len(rows), rows) for i, rows in enumerate(settings)]
        terms[measure] = Term(models, pd.concat(parts))
    return Contrast(float(function(means)), terms)


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
    parts = parts_of(measure)
    ends = [name + end for name in parts for end in ("_n", "_metric")]
    paths = [f"{name}_path" for name in parts]
    columns = dict.fromkeys([f"{measure}_se", *ends, *paths, "setting"])
    rows = term.models.loc[weights.index, list(columns)]
    answered = rows[paths].notna().all(axis=1).to_numpy()
    lone = [rows[~answered]]
    total = np.zeros(2)
    for _, group in rows[answered].groupby(ends, sort=False):
        scores = [_scores(group, name) for name in parts]
        if any(one is None for one in scores):
            lone.append(group)
            continue
        shares, setting = weights[group.index].to_numpy(), group.setting.to_numpy()
        noise = [item_variance(one, shares, setting) for one in scores if one is not None]
        total += np.sum(noise, axis=0) / len(parts) ** 2
    for group in lone:
        shares, errors = weights[group.index], group[f"{measure}_se"]
        if errors.isna().any():
            return None
        by_setting = shares.groupby(group.setting).sum() * errors.groupby(group.setting).mean()
        total[0] += float((by_setting**2).sum())
    return total


def _scores(rows: pd.DataFrame, name: str) -> np.ndarray | None:
    """Items (num_models, num_items) of one measure; None where a model lacks them."""
    where = zip(rows[f"{name}_path"], rows[f"{name}_metric"], strict=True)
    scores = [items(path, metric) for path, metric in where]
    known = [one for one in scores if one is not None]
    if len(known) < len(scores) or len({len(one) for one in known}) != 1:
        return None
    return np.stack(known)


def _seed_noise(terms: Mapping[str, Term]) -> tuple[float, float]:
    """Variance over seeds, and its degrees of freedom."""
    frames = {name: term.models for name, term in terms.items()}
    weights = pd.DataFrame({name: term.weights for name, term in terms.items()}).fillna(0.0)
    rows = next(iter(frames.values()))[["method", "is_chosen", *RUN]]
    trained = (rows.method != "base").to_numpy()
    used = rows.index.isin(weights.index[(weights != 0).any(axis=1)])
    if not (trained & used).any():
        return 0.0, math.inf
    known = trained & (rows.is_chosen.to_numpy() | used)
    values = np.stack([frame[name].to_numpy(dtype=float) for name, frame in frames.items()], -1)
    whole = ~np.isnan(values).any(axis=-1)
    if not whole[trained & used].all():
        return math.nan, 0.0
    kept = known & whole
    setting, series, seed, condition = rows[kept].fillna({"seed": -1})[RUN].to_numpy(dtype=int).T
    shares = weights.reindex(rows.index[kept], fill_value=0.0).to_numpy()
    variance, dof = seed_variance(values[kept], shares, Runs(setting, series, seed, condition))
    return float(variance), float(dof)
