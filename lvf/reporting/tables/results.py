"""The result table of one group of models: for the terminal, as Markdown and as CSV."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lvf.records.checkpoints import measures, models, names
from lvf.records.store import load
from lvf.reporting.select.settings import cells, duration_text, rate_text

HEADINGS = {
    "target": "target ↑", "forgetting": "forgetting\naverage ↑", "nll_target": "target\nNLL ↓",
    "nll_validation": "validation\nNLL ↓", "nll_source": "source\nNLL ↓",
    "kl_base": "KL from\nbase",
    "hellaswag": "HellaSwag ↑", "arc_challenge": "ARC-C ↑", "winogrande": "WinoGrande ↑",
}  # fmt: skip
TABLE_WIDTH = 170
"""Columns that the widest table takes, with the parts of the forgetting average."""
SHOWN = ["target", "nll_target", "forgetting", "nll_source"]
NOTES = (
    "± is one standard error: of the items, and of the mean over seeds where there are several.",
    "Second line, or column Δ: difference to the base model, paired by item where items are kept.",
    "* measured before the end of its schedule (not cooled down).",
)


def summary(group: pd.DataFrame, title: str, parts: bool = False) -> RenderableType:
    """One row per (method, rate, duration) of a group of models, means over seeds.

    Args:
        group: comparable models, as `lvf.reporting.select.settings.groups` gives them.
        title: heading of the table.
        parts: show the forgetting average's three parts too.
    """
    rows = cells(group)
    shown = _measures_of(rows, parts)
    head = _axis_headings(rows, group)
    table = Table(title=title, title_justify="left")
    for heading in head:
        table.add_column(heading, no_wrap=True, justify="left" if heading == "method" else "right")
    for name in shown:
        table.add_column(_heading(name, group), justify="right", no_wrap=True)
    method = ""
    for row in rows.to_dict("records"):
        if method and row["label"] != method:
            table.add_section()
        method = row["label"]
        scores = [_stacked(row, name) for name in shown]
        table.add_row(*_axes(row, "seeds" in head), *scores)
    return Group(table, *(Text(note, style="dim") for note in _notes(rows)))


def markdown(group: pd.DataFrame, title: str) -> str:
    """The same rows as a Markdown section, with the parts and each difference in its column."""
    rows = cells(group)
    shown = _measures_of(rows, parts=True)
    head = _axis_headings(rows, group)
    for name in shown:
        head += [_heading(name, group).replace("\n", " "), "Δ"]
    lines = [f"## {title}", "", _line(head), _line(["---"] * len(head))]
    for row in rows.to_dict("records"):
        scores = [text for name in shown for text in (_number(row, name), _change(row, name))]
        lines.append(_line([*_axes(row, "seeds" in head), *scores]))
    return "\n".join([*lines, "", *(f"{note}  " for note in _notes(rows)), ""])


def csv(group: pd.DataFrame, name: str) -> pd.DataFrame:
    """The same rows as numbers: every measure with standard error, range and difference."""
    rows = cells(group).drop(columns="models")
    rows.insert(0, "group", name)
    unit = group.duration_unit.dropna()
    rows.insert(rows.columns.get_loc("duration") + 1, "duration_unit", unit.iloc[0])
    return rows


def run_table(group: pd.DataFrame) -> RenderableType:
    """Table of one run: a row for each measure, a column for the base and each checkpoint."""
    rows = cells(group)
    trained = group[group.method != "base"]
    unit = str(trained.duration_unit.iloc[0])
    table = Table(title=" ".join(dict.fromkeys(trained.run_id)), title_justify="left")
    table.add_column("")
    for row in rows.to_dict("records"):
        length = duration_text(row["duration"], row["cooled_down"])
        heading = "base" if row["method"] == "base" else f"{length} {unit}"
        table.add_column(heading, justify="right", no_wrap=True)
    for name in _measures_of(rows, parts=True):
        heading = _heading(name, group).replace("\n", " ")
        table.add_row(heading, *(_stacked(row, name) for row in rows.to_dict("records")))
    return Group(table, *(Text(note, style="dim") for note in _notes(rows)))


def print_run(paths: Iterable[Path]) -> None:
    """Print the table of a run, for its end.

    Args:
        paths: record files of the run and of its base model.
    """
    group = models(load(paths))
    if (group.method != "base").any():
        console().print(run_table(group))


def console() -> Console:
    """Standard output, wide enough that no cell is cut where there is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=TABLE_WIDTH)


def _measures_of(rows: pd.DataFrame, parts: bool) -> list[str]:
    """The measures that any row has, in the order of the road: learning, then forgetting."""
    wanted = list(SHOWN)
    if parts:
        wanted[3:3] = names().forgetting
        wanted.insert(2, "nll_validation")
        wanted.append("kl_base")
    assert set(wanted) <= set(measures())
    return [name for name in wanted if rows[name].notna().any()]


def _heading(name: str, group: pd.DataFrame) -> str:
    if name != "target":
        return HEADINGS.get(name, name)
    return f"{names().target[str(group.domain.iloc[0])][0]}\n(target) ↑"


def _axis_headings(rows: pd.DataFrame, group: pd.DataFrame) -> list[str]:
    seeds = ["seeds"] if (rows.seeds > 1).any() else []
    return ["method", "rate", *group.duration_unit.dropna().head(1), *seeds]


def _axes(row: dict, with_seeds: bool) -> list[str]:
    length = "–" if row["method"] == "base" else duration_text(row["duration"], row["cooled_down"])
    texts = [row["label"], rate_text(row["lr_peak"]), length]
    return [*texts, str(row["seeds"])] if with_seeds else texts


def _number(row: dict, name: str) -> str:
    return _with_error(row[name], row[f"{name}_se"], "")


def _change(row: dict, name: str) -> str:
    return _with_error(row[f"{name}_delta"], row[f"{name}_delta_se"], "+")


def _stacked(row: dict, name: str) -> str:
    change = _change(row, name)
    return _number(row, name) + (f"\n[dim]{change}[/dim]" if change != "–" else "")


def _with_error(value: float, stderr: float, sign: str) -> str:
    """Three decimals, as the paper prints; the error without its leading zero."""
    if math.isnan(value):
        return "–"
    text = f"{value:{sign}.3f}".replace("-", "−")
    return text if math.isnan(stderr) else f"{text} ±{f'{stderr:.3f}'.removeprefix('0')}"


def _notes(rows: pd.DataFrame) -> list[str]:
    has_error = rows[[f"{name}_se" for name in measures()]].notna().any(axis=None)
    has_change = rows[[f"{name}_delta" for name in measures()]].notna().any(axis=None)
    told = zip(NOTES, (has_error, has_change, not rows.cooled_down.all()), strict=True)
    return [note for note, applies in told if applies]


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"
