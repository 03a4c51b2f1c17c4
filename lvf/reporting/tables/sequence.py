"""What is left of a first task after a second: a table for the terminal and for Markdown."""

from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from lvf.reporting.tables.text import markdown, number

SHOWN = {
    "first_before": "first task\nbefore ↑",
    "first_after": "first task\nafter ↑",
    "second": "second\ntask ↑",
    "retention": "source\ntasks ↑",
    "nll_source": "source\nNLL ↓",
}
NOTES = (
    "First task before: its score after its own run; after: the same model's after the second run.",
    "Second line, or Δ: change of the first task by the second run; difference to the base.",
)


def sequence_table(rows: pd.DataFrame) -> Table:
    """A row for each sequence and method.

    Args:
        rows: of `lvf.reporting.select.sequence.sequences`.
    """
    title = "two tasks, one after the other"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for heading in ("tasks", "method,\nfirst adapter", *SHOWN.values()):
        justify: Any = "right" if heading in SHOWN.values() else "left"
        table.add_column(heading, justify=justify, no_wrap=True)
    for row in rows.to_dict("records"):
        adapter = "" if pd.isna(row["first_adapter"]) else f"\n{row['first_adapter']}"
        cells = [f"{row['first_task']},\n{row['second_task']}", f"{row['label']}{adapter}"]
        for name in SHOWN:
            change = _change(row, name)
            cells.append(_score(row, name) + (f"\n[dim]{change}[/dim]" if change else ""))
        table.add_row(*cells)
    table.caption, table.caption_justify = "\n".join(NOTES), "left"
    return table


def sequence_markdown(rows: pd.DataFrame) -> str:
    """The same rows as a Markdown section, with the number of seeds and all losses."""
    lines = []
    for row in rows.to_dict("records"):
        names = ("first_task", "second_task", "label", "first_adapter", "seeds")
        cells = [row[name] for name in names]
        for name in SHOWN:
            cells += [_score(row, name), _change(row, name)]
        cells += [_score(row, name) for name in ("first_nll_before", "first_nll_after")]
        lines.append(["–" if pd.isna(cell) or not cell else str(cell) for cell in cells])
    heads = ["first", "second", "method", "first adapter", "seeds"]
    for heading in SHOWN.values():
        heads += [heading.replace("\n", " "), "Δ"]
    heads += ["first NLL before ↓", "after ↓"]
    table = pd.DataFrame(lines, columns=pd.Index(heads))
    return "\n".join(["## Two tasks, one after the other", "", markdown(table), "", *NOTES, ""])


def _score(row: Any, name: str) -> str:
    return number(row[name], row[f"{name}_se"])


def _change(row: Any, name: str) -> str:
    """The change that a score comes with; empty where there is none."""
    of = {"first_after": "first_change", "retention": "retention_delta"}
    change = of.get(name, f"{name}_delta")
    if change not in row or pd.isna(row[change]):
        return ""
    return number(row[change], row[f"{change}_se"], with_sign=True)
