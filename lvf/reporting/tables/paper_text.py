"""The paper's tables as CSV, Markdown and LaTeX, its numbers beside the measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lvf.reporting.select.settings import duration_text
from lvf.reporting.tables.paper import (
    KINDS,
    MEMORY_TABLES,
    PaperTable,
    dataset_table,
    memory_table,
)
from lvf.reporting.tables.text import markdown, number

NOTE = "± is half the width of the 95 % interval; a dash where no number or no error is known."
LATEX = {"±": r"$\pm$", "−": r"$-$", "–": "--", "r=": "$r$="}
NAMES = {"paper": "paper", "measured": "measured", "difference": "measured − paper"}


@dataclass(frozen=True)
class PrintedTable:
    """A table of the paper as numbers and as text."""

    number: str
    title: str
    numbers: pd.DataFrame
    blocks: dict[str, pd.DataFrame]
    """Texts, by the evidence set that they are of."""


def printed_tables(
    models: pd.DataFrame, scored: list[tuple[PaperTable, pd.DataFrame]]
) -> Iterator[PrintedTable]:
    """Every table of the paper, in its order.

    Args:
        models: of which table 1 has the tokens.
        scored: the tables of appendix D, by `lvf.reporting.tables.paper.paper_table`.
    """
    datasets = dataset_table(models)
    texts = {"": _dataset_texts(datasets)}
    yield PrintedTable("1", "data sets and their tokens", datasets, texts)
    for spec, table in scored:
        blocks = {
            str(name): _texts(rows) for name, rows in table.groupby("evidence_set", sort=False)
        }
        yield PrintedTable(spec.number, spec.title, table.drop(columns="models"), blocks)
    for name, (parameters, _) in MEMORY_TABLES.items():
        title = f"{parameters / 1e9:g} B parameters, GB a GPU by the paper's formulas"
        memory = memory_table(name)
        texts = {"": _memory_texts(memory)}
        yield PrintedTable(name.removeprefix("Table "), title, memory, texts)


def write_tables(tables: Iterator[PrintedTable], folder: Path) -> list[Path]:
    """Write every table as `table_<number>` .csv, .md and .tex; returns the paths.

    Args:
        tables: as of `printed_tables`.
        folder: made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for table in tables:
        stem = folder / f"table_{table.number}"
        texts = {".csv": table.numbers.to_csv(index=False, float_format="%.6g"),
                 ".md": _markdown(table), ".tex": _latex(table)}  # fmt: skip
        for ending, text in texts.items():
            paths.append(stem.with_suffix(ending))
            paths[-1].write_text(text)
    return paths


def _texts(table: pd.DataFrame) -> pd.DataFrame:
    """For each method a line of each kind of number that it has, a column a duration."""
    durations = sorted(set(table.duration))
    lines = []
    for method, rows in table.groupby("method", sort=False):
        at = rows.set_index("duration")
        for kind in KINDS:
            if rows[kind].notna().any():
                half = (at[f"{kind}_high"] - at[f"{kind}_low"]) / 2
                cells = [
                    _cell(at[kind].get(duration), half.get(duration), kind == "difference")
                    for duration in durations
                ]
                lines.append([str(method), NAMES[kind], *cells])
    heads = [table.unit.iloc[0], "", *(duration_text(duration, True) for duration in durations)]
    return pd.DataFrame(lines, columns=pd.Index(heads))


def _cell(value: float | None, half: float | None, with_sign: bool) -> str:
    if value is None or half is None or pd.isna(value):
        return "–"
    text = number(value, half, with_sign)
    return text if "±" in text else f"{text} ±–"


def _dataset_texts(table: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for row in table.to_dict("records"):
        measured = "–" if pd.isna(row["dataset"]) else f"{row['dataset']} ({row['scale']})"
        tokens = [
            "–" if pd.isna(row[name]) else duration_text(row[name], True)
            for name in ("paper_tokens", "tokens")
        ]
        condition = f"{row['domain']} {row['regime'].upper()}"
        lines.append([condition, row["paper_dataset"], tokens[0], measured, tokens[1]])
    return pd.DataFrame(lines, columns=pd.Index(["", "paper", "tokens", "measured", "tokens"]))


def _memory_texts(table: pd.DataFrame) -> pd.DataFrame:
    wide = table.pivot_table("gigabytes", "condition", "num_gpus", sort=False)
    texts = wide.map("{:.5g}".format).rename(columns=str).reset_index(names="GPUs")
    return texts.rename_axis(columns=None)


def _markdown(table: PrintedTable) -> str:
    lines = [f"## Table {table.number}: {table.title}", ""]
    for name, texts in table.blocks.items():
        lines += [*([f"By {name}:", ""] if name else []), markdown(texts), ""]
    return "\n".join([*lines, NOTE, ""])


def _latex(table: PrintedTable) -> str:
    """A table for each evidence set, with the rules of the booktabs package."""
    blocks = []
    for name, texts in table.blocks.items():
        by = f" ({name})" if name else ""
        caption = f"Table {table.number} of the paper: {table.title}{by}. {NOTE}"
        columns = "ll" + "r" * (len(texts.columns) - 2)
        escaped = caption.replace("%", r"\%").replace("_", r"\_")
        blocks.append(
            texts.to_latex(index=False, escape=True, column_format=columns, caption=escaped)
        )
    text = "\n".join(blocks)
    for mark, latex in LATEX.items():
        text = text.replace(mark, latex)
    return text
