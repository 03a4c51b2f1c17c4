"""The paper's tables as Markdown and LaTeX, one line a method for the paper's numbers and ours."""

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lvf.reporting.select.settings import duration_text
from lvf.reporting.tables.answers import Answers
from lvf.reporting.tables.paper import (
    KINDS,
    MEMORY_TABLES,
    dataset_table,
    memory_table,
)

NOTE = "± is half the width of the 95 % interval; a dash where no number or no error is known."
LATEX = {"±": r"$\pm$", "−": r"$-$", "–": "--", "%": r"\%", "_": r"\_", "r=": "$r$="}
Blocks = dict[str, list[list[str]]]
"""Lines of cells, the heading first, by the corpus that they are of."""
NAMES = {"paper": "paper", "ours": "ours", "difference": "ours − paper"}


def write_tables(answers: Answers, folder: Path) -> list[Path]:
    """Write every table as `table_<number>` .csv, .md and .tex; returns the paths.

    Args:
        answers: of our records and the paper's.
        folder: made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first, *rest = [(one, {"": one.lines}) for one in plain_tables(answers.models)]
    scored = [
        (PlainTable(spec.number, spec.title, table.drop(columns="models"), []), _by_corpus(table))
        for spec, table in answers.tables
    ]
    paths = []
    for one, blocks in (first, *scored, *rest):
        stem = folder / f"table_{one.number}"
        texts = {".csv": one.table.to_csv(index=False, float_format="%.6g"),
                 ".md": _markdown(one.number, one.title, blocks),
                 ".tex": _latex(one.number, one.title, blocks)}  # fmt: skip
        for ending, text in texts.items():
            paths.append(stem.with_suffix(ending))
            paths[-1].write_text(text)
    return paths


@dataclass(frozen=True)
class PlainTable:
    """A table whose numbers have no uncertainty."""

    number: str
    title: str
    table: pd.DataFrame
    lines: list[list[str]]
    """Cells as text, the heading first."""


def plain_tables(models: pd.DataFrame) -> list[PlainTable]:
    """Table 1, and S14 to S16."""
    datasets = dataset_table(models)
    found = [PlainTable("1", "data sets and their tokens", datasets, _dataset_lines(datasets))]
    for name, (parameters, _) in MEMORY_TABLES.items():
        title = f"{parameters / 1e9:g} B parameters, GB a GPU by the paper's formulas"
        memory = memory_table(name)
        number = name.removeprefix("Table ")
        found.append(PlainTable(number, title, memory, _memory_lines(memory)))
    return found


def _by_corpus(table: pd.DataFrame) -> Blocks:
    return {str(name): _lines(rows) for name, rows in table.groupby("corpus", sort=False)}


def _lines(table: pd.DataFrame) -> list[list[str]]:
    """Heading, then for each method a line of each kind of number that it has."""
    durations = sorted(set(table.duration))
    lines = [[table.unit.iloc[0], "", *(duration_text(one, True) for one in durations)]]
    for method, rows in table.groupby("method", sort=False):
        at = rows.set_index("duration").to_dict("index")
        for kind in KINDS:
            if rows[kind].notna().any():
                cells = [_cell(at.get(duration), kind) for duration in durations]
                lines.append([str(method), NAMES[kind], *cells])
    return lines


def _dataset_lines(table: pd.DataFrame) -> list[list[str]]:
    lines = [["", "paper", "tokens", "ours", "tokens"]]
    for one in table.to_dict("records"):
        ours = "–" if pd.isna(one["dataset"]) else f"{one['dataset']} ({one['scale']})"
        tokens = [
            "–" if pd.isna(one[name]) else duration_text(one[name], True)
            for name in ("paper_tokens", "tokens")
        ]
        condition = f"{one['domain']} {one['regime'].upper()}"
        lines.append([condition, one["paper_dataset"], tokens[0], ours, tokens[1]])
    return lines


def _memory_lines(table: pd.DataFrame) -> list[list[str]]:
    wide = table.pivot_table("gigabytes", "condition", "num_gpus", sort=False)
    head = ["GPUs", "", *(str(number) for number in wide)]
    rows = zip(wide.index, wide.to_numpy(), strict=True)
    return [head, *([name, "", *(f"{one:.5g}" for one in cells)] for name, cells in rows)]


def _cell(row: dict | None, kind: str) -> str:
    if row is None or math.isnan(row[kind]):
        return "–"
    text = f"{row[kind]:{'+' if kind == 'difference' else ''}.3f}".replace("-", "−")
    if math.isnan(row[f"{kind}_low"]):
        return f"{text} ±–"
    half = (row[f"{kind}_high"] - row[f"{kind}_low"]) / 2
    return f"{text} ±{f'{half:.3f}'.removeprefix('0')}"


def _markdown(number: str, title: str, blocks: Blocks) -> str:
    lines = [f"## Table {number}: {title}", ""]
    for corpus, rows in blocks.items():
        head, *body = ("| " + " | ".join(row) + " |" for row in rows)
        lines += [*([f"By {corpus}:", ""] if corpus else []), head, "|" + " --- |" * len(rows[0])]
        lines += [*body, ""]
    return "\n".join([*lines, NOTE, ""])


def _latex(number: str, title: str, blocks: Blocks) -> str:
    """A table for each corpus, with the rules of the booktabs package."""
    lines = []
    for corpus, rows in blocks.items():
        by = f" ({corpus})" if corpus else ""
        head, *body = (" & ".join(row) + r" \\" for row in rows)
        lines += [
            r"\begin{table}", rf"\caption{{Table {number} of the paper: {title}{by}. {NOTE}}}",
            rf"\begin{{tabular}}{{ll{'r' * (len(rows[0]) - 2)}}}", r"\toprule", head,
            r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
        ]  # fmt: skip
    text = "\n".join(lines)
    for mark, latex in LATEX.items():
        text = text.replace(mark, latex)
    return text
