"""Cells of the comparison: runs that differ in their seed alone, as one point with a spread."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from lvf.records.checkpoints import CELL, GROUP, measures

ENDS = ("", "_se", "_low", "_high")


def groups(models: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every set of comparable models with its name, such as `embedded-math_ift`.

    The name takes in model and data set where one condition was run with several.
    """
    trained = models[models.method != "base"]
    for key, _ in trained.groupby(GROUP, dropna=False, sort=True):
        scale, domain, regime, model, dataset = key
        name = f"{scale}-{domain}_{regime}"
        condition = trained[
            (trained.scale == scale) & (trained.domain == domain) & (trained.regime == regime)
        ]
        if len(condition[["model", "dataset"]].drop_duplicates()) > 1:
            name += f"-{model}-{dataset}"
        same = (models[GROUP] == list(key)).all(axis=1)
        yield name, models[same]


def cells(models: pd.DataFrame) -> pd.DataFrame:
    """One row per (method, rate, duration) of one group: means over seeds.

    Columns: those of `CELL`, `seeds` (their number), `models` (the rows' index labels), and for
    every measure m and its difference to the base m_delta: the mean, its standard error (_se) and
    the smallest and largest seed (_low, _high). se^2 = item noise^2 + variance over seeds / seeds:
    item noise is the mean of the seeds' own standard errors, as they all answer the same items.
    With one seed it is item noise alone.
    """
    cell = models.groupby(CELL, dropna=False, sort=False).ngroup().to_numpy()
    members = [np.flatnonzero(cell == one) for one in range(cell.max(initial=-1) + 1)]
    values = [name + of for name in measures() for of in ("", "_delta")]
    scores = models[values].to_numpy(dtype=float)
    errors = models[[f"{name}_se" for name in values]].to_numpy(dtype=float)
    told = [_over_seeds(scores[rows], errors[rows]) for rows in members]
    columns = [name + end for end in ENDS for name in values]
    frame = models.iloc[[rows[0] for rows in members]][CELL].reset_index(drop=True)
    frame = frame.assign(
        seeds=[len(rows) for rows in members], models=[list(models.index[rows]) for rows in members]
    )
    numbers = pd.DataFrame(np.array(told).reshape(-1, len(columns)), columns=pd.Index(columns))
    frame = pd.concat([frame, numbers], axis=1).astype({"rank": "Int64"})
    order = frame.method.map({"base": 0, "lora": 1, "full": 3}).fillna(2)
    return (
        frame.assign(order=order)
        .sort_values(
            ["order", "rank", "label", "duration", "run_duration", "lr_peak"], ignore_index=True
        )
        .drop(columns="order")
    )


def _over_seeds(scores: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Mean, standard error, smallest and largest, each (num_scores,), of (num_seeds, num_scores).

    NaN where a seed is not measured. All seeds answer the same items: their noise is the mean.
    """
    num_seeds = len(scores)
    spread = scores.var(axis=0, ddof=1) / num_seeds if num_seeds > 1 else 0.0
    stderr = np.sqrt(errors.mean(axis=0) ** 2 + spread)
    measured = ~np.isnan(scores).any(axis=0)
    told = [scores.mean(axis=0), stderr, scores.min(axis=0), scores.max(axis=0)]
    return np.concatenate([np.where(measured, one, np.nan) for one in told])


def chosen_rate(rows: pd.DataFrame) -> float | None:
    """Rate of the lowest mean validation NLL at the longest duration, of one method's rows.

    NaN stands for an unknown only rate. None where there are several and one lacks its NLL.
    """
    longest = rows[rows.duration == rows.duration.max()]
    by_rate = longest.groupby("lr_peak", dropna=False)
    if len(by_rate) == 1:
        return float(longest.lr_peak.iloc[0])
    losses = by_rate.nll_validation.mean()
    return None if losses.isna().any() else float(losses.idxmin())


def rate_text(rate: float) -> str:
    """A learning rate as people write it: 4e-3, 1.2e-2; a dash where there is none."""
    if pd.isna(rate):
        return "–"
    mantissa, exponent = f"{rate:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def duration_text(duration: float, cooled_down: bool) -> str:
    """Epochs or tokens in few characters (8, 800k, 0.25B), starred where not cooled down."""
    for size, unit in ((2e8, "B"), (1e6, "M"), (1e3, "k")):
        if duration >= size:
            text = f"{duration / {'B': 1e9, 'M': 1e6, 'k': 1e3}[unit]:.3g}{unit}"
            break
    else:
        text = f"{duration:g}"
    return text if cooled_down else f"{text}*"
