"""Made-up measurements with known answers, written as the evaluation writes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvf.config.schema import stable_hash
from lvf.records.schema import Axes, Metric, Record, record_path, write_record

Write = Callable[..., Path]
ALL_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
METRICS = {
    "gsm8k": "exact_match,strict-match",
    "humaneval": "pass@1",
    "hellaswag": "acc",
    "arc_challenge": "acc",
    "winogrande": "acc",
    "nll_target": "nll_per_token",
    "nll_validation": "nll_per_token",
    "nll_source": "nll_per_token",
    "kl_base": "kl_per_token",
}


def axes(method: str = "full", **changes: Any) -> Axes:
    """Where a model of embedded maths stands; a base model has no method's axes."""
    here = {"scale": "embedded", "model": "tiny", "domain": "math", "regime": "ift",
            "dataset": "embedded_math_ift", "method": method, "method_name": method}  # fmt: skip
    if method != "base":
        here |= {"optimizer": "lion", "lr_peak": 1e-3, "seed": 0, "run_duration": 8.0,
                 "duration": 8.0, "duration_unit": "epochs"}  # fmt: skip
    if method == "lora":
        rank = changes.get("rank", 8)
        here |= {"method_name": f"lora_r{rank}", "rank": rank, "alpha": 2.0 * rank,
                 "target_modules": ALL_MODULES}  # fmt: skip
    return Axes(**(here | changes))


def metric(score: float | np.ndarray | list[float]) -> Metric:
    """A bare number, or items with their mean and its standard error."""
    if isinstance(score, float):
        return Metric(value=score, stderr=0.01, n=100)
    array = np.asarray(score, dtype=float)
    stderr = float(array.std(ddof=1) / np.sqrt(len(array)))
    items = [float(x) for x in array]
    return Metric(value=float(array.mean()), stderr=stderr, n=len(array), items=items)


def metrics_of(task: str, score: Any) -> dict[str, Metric]:
    """Metrics of one record; a likelihood with items has documents of one token each.

    A pair (nats, tokens) of arrays stands for documents of those sizes, a mapping for several
    metrics of one task.
    """
    if isinstance(score, dict):
        return {name: metric(value) for name, value in score.items()}
    if isinstance(score, tuple):
        nats, tokens = (np.asarray(part, dtype=float) for part in score)
        ratio = float(nats.sum() / tokens.sum())
        items = [float(x) for x in nats / tokens]
        told = Metric(value=ratio, stderr=0.01, n=len(nats), items=items)
        count = Metric(value=float(tokens.sum()), items=[float(x) for x in tokens])
        return {METRICS[task]: told, "tokens": count}
    told = metric(score)
    if task.startswith("nll") and told.items is not None:
        count = Metric(value=float(len(told.items)), items=[1.0] * len(told.items))
        return {METRICS[task]: told, "tokens": count}
    return {METRICS[task]: told}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(axes(...), gsm8k=..., nll_source=...)` writes a record a task; returns the folder."""

    def write(
        where: Axes,
        run_id: str | None = None,
        checkpoint: str | None = None,
        settings: dict[str, Any] | None = None,
        created_at: str = "2026-01-01T00:00:00+00:00",
        **scores: Any,
    ) -> Path:
        base = where.method == "base"
        run_id = run_id or f"{where.dataset}-{where.method_name}-{stable_hash(vars(where))}"
        checkpoint = checkpoint or ("base" if base else "ba000400")
        for task, score in scores.items():
            told = {"limit": None} | (settings or {})
            record = Record(
                source="lvf", run_id=run_id, checkpoint=checkpoint, task=task, axes=where,
                metrics=metrics_of(task, score), settings=told, created_at=created_at,
            )  # fmt: skip
            path = record_path(tmp_path, run_id, checkpoint, task, stable_hash(told))
            write_record(path, record)
        return tmp_path

    return write
