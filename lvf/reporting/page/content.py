"""What the page shows, as plain rows: claims, results, and the marks of its plot."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.colors import to_hex

from lvf.reporting.claims.judge import FAILS, HOLDS, MIXED, Verdict
from lvf.reporting.claims.table import by_evidence_set, counts_text
from lvf.reporting.figures import style
from lvf.reporting.page.provenance import Provenance
from lvf.reporting.report import Report
from lvf.reporting.select.settings import duration_text, groups, learning_rate_text, settings
from lvf.reporting.tables.results import Row
from lvf.reporting.tables.text import interval_text, number, p_text, signed

SHOWN = ("target", "nll_target", "retention", "nll_source", "nll_validation", "kl_base")
HEADINGS = {
    "retention": "source tasks (retention) ↑", "nll_target": "target NLL ↓",
    "nll_source": "source NLL ↓", "nll_validation": "validation NLL ↓",
    "kl_base": "KL from base",
}  # fmt: skip
MARKS = {HOLDS: "✓", FAILS: "✗", MIXED: "±"}
SHAPES = {"s": "square", "o": "circle", "^": "triangle-up", "D": "diamond", "v": "triangle-down"}


def claims_table(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """A row a claim, a cell an evidence set, which has its verdict's place in the list."""
    sets = sorted(by_evidence_set(verdicts), key=lambda named: (named[0] != "published", named[0]))
    names = [name for name, _ in sets]
    rows: dict[str, dict[str, Any]] = {}
    for index, verdict in enumerate(verdicts):
        row = rows.setdefault(verdict.number, {"claim": verdict, "cells": dict.fromkeys(names)})
        low, high = verdict.low, verdict.high
        row["cells"][verdict.evidence_set] = {
            "index": index, "verdict": verdict.verdict, "mark": MARKS.get(verdict.verdict, "?"),
            "effect": None if verdict.effect is None else signed(verdict.effect),
            "interval": None if low is None else f"[{signed(low)}, {signed(high)}]",
            "unit": verdict.unit, "decision": verdict.verdict.replace(" ", "-"),
            "agree": f"{verdict.agree} of {verdict.compared} agree" if verdict.compared else "",
        }  # fmt: skip
    counts = {name: counts_text(of_set) for name, of_set in sets}
    return {"sets": names, "rows": list(rows.values()), "counts": counts}


def result_tables(models: pd.DataFrame, provenance: Provenance) -> list[dict[str, Any]]:
    """A table for each group of comparable models: a row a (method, learning rate, duration)."""
    return [_result_table(name, group, provenance) for name, group in _own_first(models)]


def _own_first(models: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Groups of comparable models: not the published first, and then the larger first."""

    def place(named: tuple[str, pd.DataFrame]) -> tuple[bool, int]:
        group = named[1]
        return bool((group.source == "paper").all()), -int(group.target.notna().sum())

    return sorted(groups(models), key=place)


def _result_table(name: str, group: pd.DataFrame, provenance: Provenance) -> dict[str, Any]:
    rows = settings(group)
    shown = [measure for measure in SHOWN if rows[measure].notna().any()]
    target = f"{style.measure_line('target', group)} ↑"
    return {
        "name": name,
        "unit": str(group.duration_unit.dropna().iloc[0]),
        "headings": [HEADINGS.get(measure, target) for measure in shown],
        "rows": [
            {
                "label": row["label"],
                "rate": (row["lr_peak"], learning_rate_text(row["lr_peak"])),
                "duration": (row["duration"], _duration(row)),
                "seeds": row["seeds"],
                "numbers": [
                    _number(row, measure, provenance.of(group.loc[row["models"]], measure))
                    for measure in shown
                ],
            }
            for row in _dicts(rows)
        ],
    }


def leaderboards(report: Report, provenance: Provenance) -> list[dict[str, Any]]:
    """Ranks of the methods at equal learning, of every group with several."""
    boards = [(name, report.boards[name]) for name, _ in _own_first(report.models)]
    return [
        {
            "name": name,
            "measure": HEADINGS[board.measure.iloc[0]],
            "rows": [_rank(row, report.models, provenance) for row in _dicts(board)],
        }
        for name, board in boards
        if len(board) > 1
    ]


def _rank(row: Row, models: pd.DataFrame, provenance: Provenance) -> dict[str, Any]:
    ends = [row["best"], row["worst"]]
    gap: dict[str, Any] = {"value": None, "records": []}
    if not math.isnan(row["gap"]):
        behind = models.loc[row["models"]]
        records = [key for x in ("target", row["measure"]) for key in provenance.of(behind, x)]
        gap = {"value": row["gap"], "records": records}
    return {
        "rank": (row["best"] + row["worst"] / 100, "–".join(map(str, dict.fromkeys(ends)))),
        "method": row["method"],
        "gap": gap | {"text": interval_text(row["gap"], row["low"], row["high"])},
        "p": (row["p"], p_text(row["p"])),
    }


def _dicts(frame: pd.DataFrame) -> list[Row]:
    return frame.to_dict("records")


def plot_rows(models: pd.DataFrame, provenance: Provenance) -> list[dict[str, Any]]:
    """For each group the marks of its learning-forgetting plot, with the looks of its series."""
    plots = []
    for name, group in _own_first(models):
        everything = settings(group)
        rows = everything.dropna(subset="target")
        trained = rows[rows.method != "base"]
        measures = [x for x in ("retention", "nll_source") if trained[x].notna().any()]
        if not measures:
            continue
        by_rate = trained.lr_peak.nunique() > trained.label.nunique()
        looks = style.looks(everything)
        marks = []
        for row in _dicts(trained):
            behind = group.loc[row["models"]]
            records = [key for x in ("target", *measures) for key in provenance.of(behind, x)]
            marks.append(_mark(row, measures, by_rate) | {"records": records})
        plots.append({
            "group": name,
            "y": style.measure_line("target", group),
            "measures": [(x, style.measure_line(x, group)) for x in measures],
            "series": [
                {"label": label, "colour": to_hex(look[0]), "shape": SHAPES.get(look[1], "cross")}
                for label, look in looks.items()
                if label in set(trained.label)
            ],
            "base": _base(rows[rows.method == "base"], measures),
            "marks": marks,
        })  # fmt: skip
    return plots


def _mark(row: Row, measures: Sequence[str], by_rate: bool) -> dict[str, Any]:
    mark = {
        "label": row["label"], "rate": learning_rate_text(row["lr_peak"]),
        "duration": _duration(row),
        "seeds": row["seeds"], "size": row["duration"], "cooled": row["cooled_down"],
        "line": f"{row['label']} {row['duration'] if by_rate else ''}",
        "order": row["lr_peak"] if by_rate else row["duration"],
    }  # fmt: skip
    for name in ("target", *measures):
        mark |= {name: _known(row[name]), f"{name}_se": _known(row[f"{name}_se"])}
    mark["order"] = _known(mark["order"])
    return mark


def _base(rows: pd.DataFrame, measures: Sequence[str]) -> dict[str, float | None] | None:
    if rows.empty:
        return None
    return {name: _known(rows[name].iloc[0]) for name in ("target", *measures)}


def _number(row: Row, measure: str, records: Sequence[str]) -> dict[str, Any]:
    value = row[measure]
    text = number(value, row[f"{measure}_se"])
    known = not math.isnan(value)
    return {"value": value if known else None, "text": text, "records": records if known else []}


def _duration(row: Row) -> str:
    return "–" if row["method"] == "base" else duration_text(row["duration"], row["cooled_down"])


def _known(number: float) -> float | None:
    return None if pd.isna(number) else float(number)
