"""What measurements leave behind: immutable JSON, one file a (run, checkpoint, task)."""

import importlib.metadata
import json
import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import lvf
from lvf.records.archive import read_bytes

SCHEMA_VERSION = 2
ITEM_DIGITS = 8
"""Significant digits of an item's score in a file: a float32 has seven, a float64 packs badly."""
ALTERATIONS = ("strength", "truncate", "damp")
"""Axes of a checkpoint that was altered after training (`lvf.analysis.alter`), in one of them."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number with its uncertainty."""

    value: float
    stderr: float | None = None
    """Standard error of the mean over items."""
    n: int | None = None
    """Number of items."""
    items: list[float] | None = None
    """Per-item scores in the order of the benchmark file, for paired comparisons; a record keeps
    `ITEM_DIGITS` of them."""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Where a measured model stands in the grid."""

    scale: str
    model: str
    domain: str
    regime: str
    dataset: str
    method: str
    """`base`, `full` or `lora`."""
    method_name: str
    """Label within the sweep, such as `lora_r8`."""
    rank: int | None = None
    alpha: int | None = None
    target_modules: list[str] | None = None
    optimizer: str | None = None
    lr_peak: float | None = None
    seed: int | None = None
    run_duration: float | None = None
    """Length that the run was planned for, in `duration_unit`."""
    duration: float | None = None
    """Length trained at this checkpoint, in `duration_unit`."""
    duration_unit: str | None = None
    cooled_down: bool = True
    """False for checkpoints measured before the end of their schedule."""
    replay: float | None = None
    """Share of source text in the training rows; None where there was none."""
    first_run: str | None = None
    """Of a run that starts from another run's export: that run's ID."""
    first_adapter: str | None = None
    """Of such a run of LoRA, what became of the first run's adapter: `merged` or `kept`."""
    strength: float | None = None
    """Of a checkpoint whose update was scaled after training: by how much."""
    truncate: int | None = None
    """Of a checkpoint whose update was cut to a rank after training: to which."""
    damp: float | None = None
    """Of a checkpoint whose intruder dimensions were scaled after training: by how much."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything known about one measurement."""

    source: str
    """`lvf` for our runs, `paper` for published numbers."""
    run_id: str
    checkpoint: str
    """Name of the export, such as `ba000400`; `base` for the untrained model."""
    task: str
    axes: Axes
    metrics: dict[str, Metric]
    settings: dict[str, Any] = field(default_factory=dict)
    """What the measurement depends on: shots, limit, dtype, batch size, backend, file hashes."""
    training: dict[str, float | int | None] = field(default_factory=dict)
    """Cost so far: batch, tokens, loss_tokens, train_flops, train_seconds, trainable_parameters,
    and peak_memory_bytes: the most of any device (0: not known)."""
    versions: dict[str, str] = field(default_factory=dict)
    created_at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat())
    schema_version: int = SCHEMA_VERSION


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of lvf, which may run from a checkout without being installed, and of packages."""
    return {"lvf": lvf.__version__} | {one: importlib.metadata.version(one) for one in packages}


def record_path(folder: Path, run_id: str, checkpoint: str, task: str, settings_hash: str) -> Path:
    """File of a record; its settings take part: another limit makes another record."""
    return folder / run_id / f"{checkpoint}--{task}--{settings_hash}.json"


def write_record(path: Path, record: Record) -> None:
    """Write a record aside, then rename: readers never see half a file.

    Raises:
        ValueError: a metric is not finite (a diverged model has no score).
    """
    for name, metric in record.metrics.items():
        if not math.isfinite(metric.value):
            raise ValueError(f"{record.run_id} {record.task} {name} is {metric.value}")
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = asdict(record)
    for metric in tree["metrics"].values():
        if metric["items"]:
            metric["items"] = [float(f"{score:.{ITEM_DIGITS}g}") for score in metric["items"]]
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    with os.fdopen(descriptor, "w") as file:
        json.dump(tree, file)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)


def read_record(path: Path) -> Record:
    """One record from its file.

    Raises:
        ValueError: the file is not a record of this schema; names it.
    """
    try:
        tree = json.loads(read_bytes(path).decode())
        tree["axes"] = Axes(**tree["axes"])
        tree["metrics"] = {name: Metric(**one) for name, one in tree["metrics"].items()}
        record = Record(**tree)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a record of schema {SCHEMA_VERSION}: {error}") from error
    if record.schema_version != SCHEMA_VERSION:
        raise ValueError(f"{path} is a record of schema {record.schema_version}")
    return record
