"""Second runs of a sequence of two tasks: kept apart from the models that are compared."""

from typing import Any

import numpy as np
import pandas as pd

from lvf.records.checkpoints import GROUP
from lvf.records.estimate import paired_difference
from lvf.records.store import items
from lvf.reporting.select.altered import is_altered
from lvf.reporting.select.settings import over_seeds

KEYS = [
    *("scale", "model", "first_task", "second_task", "method", "rank", "label", "first_adapter"),
    *("lr_peak", "run_duration", "first_lr_peak", "first_duration"),
]
"""Sequences that agree in these differ in their seed alone."""
SCORES = [
    *("first_before", "first_after", "first_change", "second"),
    *("retention_before", "retention", "retention_delta"),
    *("first_nll_before", "first_nll_after", "nll_source_before", "nll_source", "nll_source_delta"),
]


def is_apart(rows: pd.DataFrame) -> pd.Series:
    """Whether each row is of a model that takes no part in comparisons.

    It was altered after training, or its training started from another task's.

    Args:
        rows: with the axes of records as columns.
    """
    return is_altered(rows) | rows.first_run.notna()


def sequences(measured: pd.DataFrame) -> pd.DataFrame:
    """One row for each sequence of two tasks and method: means over seeds.

    Columns: `KEYS`, `seeds` (their number), and each of `SCORES` with its standard error (_se),
    as `lvf.reporting.select.settings.settings` has it:

    - `first_before`, `first_after`: the first task's target score after the first run and after the
      second; `first_change`: their difference, paired by item; `first_nll_...`: the loss on its
      held-out text;
    - `second`: the second task's target score;
    - `retention_before`, `nll_source_before`: of the first run; those without an ending: of the
      second; `..._delta`: its difference to the base that both tasks started from.

    Args:
        measured: `lvf.records.checkpoints.models`, by `with_variants`, of first and second runs.
    """
    plain = measured[~is_altered(measured) & measured.cooled_down]
    later = plain[plain.first_run.notna()]
    earlier = plain[plain.run_id.isin(set(later.first_run))]
    pairs = later.merge(earlier, left_on="first_run", right_on="run_id", suffixes=("", "_before"))
    same_task = np.logical_and.reduce([pairs[name] == pairs[f"{name}_before"] for name in GROUP])
    on_first = pairs[same_task].set_index(["source", "run_id", "checkpoint"])
    rows = [
        _row(own, on_first.loc[key])
        for _, own in pairs[~same_task].iterrows()
        if (key := (own.source, own.run_id, own.checkpoint)) in on_first.index
    ]
    columns = [*KEYS, *SCORES, *(f"{name}_se" for name in SCORES)]
    found = pd.DataFrame(rows, columns=pd.Index(columns))
    return pd.DataFrame(
        [_mean(its) for _, its in found.groupby(KEYS, dropna=False, sort=True)],
        columns=pd.Index([*KEYS, "seeds", *SCORES, *(f"{name}_se" for name in SCORES)]),
    )


def _row(own: Any, on_first: Any) -> dict[str, Any]:
    """A second run, from its row on its own task and that on the first task."""
    row = {name: own[name] for name in KEYS if name in own.index}
    row |= {
        "first_task": f"{on_first.domain} {on_first.regime}",
        "second_task": f"{own.domain} {own.regime}",
        "first_lr_peak": own.lr_peak_before,
        "first_duration": own.duration_before,
    }
    taken = {
        "first_before": (on_first, "target_before"),
        "first_after": (on_first, "target"),
        "first_nll_before": (on_first, "nll_target_before"),
        "first_nll_after": (on_first, "nll_target"),
        "second": (own, "target"),
    }
    names = ("retention", "retention_delta", "nll_source", "nll_source_delta")
    taken |= {name: (own, name) for name in names}
    taken |= {f"{name}_before": (own, f"{name}_before") for name in ("retention", "nll_source")}
    for name, (of, measure) in taken.items():
        plain = measure.removesuffix("_before")
        ending = measure.removeprefix(plain)
        row |= {name: of[measure], f"{name}_se": of[f"{plain}_se{ending}"]}
    row["first_change"] = row["first_after"] - row["first_before"]
    row["first_change_se"] = _paired_error(on_first)
    return row


def _paired_error(on_first: Any) -> float:
    """Standard error of the first task's change in score; NaN where no items are kept."""
    places = [(on_first[f"target_path{end}"], on_first[f"target_metric{end}"])
              for end in ("", "_before")]  # fmt: skip
    if any(pd.isna(path) for path, _ in places):
        return float("nan")
    after, before = (items(path, metric) for path, metric in places)
    if after is None or before is None or len(after) != len(before) or len(after) < 2:
        return float("nan")
    return float(paired_difference(after, before).stderr or 0.0)


def _mean(rows: pd.DataFrame) -> dict[str, Any]:
    scores = rows[SCORES].to_numpy(dtype=float)
    errors = rows[[f"{name}_se" for name in SCORES]].to_numpy(dtype=float)
    means, stderrs, _, _ = np.split(over_seeds(scores, errors), 4)
    return {
        **{key: rows.iloc[0][key] for key in KEYS},
        "seeds": len(rows),
        **dict(zip(SCORES, means, strict=True)),
        **dict(zip((f"{name}_se" for name in SCORES), stderrs, strict=True)),
    }
