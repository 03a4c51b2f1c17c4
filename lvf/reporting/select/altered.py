"""Checkpoints whose update was scaled, cut to a rank or damped after training, kept apart."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lvf.records.schema import ALTERATIONS

KEYS = ["source", "run_id", "checkpoint"]
OF_PARENT = ["variant", "series", "condition", "label", "role", "is_usual", "is_drawn"]
"""What an altered checkpoint has from the checkpoint that it was made of."""


def is_altered(rows: pd.DataFrame) -> pd.Series:
    """Whether each row, with the axes of records as columns, is of an altered checkpoint."""
    return rows[list(ALTERATIONS)].notna().any(axis=1)


def alteration_text(row: Mapping[Any, Any]) -> str:
    """What was done to a checkpoint, such as `strength 0.5`; empty for a plain one.

    Args:
        row: the axes of a record by name.
    """
    return " ".join(f"{name} {row[name]:g}" for name in ALTERATIONS if not pd.isna(row[name]))


def of_group(altered: pd.DataFrame, group: pd.DataFrame) -> pd.DataFrame:
    """The altered checkpoints of a group of comparable models.

    Args:
        altered: as in `lvf.reporting.select.selection.Selection`.
        group: as `lvf.reporting.select.settings.groups` gives it.
    """
    return altered[altered.condition.isin(set(group.condition))] if len(altered) else altered


def altered_models(measured: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """The altered checkpoints of models that count.

    Their columns are those of `models`. `setting` goes on counting where the models' ends: the
    same alteration of the seeds of one setting. `parent` is that setting. So the rows of both
    tables together can be compared by `lvf.reporting.stats`. None is chosen: they lend no seed
    variance to comparisons of others.

    Args:
        measured: plain and altered ones.
        models: as in `lvf.reporting.select.selection.Selection`.
    """
    rows = measured[is_altered(measured)]
    if rows.empty:
        return rows
    ends = [alteration_text(row).replace(" ", "") for row in rows.to_dict("records")]
    names = [name.removesuffix(f"-{end}") for name, end in zip(rows.checkpoint, ends, strict=True)]
    parents = models.set_index(KEYS)[[*OF_PARENT, "setting"]]
    plain = rows.drop(columns=["label", "role", "is_usual"])
    joined = plain.assign(parent_checkpoint=names).merge(
        parents.rename(columns={"setting": "parent"}),
        left_on=[*KEYS[:2], "parent_checkpoint"],
        right_index=True,
        how="inner",
    )
    number = joined.groupby(["parent", *ALTERATIONS], dropna=False).ngroup()
    first = models.setting.max() + 1 if len(models) else 0
    joined = joined.assign(setting=number + first, is_chosen=False)
    return joined.drop(columns="parent_checkpoint")
