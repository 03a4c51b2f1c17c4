"""Variance of a weighted sum of runs that answered the same items, by analysis of variance.

A run's score of an item is setting + item + seed + item x seed. Settings are fixed; items, seeds
and their interaction are random (Bates et al., J. Stat. Softw. 67, 2015, give the same model by
likelihood). The variance of a weighted sum is

    T = (items - interaction) + seeds,

where `items` is the variance of the item-by-item sums and `seeds` that of the runs' means; each of
them holds the interaction, which is taken off once. All functions take leading batch axes.
"""

from dataclasses import dataclass

import numpy as np

MIN_DOF = 4
"""Degrees of freedom of the seed variance below which no p value is given."""


@dataclass(frozen=True)
class Runs:
    """Which runs are of one setting, one series and one seed; each (num_runs,), whole numbers."""

    setting: np.ndarray
    series: np.ndarray
    """A method at one learning rate: its settings differ in their duration alone."""
    seed: np.ndarray
    condition: np.ndarray
    """Series that can lend each other their variance."""


def item_variance(
    scores: np.ndarray, weights: np.ndarray, setting: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Variance over items of a weighted sum of runs, and the item x seed interaction in it.

    A setting of one run has the mean interaction of the others.

    Args:
        scores: (..., num_runs, num_items).
        weights: (num_runs,).
        setting: (num_runs,).

    Returns:
        Both (...).
    """
    num_items = scores.shape[-1]
    by_item = np.einsum("r,...ri->...i", weights, scores)
    total = by_item.var(axis=-1, ddof=1) / num_items
    shares, squares = [], []
    alone = 0.0
    for one in np.unique(setting):
        rows = setting == one
        share = weights[rows].sum() ** 2 / rows.sum()
        if rows.sum() < 2:
            alone += share
            continue
        own = scores[..., rows, :]
        rest = own - own.mean(axis=-2, keepdims=True)
        rest = rest - rest.mean(axis=-1, keepdims=True)
        dof = (num_items - 1) * (rows.sum() - 1)
        shares.append(share)
        squares.append((rest**2).sum(axis=(-2, -1)) / dof)
    if not squares:
        return total, np.zeros_like(total)
    known = sum(share * square for share, square in zip(shares, squares, strict=True))
    return total, (known + alone * np.mean(squares, axis=0)) / num_items


def seed_variance(
    values: np.ndarray, weights: np.ndarray, runs: Runs
) -> tuple[np.ndarray, np.ndarray]:
    """Variance over seeds of a weighted sum of runs, and its degrees of freedom.

    The variance of a run is pooled over the settings of its series; where these give fewer than
    `MIN_DOF` degrees of freedom, over its condition. Runs of one seed at several durations are
    correlated by rho, which is the mean over all series.

    Args:
        values: (..., num_runs, num_measures); also of runs whose weight is zero.
        weights: (num_runs, num_measures).
        runs: of the same runs.

    Returns:
        Variance and degrees of freedom (Satterthwaite), both (...); NaN and 0 where no variance is
        known.
    """
    batch = values.shape[:-2]
    rest = values.astype(float)
    spare = np.zeros(len(runs.setting))
    for one in np.unique(runs.setting):
        rows = runs.setting == one
        rest[..., rows, :] -= rest[..., rows, :].mean(axis=-2, keepdims=True)
        spare[rows] = (rows.sum() - 1) / rows.sum()
    rho, rho_dof = _correlation(rest, weights, runs)
    apart: dict[bytes, np.ndarray] = {}
    joint: np.ndarray = np.zeros(batch)
    dofs: dict[bytes, float] = {}
    for one in np.unique(runs.series[np.any(weights != 0, axis=1)]):
        own = runs.series == one
        enough = round(spare[own].sum()) >= MIN_DOF
        pool = own if enough else runs.condition == runs.condition[own][0]
        dof = round(spare[pool].sum())
        if dof == 0:
            return np.full(batch, np.nan), np.zeros(batch)
        covariance = np.einsum("...rm,...rn->...mn", rest[..., pool, :], rest[..., pool, :]) / dof
        by_setting = [
            (weights[rows].sum(axis=0), rows.sum())
            for rows in (own & (runs.setting == which) for which in np.unique(runs.setting[own]))
        ]
        alone = sum(np.einsum("m,...mn,n->...", w, covariance, w) / k for w, k in by_setting)
        both = np.sum([w / np.sqrt(k) for w, k in by_setting], axis=0)
        key = (pool & (spare > 0)).tobytes()
        dofs[key] = dof
        apart[key] = apart.get(key, 0.0) + (1 - rho) * alone
        joint = joint + rho * np.einsum("m,...mn,n->...", both, covariance, both)
    total = joint + sum(apart.values())
    slack = sum(part**2 / dofs[key] for key, part in apart.items()) + joint**2 / rho_dof
    with np.errstate(invalid="ignore", divide="ignore"):
        return total, np.where(slack > 0, total**2 / slack, sum(dofs.values()))


def _correlation(rest: np.ndarray, weights: np.ndarray, runs: Runs) -> tuple[np.ndarray, float]:
    """Correlation of the seed deviations of one series at two durations, (...), at least zero.

    Also its degrees of freedom: seeds less one, summed over the series.
    """
    used = np.any(weights != 0, axis=0)
    found, counts = [], []
    for one in np.unique(runs.series):
        rows = runs.series == one
        num_settings = len(np.unique(runs.setting[rows]))
        if num_settings < 2 or rows.sum() == num_settings:
            continue
        sums = np.stack(
            [rest[..., rows & (runs.seed == seed), :].sum(axis=-2)
             for seed in np.unique(runs.seed[rows])], axis=-2,
        )  # fmt: skip
        each = (rest[..., rows, :] ** 2).sum(axis=-2)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = (sums**2).sum(axis=-2) / each
        shared = np.where(each > 0, (ratio - 1) / (num_settings - 1), 0.0)
        found.append(shared[..., used].mean(axis=-1))
        counts.append(rows.sum() / num_settings - 1)
    if not found:
        return np.zeros(rest.shape[:-2]), 1.0
    mean = np.average(found, axis=0, weights=counts)
    return np.clip(mean, 0.0, 0.95), float(sum(counts))


def together(
    items: np.ndarray, interaction: np.ndarray, seeds: np.ndarray, seed_dof: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The whole variance T, and the degrees of freedom of its t distribution.

    These are seed_dof (T / seeds)^0.75. Satterthwaite's would have the power 2, which is too many
    where the seed variance is small by luck: with 4 degrees of freedom it rejects up to 3.7 times
    too often at 0.1 %. The power 0.75 keeps that below 1.3 times, and rejects 3.5 to 5 % at 5 %.
    """
    total = np.maximum(items - interaction, 0) + seeds
    with np.errstate(invalid="ignore", divide="ignore"):
        return total, np.where(seeds > 0, seed_dof * (total / seeds) ** 0.75, np.inf)
