"""Reads record files, and the paper's published numbers, into one typed table."""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lvf.config.schema import shipped, stable_hash
from lvf.errors import UserError
from lvf.records.archive import read_bytes, record_files
from lvf.records.schema import SCHEMA_VERSION, Axes, Record, read_record

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PAPER_CSV = shipped("results/paper.csv")
TOKENS_OF = {
    "nll_per_token": "tokens",
    "kl_per_token": "tokens",
    "kl_response_per_token": "response_tokens",
}
"""Ratios of sums over documents: the metric that counts each one's tokens."""
AXES = [one.name for one in fields(Axes)]
COSTS = ["tokens", "train_flops", "train_seconds", "peak_memory_bytes"]
"""Of the training so far: tokens without padding, operations, seconds on its devices, and the most
memory of any of them."""
NUMBERS = [
    "rank",
    "alpha",
    "lr_peak",
    "seed",
    "run_duration",
    "duration",
    "replay",
    "strength",
    "truncate",
    "damp",
    "value",
    "stderr",
    "n",
    *COSTS,
]
WHOLE = ("rank", "seed", "n", "truncate")
TEXTS = ["source", "run_id", "checkpoint", "task", "metric", "settings_id", "settings", "path"]
COLUMNS = [*TEXTS, "created_at", *AXES, *COSTS, "value", "stderr", "n", "has_items"]
PAPER_ITEMS = {
    "humaneval": (164,), "gsm8k": (1319,), "mmlu": (14042,), "forgetting": (10042, 1172, 1267),
}  # fmt: skip
"""Independent items behind a published score: HumanEval's problems, as the 50 answers to each are
alike (section 3.2), else test items."""
PAPER_NOISE = {"stderr": "binomial, from the published value and the number of items"}


class RecordWarning(UserWarning):
    """Something among the records that the reader of a report must know."""


def load(source: Path | Iterable[Path]) -> pd.DataFrame:
    """One row per (run_id, checkpoint, task, metric), with all axes as typed columns.

    Files that are not records are left out and named in one `RecordWarning`. A missing or empty
    folder gives an empty table of the same columns.

    Args:
        source: the folder where records were written, or a packed file of records
            (`lvf.records.archive`); or the record files themselves.
    """
    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    for path in record_files(source) if isinstance(source, Path) else sorted(source):
        try:  # fields that an older record lacks have their defaults
            rows += _rows_of(read_record(path), path)
        except (AttributeError, OSError, TypeError, ValueError) as error:
            broken.append(f"{path}: {type(error).__name__}: {error}")
    if broken:
        warnings.warn(
            f"{len(broken)} files are not records of schema {SCHEMA_VERSION} and were left out:\n  "
            + "\n  ".join(broken),
            RecordWarning,
            stacklevel=2,
        )
    return _typed(pd.DataFrame(rows))


@functools.lru_cache(maxsize=16384)
def items(path: str, metric: str) -> np.ndarray | None:
    """Per-item scores (num_items,) of one metric of one record file, read when asked for.

    Their mean is the metric's value. A likelihood or divergence is a ratio, nats over tokens, of
    sums over documents; its items are the linearised R + (nats_i - R tokens_i) / mean(tokens),
    whose standard error is the ratio's (Cochran, Sampling Techniques, 1977, section 6.4), also of
    differences.
    """
    metrics = json.loads(read_bytes(Path(path)))["metrics"]
    if metrics[metric]["items"] is None:
        return None
    scores = np.asarray(metrics[metric]["items"], dtype=np.float64)
    if metric in TOKENS_OF:
        value, tokens = metrics[metric]["value"], np.asarray(metrics[TOKENS_OF[metric]]["items"])
        scores = value + (scores - value) * tokens / tokens.mean()
    return scores


def load_paper(path: Path = PAPER_CSV) -> pd.DataFrame:
    """The paper's published numbers in the columns of `load`, with source `paper`.

    The paper has one run a condition and no errors; `stderr` is the binomial noise of the items.
    HumanEval's is that of 164 problems, the most it can be; the forgetting average's takes its
    three parts to be as accurate as their mean; MT-bench has none. No seed noise is known. The one
    base model stands beside every data set.
    """
    published = pd.read_csv(path)
    base = published[published.method == "base"].drop(columns=["dataset", "regime", "domain"])
    trained = published[published.method != "base"].copy()
    datasets = trained[["dataset", "regime", "domain", "duration_unit"]].drop_duplicates()
    base = base.drop(columns="duration_unit").merge(datasets, how="cross")
    trained["method_name"] = [
        "full" if method == "full" else f"lora_r{rank:.0f}"
        for method, rank in zip(trained.method, trained["rank"], strict=True)
    ]
    trained["run_id"] = [
        f"paper-{one.dataset}-{one.method_name}-{one.duration:g}" for one in trained.itertuples()
    ]
    base["run_id"], base["method_name"] = "base-llama2_7b-" + base.dataset, "base"
    both = pd.concat([trained.assign(checkpoint="published"), base.assign(checkpoint="base")])
    both = both.assign(
        source="paper", scale="paper", model="llama2_7b", run_duration=both.duration,
        # App. C: one run, measured hot at 2, 4 and 6 epochs
        cooled_down=(both.dataset != "tulu_v2_mix") | (both.method == "base"),
        path=str(path), settings_id="published", settings=json.dumps(PAPER_NOISE), has_items=False,
    )  # fmt: skip
    both["stderr"] = [
        _binomial_stderr(one.value, PAPER_ITEMS.get(one.task)) for one in both.itertuples()
    ]
    both["n"] = both.task.map(lambda task: sum(PAPER_ITEMS[task]) if task in PAPER_ITEMS else None)
    return _typed(both)


def connect() -> DuckDBPyConnection:
    """A new DuckDB in memory; imported here, so that most commands do without it.

    Raises:
        UserError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise UserError(
            "where= and export=true need duckdb, which is not installed: pip install duckdb"
        ) from error
    return duckdb.connect()


def export(table: pd.DataFrame, stem: Path) -> list[Path]:
    """Write a table as `stem`.csv and `stem`.parquet, typed; returns both paths."""
    connection = connect()
    connection.register("exported", table)
    everything = connection.sql("select * from exported")
    paths = [stem.with_suffix(".csv"), stem.with_suffix(".parquet")]
    everything.write_csv(str(paths[0]), header=True)
    everything.write_parquet(str(paths[1]))
    return paths


def _binomial_stderr(accuracy: float, items: tuple[int, ...] | None) -> float | None:
    """Standard error of the mean of accuracies that are alike, each over its number of items."""
    if items is None:
        return None
    return math.sqrt(accuracy * (1 - accuracy) * sum(1 / n for n in items)) / len(items)


def _rows_of(record: Record, path: Path) -> list[dict[str, Any]]:
    """One row a metric of one record.

    Raises:
        ValueError: what should be a number is none.
    """
    modules = record.axes.target_modules
    about = vars(record) | vars(record.axes) | {name: record.training.get(name) for name in COSTS}
    about |= {
        "target_modules": modules and ",".join(modules),
        "path": str(path),
        "settings": json.dumps(record.settings, sort_keys=True),
        "settings_id": stable_hash(record.settings),
    }
    rows = [
        about | vars(metric) | {"metric": name, "has_items": metric.items is not None}
        for name, metric in record.metrics.items()
    ]
    return [
        {name: _number(row[name]) if name in NUMBERS else row[name] for name in COLUMNS}
        for row in rows
    ]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows as a table whose columns have their types even where it is empty."""
    frame = rows.reindex(columns=COLUMNS).reset_index(drop=True)
    for name in COLUMNS:
        if name in WHOLE:
            frame[name] = pd.to_numeric(frame[name]).astype("Int64")
        elif name in NUMBERS:
            frame[name] = pd.to_numeric(frame[name]).astype("float64")
        elif name in ("cooled_down", "has_items"):
            frame[name] = frame[name].astype("bool")
        else:
            frame[name] = frame[name].astype("string")
    return frame
