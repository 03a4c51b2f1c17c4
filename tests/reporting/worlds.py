"""Made-up grids whose answers are known, as record files."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from lvf.config.schema import stable_hash
from lvf.records.checkpoints import models
from lvf.records.schema import Axes, Metric, Record
from lvf.records.store import load
from lvf.reporting.claims.claim import Claim
from lvf.reporting.claims.judge import Verdict, judge
from lvf.reporting.select.selection import select
from lvf.reporting.select.variant import with_variants

from .conftest import METRICS

SHARP, BLUNT = 0.001, 0.5
"""Standard error of every score, and deviation of the seeds: little noise, and too much."""
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LENGTHS = {"ift": (1.0, 2.0, 8.0), "cpt": (1e5, 2e5, 4e5)}
METHODS = ("full", "r2", "r8", "r32")

# Target scores and losses of forgetting average, by method and length; the base has 0.1 and 0.9.
TARGET = {
    ("code", "ift"): {"full": (0.50, 0.60, 0.55), "r32": (0.40, 0.50, 0.59),
                      "r8": (0.30, 0.40, 0.50), "r2": (0.20, 0.30, 0.40)},
    ("math", "ift"): {"full": (0.50, 0.60, 0.55), "r32": (0.42, 0.48, 0.59),
                      "r8": (0.40, 0.45, 0.57), "r2": (0.20, 0.30, 0.40)},
    ("code", "cpt"): {"full": (0.20, 0.30, 0.40), "r32": (0.18, 0.22, 0.25),
                      "r8": (0.16, 0.18, 0.20), "r2": (0.14, 0.145, 0.15)},
}  # fmt: skip
TARGET["math", "cpt"] = TARGET["code", "cpt"]
LOSS = {
    ("code", "ift"): {"full": (0.10, 0.15, 0.20), "r32": (0.04, 0.06, 0.08),
                      "r8": (0.02, 0.03, 0.04), "r2": (0.01, 0.015, 0.02)},
    ("math", "ift"): {"full": (0.05, 0.075, 0.10), "r32": (0.03, 0.05, 0.085),
                      "r8": (0.02, 0.03, 0.04), "r2": (0.005, 0.01, 0.015)},
    ("code", "cpt"): {"full": (0.03, 0.045, 0.06), "r32": (0.012, 0.018, 0.024),
                      "r8": (0.006, 0.009, 0.012), "r2": (0.003, 0.0045, 0.006)},
    ("math", "cpt"): {"full": (0.010, 0.015, 0.020), "r32": (0.006, 0.009, 0.012),
                      "r8": (0.004, 0.006, 0.008), "r2": (0.001, 0.002, 0.003)},
}  # fmt: skip
Place = tuple[str, str, str, int]
"""Domain, regime, method and index of the length."""


def told(folder: Path, *claims: Claim) -> dict[str, Verdict]:
    """Verdicts by the claims' names."""
    scores = load(folder)
    found = select(with_variants(models(scores)), scores)
    verdicts = judge(found.models, scores, claims, found.altered)
    return {one.name: one for one in verdicts}


def put(
    folder: Path,
    axes: Axes,
    scores: dict[str, float | dict[str, Metric]],
    stderr: float = SHARP,
    training: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    num_seeds: int = 3,
    altered: dict[str, float] | None = None,
) -> None:
    """Write one record a task and seed: a score of this error, or whole metrics.

    With `altered`, such as {"strength": 0.5}, of that run's checkpoint after the alteration.

    The seeds deviate by -stderr, 0 and stderr, in an order that differs between settings.
    """
    run_id = f"{axes.domain}-{axes.regime}-{stable_hash(vars(axes))}"
    if axes.method != "base" and num_seeds > 1:
        order = np.random.default_rng(int(run_id[-8:], 16)).permutation(num_seeds)
        for seed, away in enumerate(np.linspace(-stderr, stderr, num_seeds)[order]):
            moved = {task: _moved(score, float(away)) for task, score in scores.items()}
            own = replace(axes, seed=seed)
            put(folder, own, moved, stderr, training, settings, 1, altered)
        return
    end = "end" + "".join(f"-{key}{value:g}" for key, value in (altered or {}).items())
    axes = replace(axes, **(altered or {}))  # type: ignore[arg-type]
    for task, score in scores.items():
        metrics = score
        if not isinstance(score, dict):
            metrics = {METRICS[task]: Metric(value=score, stderr=stderr, n=100)}
        record = Record(
            source="lvf", run_id=run_id, checkpoint=end, task=task, axes=axes,
            metrics=metrics, training=training or {}, settings=settings or {},  # type: ignore[arg-type]
        )  # fmt: skip
        path = folder / run_id / f"{end}--{task}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(record)))


def _moved(score: float | dict[str, Metric], away: float) -> float | dict[str, Metric]:
    """A score, or whole metrics with their items, moved by some distance."""
    if not isinstance(score, dict):
        return score + away
    return {
        name: replace(
            one, value=one.value + away, items=one.items and [x + away for x in one.items]
        )
        for name, one in score.items()
    }


def where(domain: str, regime: str, method: str, duration: float, **changes: Any) -> Axes:
    """Axes of full finetuning, of the base, or of LoRA: `r8` has alpha 16 and all maps."""
    here: dict[str, Any] = {
        "scale": "embedded", "model": "embedded", "domain": domain, "regime": regime,
        "dataset": f"{domain}_{regime}", "method": method, "method_name": method,
    }  # fmt: skip
    if method != "base":
        here |= {"optimizer": "lion_pytorch.Lion", "lr_peak": 1e-3, "seed": 0, "duration": duration,
                 "run_duration": duration}  # fmt: skip
        here["duration_unit"] = "epochs" if regime == "ift" else "tokens"
    if method.startswith("r"):
        rank = int(method[1:])
        here |= {"method": "lora", "method_name": f"lora_r{rank}", "rank": rank}
        here |= {"alpha": 2 * rank, "target_modules": ALL}
    return Axes(**(here | changes))


def target_task(domain: str) -> str:
    return {"code": "humaneval", "math": "gsm8k"}[domain]


def scores(domain: str, target: float, loss: float) -> dict[str, Any]:
    """Target score and NLL, the three forgetting tasks, and source NLL that rises with the loss."""
    kept = dict.fromkeys(("hellaswag", "arc_challenge", "winogrande"), 0.9 - loss)
    return {
        target_task(domain): target,
        **kept,
        "nll_source": 0.5 + 10 * loss,
        "nll_target": 1.5 - target,
    }


def grid(
    folder: Path, look_up: Callable[[Place], tuple[float, float]], stderr: float = SHARP
) -> Path:
    """The four conditions by four methods by three lengths; `look_up` gives target and loss."""
    for domain, regime in TARGET:
        put(folder, where(domain, regime, "base", 0), scores(domain, 0.1, 0.0), stderr)
        for method in METHODS:
            for index, length in enumerate(LENGTHS[regime]):
                target, loss = look_up((domain, regime, method, index))
                axes = where(domain, regime, method, length)
                put(folder, axes, scores(domain, target, loss), stderr)
    return folder


def as_the_paper_says(place: Place) -> tuple[float, float]:
    """Target score and loss of a world in which every claim of the main grid holds."""
    domain, regime, method, index = place
    return TARGET[domain, regime][method][index], LOSS[domain, regime][method][index]
