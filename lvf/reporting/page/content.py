"""What the page shows, as plain rows: claims, results, and the marks of its plot."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.colors import to_hex

from lvf.reporting.claims.judge import CONTRADICTED, SUPPORTED, Verdict
from lvf.reporting.figures import style
from lvf.reporting.page.provenance import Provenance
from lvf.reporting.select.settings import cells, duration_text, groups, rate_text
from lvf.reporting.tables.answers import Answers

Row = dict[Any, Any]
"""One row of `lvf.reporting.select.settings.cells`."""
SHOWN = ("target", "nll_target", "forgetting", "nll_source", "nll_validation", "kl_base")
HEADINGS = {
    "forgetting": "forgetting average ↑", "nll_target": "target NLL ↓",
    "nll_source": "source NLL ↓", "nll_validation": "validation NLL ↓",
    "kl_base": "KL from base",
}  # fmt: skip
MARKS = {SUPPORTED: "✓", CONTRADICTED: "✗"}
SHAPES = {"s": "square", "o": "circle", "^": "triangle-up", "D": "diamond", "v": "triangle-down"}


def claims_table(verdicts: Sequence[Verdict], first: Sequence[str]) -> dict[str, Any]:
    """One row a claim, one cell a corpus, which refers to its verdict by its place in the list."""
    corpora = sorted({one.corpus for one in verdicts}, key=lambda name: (name not in first, name))
    rows: dict[str, dict[str, Any]] = {}
    for index, one in enumerate(verdicts):
        row = rows.setdefault(one.number, {"claim": one, "cells": dict.fromkeys(corpora)})
        interval = None if one.low is None else f"[{_signed(one.low)}, {_signed(one.high)}]"
        row["cells"][one.corpus] = {
            "index": index, "verdict": one.verdict, "mark": MARKS.get(one.verdict, "?"),
            "effect": None if one.effect is None else _signed(one.effect), "interval": interval,
            "unit": one.unit,
        }  # fmt: skip
    counts = {
        corpus: {told: sum(one.verdict == told and one.corpus == corpus for one in verdicts)
                 for told in (SUPPORTED, CONTRADICTED, "undecided")}
        for corpus in corpora
    }  # fmt: skip
    return {"corpora": corpora, "rows": list(rows.values()), "counts": counts}


def result_tables(models: pd.DataFrame, provenance: Provenance) -> list[dict[str, Any]]:
    """A table for each group of comparable models: one row a (method, rate, duration)."""
    return [_result_table(name, group, provenance) for name, group in _ours_first(models)]


def _ours_first(models: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Groups of comparable models: those with our records first, and then the larger first."""

    def place(named: tuple[str, pd.DataFrame]) -> tuple[bool, int]:
        group = named[1]
        return bool((group.source == "paper").all()), -int(group.target.notna().sum())

    return sorted(groups(models), key=place)


def _result_table(name: str, group: pd.DataFrame, provenance: Provenance) -> dict[str, Any]:
    found = cells(group)
    shown = [measure for measure in SHOWN if found[measure].notna().any()]
    target = f"{style.target_text(str(group.domain.iloc[0]))} ↑"
    return {
        "name": name,
        "unit": str(group.duration_unit.dropna().iloc[0]),
        "headings": [HEADINGS.get(measure, target) for measure in shown],
        "rows": [
            {
                "label": row["label"],
                "rate": (row["lr_peak"], rate_text(row["lr_peak"])),
                "duration": (row["duration"], _duration(row)),
                "seeds": row["seeds"],
                "numbers": [
                    _number(row, measure, provenance.of(group.loc[row["models"]], measure))
                    for measure in shown
                ],
            }
            for row in found.to_dict("records")
        ],
    }


def leaderboards(answers: Answers, provenance: Provenance) -> list[dict[str, Any]]:
    """Ranks of the methods at equal learning, of every group with several."""
    boards = [(name, answers.boards[name]) for name, _ in _ours_first(answers.models)]
    return [
        {
            "name": name,
            "measure": HEADINGS[board.measure.iloc[0]],
            "rows": [_rank(row, answers.models, provenance) for row in _dicts(board)],
        }
        for name, board in boards
        if len(board) > 1
    ]


def _rank(row: Row, models: pd.DataFrame, provenance: Provenance) -> dict[str, Any]:
    ends = [row["best"], row["worst"]]
    p_text = "–" if math.isnan(row["p"]) else f"{row['p']:.3f}" if row["p"] >= 0.001 else "< 0.001"
    gap: dict[str, Any] = {"value": None, "records": []}
    if not math.isnan(row["gap"]):
        behind = models.loc[row["models"]]
        records = [key for x in ("target", row["measure"]) for key in provenance.of(behind, x)]
        gap = {"value": row["gap"], "records": records}
    return {
        "rank": (row["best"] + row["worst"] / 100, "–".join(map(str, dict.fromkeys(ends)))),
        "method": row["method"],
        "gap": gap | {"text": interval_text(row["gap"], row["low"], row["high"])},
        "p": (row["p"], p_text),
    }


def _dicts(frame: pd.DataFrame) -> list[Row]:
    return frame.to_dict("records")


def plot_rows(models: pd.DataFrame, provenance: Provenance) -> list[dict[str, Any]]:
    """For each group the marks of its learning-forgetting plot, with the looks of its series."""
    found = []
    for name, group in _ours_first(models):
        everything = cells(group)
        rows = everything.dropna(subset="target")
        trained = rows[rows.method != "base"]
        measures = [x for x in ("forgetting", "nll_source") if trained[x].notna().any()]
        if not measures:
            continue
        by_rate = trained.lr_peak.nunique() > trained.label.nunique()
        looks = style.looks(everything)
        found.append({
            "group": name,
            "y": style.target_text(str(group.domain.iloc[0])),
            "measures": [(x, style.MEASURE_TEXTS[x].replace("\n", " ")) for x in measures],
            "series": [
                {"label": label, "colour": to_hex(look[0]), "shape": SHAPES.get(look[1], "cross")}
                for label, look in looks.items()
                if label in set(trained.label)
            ],
            "base": _base(rows[rows.method == "base"], measures),
            "marks": [
                _mark(row, measures, by_rate) | {
                    "records": provenance.of(group.loc[row["models"]], "target")
                    + [key for x in measures for key in provenance.of(group.loc[row["models"]], x)]
                }
                for row in trained.to_dict("records")
            ],
        })  # fmt: skip
    return found


def _mark(row: Row, measures: Sequence[str], by_rate: bool) -> dict[str, Any]:
    mark = {
        "label": row["label"], "rate": rate_text(row["lr_peak"]), "duration": _duration(row),
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
    value, error = row[measure], row[f"{measure}_se"]
    if math.isnan(value):
        return {"value": None, "text": "–", "records": []}
    text = f"{value:.3f}" + ("" if math.isnan(error) else f" ±{error:.3f}".replace("±0.", "±."))
    return {"value": value, "text": text, "records": records}


def interval_text(value: float, low: float, high: float) -> str:
    """A number and its 95 % interval, a dash where there is none."""
    if math.isnan(value):
        return "–"
    text = f"{value:.3f}" + ("" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]")
    return text.replace("-", "−")


def _duration(row: Row) -> str:
    return "–" if row["method"] == "base" else duration_text(row["duration"], row["cooled_down"])


def _known(number: float) -> float | None:
    return None if pd.isna(number) else float(number)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")
