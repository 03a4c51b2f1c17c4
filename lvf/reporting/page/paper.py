"""The paper's tables beside our numbers, as rows of the page."""

from typing import Any

import pandas as pd

from lvf.reporting.page.content import Row, interval_text
from lvf.reporting.page.provenance import Provenance
from lvf.reporting.select.settings import duration_text
from lvf.reporting.select.variants import with_score
from lvf.reporting.tables.answers import Answers
from lvf.reporting.tables.paper import PaperTable
from lvf.reporting.tables.paper_text import plain_tables

HEADINGS = ["method", "records", "duration", "paper", "ours", "ours − paper"]
Cell = dict[str, Any]
"""Its `text`, the `value` that it is sorted by, and the ids of its `records`."""


def paper_tables(answers: Answers, provenance: Provenance) -> list[dict[str, Any]]:
    """Every table of the paper; of appendix D its numbers, ours, and their difference."""
    first, *rest = [
        _table(
            one.number,
            one.title,
            one.lines[0],
            [[{"text": x} for x in row] for row in one.lines[1:]],
        )
        for one in plain_tables(answers.models)
    ]
    scored = [
        _table(
            spec.number, spec.title, HEADINGS,
            [_cells(spec, row, answers, provenance) for row in table.to_dict("records")],
        )
        for spec, table in answers.tables
    ]  # fmt: skip
    return [first, *scored, *rest]


def _table(number: str, title: str, headings: list[str], rows: list[list[Cell]]) -> dict[str, Any]:
    return {"number": number, "title": title, "headings": headings, "rows": rows}


def _cells(spec: PaperTable, row: Row, answers: Answers, provenance: Provenance) -> list[Cell]:
    behind = answers.models.loc[row["models"]]
    if spec.score is not None:
        behind = with_score(behind, answers.scores, spec.measure, *spec.score)
    numbers = [
        _number(spec, row, kind, behind, provenance) for kind in ("paper", "ours", "difference")
    ]
    length = f"{duration_text(row['duration'], True)} {row['unit']}"
    texts = [{"text": row["method"]}, {"text": row["corpus"]}]
    return [*texts, {"text": length, "value": row["duration"]}, *numbers]


def _number(
    spec: PaperTable, row: Row, kind: str, behind: pd.DataFrame, provenance: Provenance
) -> Cell:
    text = interval_text(row[kind], row[f"{kind}_low"], row[f"{kind}_high"])
    if pd.isna(row[kind]):
        return {"value": None, "text": text, "records": []}
    published = behind.source == "paper"
    rows = {"paper": behind[published], "ours": behind[~published], "difference": behind}[kind]
    return {"value": row[kind], "text": text, "records": provenance.of(rows, spec.measure)}
