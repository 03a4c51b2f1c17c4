"""The paper's tables beside the measured numbers, as rows of the page."""

from typing import Any

import pandas as pd

from lvf.reporting.page.provenance import Provenance
from lvf.reporting.report import Report
from lvf.reporting.select.compare import with_score
from lvf.reporting.select.settings import duration_text
from lvf.reporting.tables.paper import KINDS, PaperTable
from lvf.reporting.tables.paper_text import printed_tables
from lvf.reporting.tables.results import Row
from lvf.reporting.tables.text import interval_text

HEADINGS = ["method", "records", "duration", "paper", "measured", "measured − paper"]
SweepRun = dict[str, Any]
"""Its `text`, the `value` that it is sorted by, and the ids of its `records`."""


def paper_tables(report: Report, provenance: Provenance) -> list[dict[str, Any]]:
    """Every table of the paper; of appendix D its numbers, the measured, and their difference."""
    scored = {spec.number: (spec, table) for spec, table in report.tables}
    tables = []
    for printed in printed_tables(report.models, report.tables):
        if printed.number in scored:
            spec, table = scored[printed.number]
            headings = HEADINGS
            rows = [_cells(spec, row, report, provenance) for row in table.to_dict("records")]
        else:
            (texts,) = printed.blocks.values()
            headings = list(map(str, texts.columns))
            rows = [[{"text": text} for text in line] for line in texts.to_numpy().tolist()]
        tables.append(
            {"number": printed.number, "title": printed.title, "headings": headings, "rows": rows}
        )
    return tables


def _cells(spec: PaperTable, row: Row, report: Report, provenance: Provenance) -> list[SweepRun]:
    behind = report.models.loc[row["models"]]
    if spec.score is not None:
        behind = with_score(behind, report.scores, spec.measure, *spec.score)
    numbers = [_number(spec, row, kind, behind, provenance) for kind in KINDS]
    length = f"{duration_text(row['duration'], True)} {row['unit']}"
    texts = [{"text": row["method"]}, {"text": row["evidence_set"]}]
    return [*texts, {"text": length, "value": row["duration"]}, *numbers]


def _number(
    spec: PaperTable, row: Row, kind: str, behind: pd.DataFrame, provenance: Provenance
) -> SweepRun:
    text = interval_text(row[kind], row[f"{kind}_low"], row[f"{kind}_high"])
    if pd.isna(row[kind]):
        return {"value": None, "text": text, "records": []}
    published = behind.source == "paper"
    rows = {"paper": behind[published], "measured": behind[~published], "difference": behind}[kind]
    return {"value": row[kind], "text": text, "records": provenance.of(rows, spec.measure)}
