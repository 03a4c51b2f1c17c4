"""Settings of the comparison: runs that differ in their seed alone, as a point with a spread."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lvf.records.checkpoints import GROUP, measures
from lvf.records.schema import ALTERATIONS
from lvf.reporting.select.variant import VARIANT

SETTING = ["source", "label", *VARIANT, "lr_peak", "run_duration", "duration", "cooled_down"]
"""Models of one group that agree in these differ in their seed alone."""
MARKED = [
    "variant", "is_chosen", "is_drawn", "is_usual", "role", "domain", "dataset", "duration_unit",
]  # fmt: skip
"""Further columns that all models of a setting have in common."""
ENDS = ("", "_se", "_low", "_high")


def groups(models: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every set of comparable models with its name, such as `embedded-math_ift`.

    Where a condition was run with several models or data sets, the name has them too.
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


def settings(models: pd.DataFrame) -> pd.DataFrame:
    """One row per (variant, learning rate, duration) of one group: means over seeds.

    Columns: those of `SETTING` and `MARKED`, `seeds` (their number), `models` (the rows' index
    labels), and for every measure m and its difference to the base m_delta: the mean, its standard
    error (_se) and the smallest and largest seed (_low, _high). se^2 = item noise^2 + variance over
    seeds / seeds: item noise is the mean of the seeds' own standard errors, as they all answer the
    same items. With a single seed it is item noise alone.

    Args:
        models: rows of `lvf.reporting.select.selection.Selection.models`.
    """
    positions = models.groupby(SETTING, dropna=False, sort=False).indices.values()
    members = sorted((np.asarray(rows) for rows in positions), key=lambda rows: rows[0])
    values = [name + end for name in measures() for end in ("", "_delta")]
    scores = models[values].to_numpy(dtype=float)
    errors = models[[f"{name}_se" for name in values]].to_numpy(dtype=float)
    numbers = [over_seeds(scores[rows], errors[rows]) for rows in members]
    columns = [name + end for end in ENDS for name in values]
    frame = models.iloc[[rows[0] for rows in members]][[*SETTING, *MARKED]].reset_index(drop=True)
    frame = frame.assign(
        rank=frame["rank"].astype("Int64"),
        seeds=[len(rows) for rows in members],
        models=[list(models.index[rows]) for rows in members],
    )
    table = pd.DataFrame(np.array(numbers).reshape(-1, len(columns)), columns=pd.Index(columns))
    order = frame.method.map({"base": 0, "lora": 1, "full": 3}).fillna(2)
    by = ["rank", "label", "duration", "run_duration", "lr_peak"]
    places = frame[by].assign(order=order).sort_values(["order", *by]).index
    return pd.concat([frame, table], axis=1).loc[places].reset_index(drop=True)


def altered_settings(altered: pd.DataFrame) -> pd.DataFrame:
    """As `settings`, of checkpoints that were altered after training, by condition and alteration.

    Args:
        altered: rows of `lvf.reporting.select.selection.Selection.altered`, at least one.
    """
    kinds = list(ALTERATIONS)
    altered = altered.astype(dict.fromkeys(kinds, "float64"))
    parts = [
        settings(rows).assign(**{name: rows[name].iloc[0] for name in ("regime", *kinds)})
        for _, rows in altered.groupby(["condition", *kinds], dropna=False, sort=True)
    ]
    by = ["domain", "regime", "label", "lr_peak", "duration", *kinds]
    return pd.concat(parts).sort_values(by, ignore_index=True)


def over_seeds(scores: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Mean, standard error, smallest and largest, each (num_scores,), of (num_seeds, num_scores).

    NaN where a seed is not measured. All seeds answer the same items: their noise is the mean.
    """
    num_seeds = len(scores)
    spread = scores.var(axis=0, ddof=1) / num_seeds if num_seeds > 1 else 0.0
    stderr = np.sqrt(errors.mean(axis=0) ** 2 + spread)
    measured = ~np.isnan(scores).any(axis=0)
    found = [scores.mean(axis=0), stderr, scores.min(axis=0), scores.max(axis=0)]
    return np.concatenate([np.where(measured, values, np.nan) for values in found])


def learning_measure(models: pd.DataFrame) -> str:
    """`target`, or the loss on the target's held-out texts where no model has a target score."""
    return "target" if models.target.notna().any() else "nll_target"


def setting_texts(row: Mapping[Any, Any]) -> list[str]:
    """Method, learning rate and duration of a row of `settings`; a dash for what it has not."""
    is_trained = row["method"] != "base" and not pd.isna(row["duration"])
    length = duration_text(row["duration"], row["cooled_down"]) if is_trained else "–"
    return [row["label"], learning_rate_text(row["lr_peak"]), length]


def duration_unit(models: pd.DataFrame) -> str:
    """What the durations of some models count: `epochs` or `tokens`; empty where none is known."""
    return "".join(models.duration_unit.dropna()[:1])


def learning_rate_text(learning_rate: float) -> str:
    """A learning rate as people write it: 4e-3, 1.2e-2; a dash where there is none."""
    if pd.isna(learning_rate):
        return "–"
    mantissa, exponent = f"{learning_rate:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def duration_text(duration: float, cooled_down: bool) -> str:
    """Epochs or tokens in few characters (8, 800k, 0.25B), starred where not cooled down."""
    text = f"{duration:g}"
    for least, size, unit in ((1e3, 1e3, "k"), (1e6, 1e6, "M"), (2e8, 1e9, "B")):
        if duration >= least:
            text = f"{duration / size:.3g}{unit}"
    return text if cooled_down else f"{text}*"
