"""Cells of the comparison: runs that differ in their seed alone, as one point with a spread."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from lvf.results.measured import CELL, GROUP, measures
from lvf.results.statistics import over_seeds

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
    rows: list[dict[str, Any]] = []
    for key, group in models.groupby(CELL, dropna=False, sort=False):
        row = dict(zip(CELL, key, strict=True)) | {"seeds": len(group), "models": list(group.index)}
        for name in measures():
            for value in (name, f"{name}_delta"):
                told = _over_seeds(group[value], group[f"{value}_se"])
                row |= {value + end: number for end, number in told.items()}
        rows.append(row)
    columns = [name + of + end for name in measures() for of in ("", "_delta") for end in ENDS]
    frame = pd.DataFrame(rows, columns=pd.Index([*CELL, "seeds", "models", *columns]))
    frame = frame.astype({"rank": "Int64", **dict.fromkeys(columns, "float64")})
    order = frame.method.map({"base": 0, "lora": 1, "full": 3}).fillna(2)
    frame = frame.assign(order=order).sort_values(
        ["order", "rank", "label", "duration", "run_duration", "lr_peak"], ignore_index=True
    )
    return frame.drop(columns="order")


def _over_seeds(values: pd.Series, errors: pd.Series) -> dict[str, float]:
    """Mean, standard error and range over seeds; nothing where a seed is not measured."""
    if values.isna().any():
        return dict.fromkeys(ENDS, math.nan)
    seeds = over_seeds(list(values))
    stderr = math.hypot(seeds.stderr or 0.0, errors.mean())  # all seeds answer the same items
    return dict(zip(ENDS, (seeds.value, stderr, values.min(), values.max()), strict=True))


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
