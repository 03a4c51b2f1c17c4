"""Where each number of the page comes from: its records, short enough to be embedded."""

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from lvf.records.archive import read_bytes
from lvf.records.checkpoints import measures, names
from lvf.reporting.stats.contrast import parts_of

PAPER_TASKS = {"retention": "forgetting"}
"""Measures that published records have under another name."""
IDENTITY = ["run_id", "checkpoint"]


class Provenance:
    """Records by number, and the numbers of every model's records.

    A published number is shown as a record of the same form.

    Args:
        models: `Selection.models` of `lvf.reporting.select.selection.select`.
        scores: rows of `lvf.records.store.load`, of which the models were made.
    """

    def __init__(self, models: pd.DataFrame, scores: pd.DataFrame) -> None:
        self.records: list[dict[str, Any]] = []
        self.models: dict[str, list[int]] = defaultdict(list)
        """By `run_id/checkpoint`."""
        self._by_path: dict[str, int] = {}
        self._by_task: dict[tuple[str, str], int] = {}
        """By model and task, the newest record."""
        published = scores.source == "paper"
        unique = scores[published | ~scores.duplicated("path")].sort_values("created_at")
        # like beside like: they compress best
        for row in unique.sort_values(["task", *IDENTITY], kind="stable").to_dict("records"):
            tree = _published(row) if row["source"] == "paper" else _record(Path(row["path"]))
            model = f"{row['run_id']}/{row['checkpoint']}"
            self.models[model].append(len(self.records))
            self._by_task[model, row["task"]] = len(self.records)
            if row["source"] != "paper":
                self._by_path[row["path"]] = len(self.records)
            self.records.append(tree)
        paths = [f"{part}_path" for name in measures() for part in parts_of(name)]
        columns = [*IDENTITY, "source", "domain", *dict.fromkeys(paths)]
        self._rows = models[columns].to_dict("index") if len(models) else {}

    def of(self, labels: Iterable[Hashable], measure: str) -> list[int]:
        """Numbers of the records behind one measure of some models.

        Args:
            labels: of rows of the models.
            measure: of `lvf.records.checkpoints.measures`, or a task that is none of them.
        """
        found: list[int | None] = []
        for label in labels:
            row = self._rows[label]
            model = f"{row['run_id']}/{row['checkpoint']}"
            if row["source"] == "paper" or measure not in measures():
                task = PAPER_TASKS.get(measure, measure)
                if measure == "target":
                    task = names().target[row["domain"]][0]
                found.append(self._by_task.get((model, task)))
            else:
                paths = [str(row[f"{part}_path"]) for part in parts_of(measure)]
                found += [self._by_path.get(path) for path in paths]
        return [number for number in found if number is not None]


def _record(path: Path) -> dict[str, Any]:
    """A record without its per-item scores, which stay in the file that it names."""
    tree = json.loads(read_bytes(path))
    for metric in tree["metrics"].values():
        if metric["items"] is not None:
            metric["items"] = f"{len(metric['items'])} scores, in the file"
    return {"file": "/".join(path.parts[-3:])} | tree


def _published(row: dict[Any, Any]) -> dict[str, Any]:
    """A published number; what is unknown is left out."""
    axes = ("model", "domain", "regime", "dataset", "method_name", "duration", "duration_unit")
    known = {name: row[name] for name in axes if not pd.isna(row[name])}
    metric = {name: row[name] for name in ("value", "stderr", "n") if not pd.isna(row[name])}
    return {
        "file": "results/paper.csv", "source": "paper", "task": row["task"], "axes": known,
        "metrics": {row["metric"]: metric}, "settings": json.loads(row["settings"]),
    }  # fmt: skip
