"""Where each number of the page comes from: its records, short enough to be embedded."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd

from lvf.records.archive import read_bytes
from lvf.records.checkpoints import names
from lvf.reporting.stats.contrast import parts_of

PAPER_TASKS = {"retention": "forgetting"}
"""Measures that published records have under another name."""


class Provenance:
    """Records by a short id, and the ids of every model's records.

    A published number is shown as a record of the same form.
    """

    def __init__(self, scores: pd.DataFrame) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.models: dict[str, list[str]] = defaultdict(list)
        self._ids: dict[tuple[str, str], str] = {}
        for row in scores.to_dict("records"):
            model = f"{row['run_id']}/{row['checkpoint']}"
            published = row["source"] == "paper"
            key = f"{model}/{row['task']}" if published else f"{model}/{Path(row['path']).name}"
            if key not in self.records:
                self.records[key] = _published(row) if published else _record(Path(row["path"]))
                self.models[model].append(key)
            self._ids[model, row["path"] if not published else row["task"]] = key

    def of(self, rows: pd.DataFrame, measure: str) -> list[str]:
        """Ids of the records behind one measure of some models.

        A measure is one of `lvf.records.checkpoints.measures`, or a task that is none of them.
        """
        found: list[str | None] = []
        places = [f"{name}_path" for name in parts_of(measure)]
        needed = rows[["run_id", "checkpoint", "source", "domain", *places]]
        for row in needed.to_dict("records"):
            model = f"{row['run_id']}/{row['checkpoint']}"
            if row["source"] == "paper":
                task = PAPER_TASKS.get(measure, measure)
                if measure == "target":
                    task = names().target[row["domain"]][0]
                found.append(self._ids.get((model, task)))
            else:
                found += [self._ids.get((model, str(row[path]))) for path in places]
        return [key for key in found if key is not None]


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
