"""What `lvf.report` prints: the answer, a table of the main methods, the verdicts in short."""

import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lvf.reporting.claims.judge import NOT_APPLICABLE, Verdict
from lvf.reporting.claims.table import STYLES, answers, by_claim, by_evidence_set, verdict_texts
from lvf.reporting.report import Report
from lvf.reporting.select.scope import scope_text, target_name
from lvf.reporting.select.settings import (
    altered_settings,
    groups,
    learning_measure,
    setting_texts,
    settings,
)
from lvf.reporting.tables.results import altered_table, strength_sentences
from lvf.reporting.tables.sequence import sequence_table
from lvf.reporting.tables.text import number

SETS = 2
"""Sets of records that are printed."""
ROWS = 20
"""Rows of the table of main methods that are printed."""
FEW = 6
"""Altered checkpoints, and sequences of two tasks, that are printed."""
SENTENCES = 3
"""Sentences on altered checkpoints that are printed."""
SILENT = 10
"""Claims that are not applicable of which the numbers are printed."""
OF_THE_TARGET = {"target": "target ↑", "nll_target": "target NLL ↓"}
OF_THE_SOURCE = {"retention": "source tasks ↑", "nll_source": "source NLL ↓"}


def answer(verdicts: Sequence[Verdict], models: pd.DataFrame) -> RenderableType:
    """Three sentences by each set of records, and what these are of."""
    shown: list[RenderableType] = []
    for name, its_verdicts in by_evidence_set(verdicts)[:SETS]:
        sentences = [Padding(text, (0, 0, 0, 2)) for text in answers(its_verdicts)]
        shown += [Text(f"By the {name} records:", style="bold"), *sentences]
    own = models[models.source != "paper"]
    return Group(*shown, Text(scope_text(own if len(own) else models), style="dim"))


def main_methods_table(models: pd.DataFrame) -> RenderableType:
    """A row a main method: its chosen rate, and its scores after its longest training.

    Where no model has a target score, its loss on the target's held-out texts takes that place.
    """
    learning = learning_measure(models)
    measures = {learning: OF_THE_TARGET[learning]} | OF_THE_SOURCE
    table = Table(
        box=box.SIMPLE,
        title="main methods, longest training",
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    for heading in ("", "method", "rate", "length", "seeds", *measures.values()):
        justify: Any = "left" if heading in ("", "method") else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    own_first = sorted(groups(models), key=lambda named: (named[1].source == "paper").all())
    left = 0
    for _, group in own_first:
        first = group[group.method != "base"].iloc[0]
        name = f"{first.scale} {first.domain} {str(first.regime).upper()}"
        rows = settings(group)
        rows = rows[(rows.method == "base") | ((rows.role == "main") & rows.is_drawn)]
        longest = rows.groupby("variant").duration.transform("max")
        rows = rows[rows.duration.isna() | (rows.duration == longest)]
        if table.row_count + len(rows) > ROWS and table.row_count:
            left += 1
            continue
        for place, row in enumerate(rows.to_dict("records")):
            table.add_row(
                name if place == 0 else "", *setting_texts(row), str(row["seeds"]),
                *(number(row[measure], row[f"{measure}_se"]) for measure in measures),
                end_section=place == len(rows) - 1,
            )  # fmt: skip
    targets = dict.fromkeys(target_name(group) for _, group in own_first[: len(own_first) - left])
    scores = f"target: {'; '.join(targets)}. " if learning == "target" else ""
    notes = [f"{scores}± one standard error."]
    if left:
        notes.append(f"{left} more conditions are in the files.")
    return Group(table, *(Text(note, style="dim") for note in notes))


def altered(results: Report) -> RenderableType:
    """Checkpoints that were altered after training, if these are few, and what they say."""
    rows = results.selection.altered
    found = [strength_sentences(its, results.altered(its)) for _, its in groups(results.models)]
    lines = [Text(line) for of_group in found for line in of_group]
    shown: list[RenderableType] = [
        Text("Updates scaled, cut or damped after training: altered.csv.", style="dim")
    ]
    if len(altered_settings(rows)) <= FEW:
        shown = [altered_table(rows, "altered after training")]
    return Group(*shown, *lines[:SENTENCES])


def sequences(results: Report) -> RenderableType:
    """Runs that started from another task's, if these are few."""
    rows = results.selection.sequences
    if len(rows) <= FEW:
        return sequence_table(rows)
    return Text("Two tasks, one after the other: summary.md and sequences.csv.", style="dim")


def verdict_lines(verdicts: Sequence[Verdict]) -> RenderableType:
    """The numbers of the claims of each verdict, a line a verdict."""
    shown: list[RenderableType] = []
    for name, its_verdicts in by_evidence_set(verdicts)[:SETS]:
        shown.append(Text(f"Claims by the {name} records:", style="bold"))
        for decision, style in STYLES.items():
            numbers = [one.number for one in its_verdicts if one.verdict == decision]
            if numbers:
                few = decision != NOT_APPLICABLE or len(numbers) <= SILENT
                listed = ", ".join(numbers) if few else f"{len(numbers)} claims, in claims.md"
                text = Text(f"  {_named(decision)}: ", style=style)
                shown.append(text.append(listed, style="default"))
    return Group(*shown)


def claims_table(verdicts: Sequence[Verdict]) -> RenderableType:
    """A line a claim that has a number; those that need other records in a line below."""
    sets = by_evidence_set(verdicts)[:SETS]
    shown = ("mean", "95 % here", "agree") if len(sets) == 1 else ("mean",)
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("the paper says", no_wrap=True)
    for name, _ in sets:
        table.add_column(name, no_wrap=True)
        for heading in shown:
            justify: Any = "right" if heading == "mean" else "left"
            table.add_column(heading, no_wrap=True, justify=justify)
    spoken, silent = by_claim([of_set for _, of_set in sets])
    for row in spoken:
        cells: list[Text | str] = []
        for one in row:
            texts = verdict_texts(one)
            cells += [Text(one.verdict, style=STYLES[one.verdict])]
            cells += [texts[heading] for heading in shown]
        statement = textwrap.shorten(row[0].statement, 32, placeholder="…")
        table.add_row(verdict_texts(row[0])["no."], statement, *cells)
    notes = ["Positive: as the paper says. * named beforehand. docs/verdicts.md has the rules."]
    if silent:
        notes.insert(0, f"{_named(NOT_APPLICABLE)}: {silent}")
    if len(by_evidence_set(verdicts)) > SETS:
        notes.append("More sets of records are in claims.md.")
    return Group(table, *(Text(note, style="dim") for note in notes))


def _named(decision: str) -> str:
    if decision == NOT_APPLICABLE:
        return f"{decision} (they need other records, models or data)"
    return decision
