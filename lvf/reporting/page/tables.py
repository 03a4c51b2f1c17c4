"""The page's tables: texts, the numbers that they are sorted by, and the records behind them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lvf.reporting.claims.judge import Verdict
from lvf.reporting.claims.table import verdict_texts
from lvf.reporting.figures import style
from lvf.reporting.figures.cost import with_costs
from lvf.reporting.page.provenance import Provenance
from lvf.reporting.report import Report
from lvf.reporting.select.altered import alteration_text
from lvf.reporting.select.settings import (
    altered_settings,
    duration_text,
    duration_unit,
    groups,
    setting_texts,
    settings,
)
from lvf.reporting.tables.paper import KINDS, PaperTable
from lvf.reporting.tables.paper_text import printed_tables
from lvf.reporting.tables.results import HEADINGS, Row
from lvf.reporting.tables.results import SHOWN as MEASURES
from lvf.reporting.tables.text import interval_text, number, p_text

SHOWN = (*MEASURES, "nll_validation", "kl_base")
CLAIM_HEADINGS = (
    "no.", "the paper says", "records", "verdict", "mean", "95 % here", "95 % elsewhere", "p",
    "agree", "seeds", "unit",
)  # fmt: skip
PAPER_HEADINGS = ("method", "records", "duration", "paper", "measured", "measured − paper")
COST_HEADINGS = (
    "hours", "hours, of full's", "FLOPs", "FLOPs, of full's", "tokens", "peak memory, GB",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A cell: what it says, and where that is from."""

    text: str
    value: float | str | None = None
    """What it is sorted by, where that is not its text."""
    href: str = ""
    """The part of the page that shows what it was computed from."""


@dataclass(frozen=True)
class PageTable:
    """A table with its title; `name` is the stem of the file that it is downloaded as."""

    name: str
    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def to_records(numbers: Iterable[int]) -> str:
    """The address of some records on the page, by their numbers (`Provenance`); empty for none."""
    texts = dict.fromkeys(map(str, numbers))
    return f"#records-{'.'.join(texts)}" if texts else ""


def verdicts(found: Sequence[Verdict]) -> PageTable:
    """Every claim by every set of records, with what decides it."""
    rows = []
    for place, one in enumerate(found):
        texts = verdict_texts(one)
        claim, statement, *others = (texts[heading] for heading in CLAIM_HEADINGS)
        link = Cell(statement, None, f"#claim-{place}")
        rows.append([Cell(claim, place), link, *map(Cell, others)])
    return PageTable("claims", "Every claim by every set of records", CLAIM_HEADINGS, rows)


def own_first(models: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Groups of comparable models: not the published first, and then the larger first."""

    def place(named: tuple[str, pd.DataFrame]) -> tuple[bool, int]:
        group = named[1]
        return bool((group.source == "paper").all()), -int(group.target.notna().sum())

    return sorted(groups(models), key=place)


def results(
    name: str, group: pd.DataFrame, rows: pd.DataFrame, provenance: Provenance
) -> PageTable:
    """A row a (method, learning rate, duration).

    Args:
        name: of the group.
        group: comparable models, as `own_first` gives them.
        rows: `settings` of the group, or some of them.
        provenance: of the models.
    """
    shown = [measure for measure in SHOWN if rows[measure].notna().any()]
    headings = ["method", "learning rate", duration_unit(group), "seeds"]
    table = [
        [*_setting(row), Cell(str(row["seeds"])), *(_score(row, x, provenance) for x in shown)]
        for row in rows.to_dict("records")
    ]
    return PageTable(name, name, [*headings, *_headings(group, shown)], table)


def learning_rates(name: str, group: pd.DataFrame, provenance: Provenance) -> PageTable:
    """Validation loss of every rate that competed, at the longest duration; the chosen is marked.

    Args:
        name: of the group.
        group: comparable models, as `own_first` gives them.
        provenance: of the models.
    """
    rows = settings(group)
    rows = rows[(rows.method != "base") & rows.cooled_down & rows.lr_peak.notna()]
    longest = rows.groupby("variant", dropna=False).duration.transform("max")
    rows = rows[rows.duration == longest]
    rows = rows[rows.groupby("variant").lr_peak.transform("nunique") > 1]
    table = []
    for _, variant in rows.sort_values("lr_peak").groupby("variant", sort=False):
        for place, row in enumerate(variant.to_dict("records")):
            is_end = row["is_chosen"] and place in (0, len(variant) - 1)
            chosen = "chosen" + (", at an end of the rates" if is_end else "")
            loss = _score(row, "nll_validation", provenance)
            table.append([*_setting(row), loss, Cell(chosen if row["is_chosen"] else "")])
    headings = ["method", "learning rate", duration_unit(group), "validation NLL ↓", ""]
    return PageTable(f"learning-rates-{name}", name, headings, table)


def costs(name: str, group: pd.DataFrame, provenance: Provenance) -> PageTable:
    """What the longest training of each main method costs, beside its scores."""
    rows = with_costs(group)
    rows = rows[(rows.role == "main") & rows.is_drawn & rows.cooled_down]
    rows = rows[rows.duration == rows.groupby("variant").duration.transform("max")]
    full = rows[rows.method == "full"]
    trained = group[["tokens", "peak_memory_bytes"]]
    measured = [x for x in ("target", "retention", "nll_source") if rows[x].notna().any()]
    table = []
    for row in rows.to_dict("records"):
        same = full.loc[full.duration == row["duration"], ["device_hours", "train_flops"]].mean()
        tokens, memory = trained.loc[row["models"]].mean()
        hours, flops = row["device_hours"], row["train_flops"]
        numbers = [
            Cell(_plain(hours)), _share(hours, same.get("device_hours")), Cell(_plain(flops)),
            _share(flops, same.get("train_flops")), Cell(_plain(tokens)),
            Cell(_plain(memory / 1e9 if memory else math.nan)),
        ]  # fmt: skip
        table.append([*_setting(row), *(_score(row, x, provenance) for x in measured), *numbers])
    shown = _headings(group, measured)
    headings = ["method", "learning rate", duration_unit(group), *shown, *COST_HEADINGS]
    return PageTable(f"cost-{name}", name, headings, table)


def altered(name: str, rows: pd.DataFrame) -> PageTable:
    """Checkpoints of a group that were altered after training, without links.

    Args:
        name: of the group.
        rows: `lvf.reporting.report.Report.altered` of the group, at least one.
    """
    found = altered_settings(rows)
    shown = [x for x in (*SHOWN, "cka_source") if found[x].notna().any()]
    table = [
        [
            *_setting(row), Cell(alteration_text(row)),
            *(Cell(number(row[x], row[f"{x}_se"])) for x in shown),
        ]
        for row in found.to_dict("records")
    ]  # fmt: skip
    headings = ["method", "learning rate", "length", "altered", *_headings(rows, shown)]
    return PageTable(f"altered-{name}", name, headings, table)


def ranks(report: Report, provenance: Provenance) -> list[PageTable]:
    """Ranks of the methods at equal learning, of every group with several."""
    tables = []
    for name, _ in own_first(report.models):
        board = report.boards[name]
        if len(board) > 1:
            measure = str(board.measure.iloc[0])
            headings = ["method", "rank", f"{_one_line(HEADINGS[measure])} minus full's", "p"]
            rows = [_rank(row, measure, provenance) for row in board.to_dict("records")]
            tables.append(PageTable(f"ranks-{name}", name, headings, rows))
    return tables


def paper_tables(report: Report, provenance: Provenance) -> list[PageTable]:
    """Every table of the paper; of appendix D its numbers, the measured, and their difference."""
    scored = {spec.number: (spec, table) for spec, table in report.tables}
    tables = []
    for printed in printed_tables(report.models, report.tables):
        headings: Sequence[str] = PAPER_HEADINGS
        if printed.number in scored:
            spec, table = scored[printed.number]
            rows = [
                _paper_row(spec, row, report.models, provenance) for row in table.to_dict("records")
            ]
        else:
            (texts,) = printed.blocks.values()
            headings = list(map(str, texts.columns))
            rows = [[Cell(text) for text in line] for line in texts.to_numpy().tolist()]
        title = f"Table {printed.number}: {printed.title}"
        tables.append(PageTable(f"table_{printed.number}", title, headings, rows))
    return tables


def _paper_row(
    spec: PaperTable, row: Row, models: pd.DataFrame, provenance: Provenance
) -> list[Cell]:
    length = f"{duration_text(row['duration'], True)} {row['unit']}"
    published = models.source[row["models"]] == "paper"
    labels: dict[str, list[Hashable]] = {
        "paper": list(published.index[published]), "measured": list(published.index[~published]),
        "difference": row["models"],
    }  # fmt: skip
    numbers = []
    for kind in KINDS:
        text = interval_text(row[kind], row[f"{kind}_low"], row[f"{kind}_high"])
        known = not pd.isna(row[kind])
        records = provenance.of(labels[kind], spec.measure) if known else ()
        numbers.append(Cell(text, None, to_records(records)))
    return [Cell(row["method"]), Cell(row["evidence_set"]), Cell(length, row["duration"]), *numbers]


def _rank(row: Row, measure: str, provenance: Provenance) -> list[Cell]:
    known = not math.isnan(row["gap"])
    records = [n for x in ("target", measure) for n in provenance.of(row["models"], x)]
    ends = "–".join(map(str, dict.fromkeys([row["best"], row["worst"]])))
    gap = interval_text(row["gap"], row["low"], row["high"])
    return [
        Cell(row["method"]), Cell(ends, row["best"] + row["worst"] / 100),
        Cell(gap, None, to_records(records if known else ())), Cell(p_text(row["p"]), row["p"]),
    ]  # fmt: skip


def _setting(row: Row) -> list[Cell]:
    """Method, rate and duration."""
    method, rate, length = setting_texts(row)
    return [Cell(method), Cell(rate), Cell(length, "" if length == "–" else row["duration"])]


def _score(row: Row, measure: str, provenance: Provenance) -> Cell:
    text = number(row[measure], row[f"{measure}_se"])
    known = not math.isnan(row[measure])
    return Cell(text, None, to_records(provenance.of(row["models"], measure) if known else ()))


def _share(cost: float, of_full: Any) -> Cell:
    known = of_full is not None and not pd.isna(of_full) and not pd.isna(cost) and of_full > 0
    return Cell(f"{cost / of_full:.2f}" if known else "–")


def _plain(quantity: float) -> str:
    return "–" if pd.isna(quantity) else f"{quantity:.3g}"


def _headings(group: pd.DataFrame, measures: Sequence[str]) -> list[str]:
    target = f"{style.measure_line('target', group)} ↑"
    return [_one_line(HEADINGS.get(measure, target)) for measure in measures]


def _one_line(heading: str) -> str:
    return heading.replace("\n", " ")
