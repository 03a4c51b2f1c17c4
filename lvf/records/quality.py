"""What among records and runs is no result: duplicates, conflicts, failed and diverged runs."""

import json
from pathlib import Path

import pandas as pd

MEASUREMENT = ["run_id", "checkpoint", "task", "metric", "settings_id"]
COLUMNS = ["kind", "run_id", "what"]


def data_quality(scores: pd.DataFrame, runs: Path) -> pd.DataFrame:
    """One row per finding: its kind, run and what it is.

    Kinds: `duplicate` (one measurement in several files, equal values), `conflicting` (unequal
    values), `failed` and `diverged` (the state in the run's `status.json`; no final scores).

    Args:
        scores: rows as of `lvf.records.store.load`.
        runs: folder of run folders.
    """
    rows: list[dict[str, str]] = []
    repeated = scores[scores.duplicated(MEASUREMENT, keep=False)]
    for (run_id, checkpoint, *_), same in repeated.groupby(MEASUREMENT, sort=True):
        kind = "duplicate" if same.value.nunique() == 1 else "conflicting"
        files = ", ".join(f"{row.path} ({row.value:g})" for row in same.itertuples())
        what = f"{same.task.iloc[0]} {same.metric.iloc[0]} of {checkpoint}: {files}"
        rows.append({"kind": kind, "run_id": str(run_id), "what": what})
    for file in sorted(runs.glob("*/status.json")):
        status = json.loads(file.read_text())
        if status.get("state") in ("failed", "diverged"):
            error = str(status.get("error", "")).strip().split("\n")[-1]
            rows.append({"kind": status["state"], "run_id": file.parent.name, "what": error})
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS), dtype="string")


def without_diverged(scores: pd.DataFrame, quality: pd.DataFrame) -> pd.DataFrame:
    """Scores of runs that did not diverge: what one measured before is no result either."""
    diverged = quality[quality.kind == "diverged"].run_id
    return scores[~scores.run_id.isin(diverged)]


def quality_notes(quality: pd.DataFrame) -> list[str]:
    """A line for each kind, naming at most three."""
    lines = []
    for kind, rows in quality.groupby("kind", sort=True):
        names = [f"{row.run_id} {row.what}".strip() for row in rows.head(3).itertuples()]
        more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
        lines.append(f"{len(rows)} {kind}: " + "; ".join(names) + more)
    return lines
