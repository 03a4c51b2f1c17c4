"""The paper's tables beside our numbers, as rows of the page."""

from typing import Any

import pandas as pd

from lvf.page.content import Row, interval_text
from lvf.page.provenance import Provenance
from lvf.results.cells import duration_text
from lvf.results.evidence import as_variants, at_chosen_rates, with_score
from lvf.results.paper_tables import TABLES, PaperTable, paper_table


def paper_tables(
    models: pd.DataFrame, scores: pd.DataFrame, provenance: Provenance
) -> list[dict[str, Any]]:
    """Every table of appendix D: its numbers, ours, and their difference, with 95 % intervals."""
    found = []
    for spec in TABLES:
        told = paper_table(spec, models, scores)
        behind = _behind(spec, models, scores)
        rows = [_row(spec, row, behind, provenance) for row in told.to_dict("records")]
        found.append({"number": spec.number, "title": spec.title, "rows": rows})
    return found


def _behind(spec: PaperTable, models: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The models that a table's numbers are made of, as `paper_table` chooses them."""
    rows = models[(models.domain == spec.domain) & (models.regime == spec.regime)]
    rows = rows[rows.method != "base"]
    if spec.score is not None:
        rows = with_score(rows, scores, spec.measure, *spec.score)
    return at_chosen_rates(as_variants(rows[rows[spec.measure].notna()]))


def _row(
    spec: PaperTable, row: Row, behind: pd.DataFrame, provenance: Provenance
) -> dict[str, Any]:
    corpus = behind.scale.where(behind.scale == behind.model, behind.scale + " " + behind.model)
    here = behind[
        (behind.label == row["method"]) & (behind.duration == row["duration"])
        & (corpus == row["corpus"])
    ]  # fmt: skip
    sides = {"paper": here[here.source == "paper"], "ours": here[here.source != "paper"]}
    sides["difference"] = here
    numbers: list[dict[str, Any]] = []
    for kind, rows in sides.items():
        number: dict[str, Any] = {"value": None, "records": []}
        if not pd.isna(row[kind]):
            number = {"value": row[kind], "records": provenance.of(rows, spec.measure)}
        text = interval_text(row[kind], row[f"{kind}_low"], row[f"{kind}_high"])
        numbers.append(number | {"text": text})
    length = (row["duration"], f"{duration_text(row['duration'], True)} {row['unit']}")
    return {"corpus": row["corpus"], "method": row["method"], "length": length, "numbers": numbers}
