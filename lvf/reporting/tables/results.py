"""Tables of measured scores: for the terminal, as Markdown, and as numbers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lvf.analysis.table import MEASURES, matrices
from lvf.records.checkpoints import BESIDE_TARGET, measures, models, names
from lvf.records.store import load
from lvf.reporting.select.altered import alteration_text
from lvf.reporting.select.scope import (
    benchmark_name,
    is_generated,
    scope_text,
    target_name,
)
from lvf.reporting.select.selection import select
from lvf.reporting.select.settings import (
    altered_settings,
    duration_unit,
    setting_texts,
    settings,
)
from lvf.reporting.select.variant import with_variants
from lvf.reporting.stats.frontier import along_strength
from lvf.reporting.tables.sequence import sequence_table
from lvf.reporting.tables.text import interval_text, markdown, number

HEADINGS = {
    "target_flexible": "flexible\nmatch ↑", "target_ended": "ended\nby itself",
    "retention": "source tasks\n(retention) ↑", "nll_target": "target\nNLL ↓",
    "nll_validation": "validation\nNLL ↓", "nll_source": "source\nNLL ↓",
    "kl_base": "KL from\nbase", "cka_source": "CKA with\nbase",
}  # fmt: skip
TABLE_WIDTH = 100
"""Columns of a table where there is no terminal."""
SHOWN = ["target", *BESIDE_TARGET.values(), "nll_target", "retention", "nll_source"]
DRIFT = ["kl_base", "cka_source"]
NOTES = (
    "± is one standard error: of the items, and of the mean over seeds where there are several.",
    "Second line, or column Δ: difference to the base model, paired by item where items are kept.",
    "* measured before the end of its schedule (not cooled down).",
)
Row = dict[Any, Any]
"""A row of `lvf.reporting.select.settings.settings`."""


def summary_markdown(group: pd.DataFrame, title: str) -> str:
    """A row for each (variant, learning rate, duration), means over seeds, as a Markdown section.

    The parts of retention and each difference to the base have a column.

    Args:
        group: comparable models, as `lvf.reporting.select.settings.groups` gives them.
        title: heading.
    """
    rows = settings(group)
    table = _axes(rows, group)
    for name in _measures_of(rows, parts=True):
        scores = [_score(row, name) for row in rows.to_dict("records")]
        table[_heading(name, group).replace("\n", " ")] = scores
        changes = [_change(row, name) for row in rows.to_dict("records")]
        table.insert(len(table.columns), "Δ", changes, allow_duplicates=True)
    notes = [f"{note}  " for note in _notes(rows)]
    return "\n".join([f"## {title}", "", scope_text(group), "", markdown(table), "", *notes, ""])


def summary_numbers(group: pd.DataFrame, name: str) -> pd.DataFrame:
    """The same rows as numbers: every measure with standard error, range and difference."""
    rows = settings(group).drop(columns=["models", "variant", "domain"])
    rows.insert(0, "group", name)
    return rows.assign(duration_unit=duration_unit(group))


def run_table(group: pd.DataFrame) -> RenderableType:
    """Table of a run: a row for each measure, a column for the base and each checkpoint."""
    rows = settings(group)
    trained = group[group.method != "base"]
    unit = duration_unit(trained)
    table = Table(title=" ".join(dict.fromkeys(trained.run_id)), title_justify="left")
    table.add_column("")
    for row in rows.to_dict("records"):
        *_, length = setting_texts(row)
        heading = f"{length} {unit}" if length != "–" else "tuned"
        if row["method"] == "base":
            heading = "base"
        table.add_column(heading, justify="right", no_wrap=True)
    for name in _measures_of(rows, parts=True):
        heading = _heading(name, group).replace("\n", " ")
        table.add_row(heading, *(_stacked(row, name) for row in rows.to_dict("records")))
    return Group(table, *(Text(note, style="dim") for note in _notes(rows)))


def print_run(paths: Iterable[Path]) -> None:
    """Print the table of a run, for its end.

    Args:
        paths: record files of the run and of its base model; of a sequence's second run also those
            on the first task, and those of the first run.
    """
    scores = load(paths)
    selection = select(with_variants(models(scores)), scores)
    if scores.first_run.notna().any():
        console().print(sequence_table(selection.sequences))
        return
    if (selection.models.method != "base").any():
        console().print(run_table(selection.models))
    if len(selection.altered):
        console().print(altered_table(selection.altered, "altered after training"))


def altered_table(altered: pd.DataFrame, title: str) -> Table:
    """A row for each alteration of checkpoints, means over seeds.

    Args:
        altered: some rows of `lvf.reporting.select.selection.Selection.altered`.
        title: heading of the table.
    """
    rows = altered_settings(altered)
    shown = _measures_of(rows, parts=False)
    shown += [name for name in DRIFT if rows[name].notna().any()]
    table = Table(title=title, title_justify="left")
    conditions = rows.domain + " " + rows.regime
    several = [] if conditions.nunique() == 1 else ["data"]
    for heading in (*several, "method", "rate", "length", "altered"):
        table.add_column(heading, no_wrap=True)
    for name in shown:
        table.add_column(_heading(name, altered), justify="right", no_wrap=True)
    for row, condition in zip(rows.to_dict("records"), conditions, strict=True):
        scores = (_stacked(row, name) for name in shown)
        first = [condition] if several else []
        table.add_row(*first, *setting_texts(row), alteration_text(row), *scores)
    return table


def strength_sentences(group: pd.DataFrame, altered: pd.DataFrame) -> list[str]:
    """A line for each pair of main methods, of which the first has strengths.

    Pairs that never learned equally much are in one line at the end.

    Args:
        group: comparable models, as `lvf.reporting.select.settings.groups` gives them.
        altered: `lvf.reporting.select.selection.Selection.altered` of the group.
    """
    if altered.empty or not altered.strength.notna().any():
        return []
    condition = f"{altered.domain.iloc[0]} {altered.regime.iloc[0]}"
    lines, apart = [], []
    for scaled, trained, gap in along_strength(group, altered):
        pair = f"{scaled} along strength, {trained} along training"
        if isinstance(gap, str):
            apart.append(pair)
            continue
        low, high = gap.estimate.interval() or (float("nan"), float("nan"))
        lines.append(
            f"{condition}, {pair}: source NLL of the second minus the first's at equal target "
            f"score {interval_text(gap.value, low, high)}"
        )
    if apart:
        lines.append(f"{condition}, no shared level of learning: {'; '.join(apart)}")
    return lines


def print_weights(records: Iterable[Path]) -> None:
    """Print each model's means by module type."""
    for path in records:
        table = matrices(path)
        screen = Table(title=f"{path.parent.name} {path.name.split('--')[0]}", title_justify="left")
        screen.add_column("mean over layers")
        for name in MEASURES:
            screen.add_column(name.replace("_", " "), justify="right")
        for module, rows in table.groupby("module", sort=False):
            screen.add_row(str(module), *(f"{rows[name].mean():.4g}" for name in MEASURES))
        console().print(screen)


def console() -> Console:
    """Standard output, at most 100 columns wide."""
    screen = Console()
    wide = screen.is_terminal and screen.width < TABLE_WIDTH
    return screen if wide else Console(width=TABLE_WIDTH)


def _measures_of(rows: pd.DataFrame, parts: bool) -> list[str]:
    """The measures that any row has: learning, then retention."""
    wanted = list(SHOWN)
    if parts:
        before = wanted.index("nll_source")
        wanted[before:before] = names().retention
        wanted.insert(wanted.index("retention"), "nll_validation")
        wanted += DRIFT
    return [name for name in wanted if rows[name].notna().any()]


def _heading(name: str, group: pd.DataFrame) -> str:
    if name == "target":
        return f"{_broken(target_name(group))}\n(target) ↑"
    if name in names().retention:
        return f"{_broken(benchmark_name(name, is_generated(group)))} ↑"
    return HEADINGS.get(name, name)


def _broken(text: str) -> str:
    return text.replace(" (", "\n(")


def _axes(rows: pd.DataFrame, group: pd.DataFrame) -> pd.DataFrame:
    """Method, learning rate, duration and seeds as text."""
    texts = [setting_texts(row) for row in rows.to_dict("records")]
    table = pd.DataFrame(texts, rows.index, ["method", "rate", duration_unit(group)])
    return table.assign(seeds=rows.seeds.astype(str)) if (rows.seeds > 1).any() else table


def _score(row: Row, name: str) -> str:
    return number(row[name], row[f"{name}_se"])


def _change(row: Row, name: str) -> str:
    return number(row[f"{name}_delta"], row[f"{name}_delta_se"], with_sign=True)


def _stacked(row: Row, name: str) -> str:
    change = _change(row, name)
    return _score(row, name) + (f"\n[dim]{change}[/dim]" if change != "–" else "")


def _notes(rows: pd.DataFrame) -> list[str]:
    has_error = rows[[f"{name}_se" for name in measures()]].notna().any(axis=None)
    has_change = rows[[f"{name}_delta" for name in measures()]].notna().any(axis=None)
    applies = (has_error, has_change, not rows.cooled_down.all())
    return [note for note, shown in zip(NOTES, applies, strict=True) if shown]
