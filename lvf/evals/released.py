"""Measure the models that the paper's authors released, beside the base they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.config.validate import require_consent
from lvf.errors import UserError
from lvf.evals.measure import Subject, benchmarks_dir, measure, task_inputs
from lvf.evals.subjects import base_subject
from lvf.models.released import (
    Released,
    adapter_facts,
    check_released,
    list_released,
    load_released,
)
from lvf.records.schema import Axes

NEEDS_HELDOUT = ("nll_target", "nll_validation", "kl_base")
"""Tasks on text that was held out of our training; the authors trained on all of it."""


def measure_released(where: str, overrides: Sequence[str]) -> list[Path]:
    """Measure every released checkpoint, and the base, on the tasks whose records are missing.

    Args:
        where: As `lvf.models.released.list_released` takes it.
        overrides: Settings of the command line, such as `paths.records=...`.

    Returns:
        Paths of all records.

    Raises:
        UserError: nothing there, a model of unknown domain, or a missing file or task.
    """
    conditions = released_conditions(where, overrides)
    for cfg, _ in conditions:
        _leave_out_tasks_on_held_out_text(cfg)
        _check(cfg)
    paths: list[Path] = []
    for cfg, found in conditions:
        records = Path(cfg.paths.records)
        paths += measure(released_base(cfg), cfg, {}, records)
        for one in found:
            paths += measure(released_subject(one, cfg), cfg, {}, records)
    return paths


def released_conditions(
    where: str, overrides: Sequence[str]
) -> list[tuple[RunConfig, list[Released]]]:
    """The conditions of the released models there: each one's configuration and checkpoints.

    Raises:
        UserError: nothing there, a model of unknown domain, or one that is not to be trusted.
    """
    found = list_released(where)
    pairs = dict.fromkeys(_condition(one) for one in found)
    conditions = [
        (_config(*pair, overrides), [one for one in found if _condition(one) == pair])
        for pair in pairs
    ]
    for cfg, checkpoints in conditions:
        for one in checkpoints:
            check_released(one, cfg.model)
    _show(found)
    return conditions


def released_base(cfg: RunConfig) -> Subject:
    """The base that the released models of a condition came from."""
    base = base_subject(cfg)
    return replace(base, source="released", run_id=f"released-{base.run_id}")


def released_subject(released: Released, cfg: RunConfig) -> Subject:
    """A released checkpoint as a thing to measure; downloads what an adapter says about itself."""
    facts = adapter_facts(released) if released.method == "lora" else {}
    rank = facts.get("rank", released.rank)
    if released.rank not in (None, rank):
        print(f"WARNING: {released.repo} {released.branch}: the name says rank {released.rank}, "
              f"the adapter has {rank}, which counts")  # fmt: skip
    method_name = f"lora_r{rank}" if released.method == "lora" else "full"
    axes = Axes(
        scale=cfg.scale.name,
        model=cfg.model.name,
        domain=cfg.domain.name,
        regime=cfg.regime.name,
        dataset=cfg.data.name,
        method=released.method,
        method_name=method_name,
        rank=rank,
        alpha=facts.get("alpha", released.alpha),
        target_modules=facts.get("target_modules"),
        lr_peak=released.lr_peak,
        run_duration=released.duration,
        duration=released.duration,
        duration_unit=cfg.regime.duration_unit,
    )
    run_id, checkpoint = f"released-{released.name}", released.branch.replace("/", "--")
    return Subject(
        source="released",
        run_id=run_id,
        checkpoint=checkpoint,
        axes=axes,
        training={},
        load=lambda: load_released(released, cfg.model),
        folder=Path(cfg.paths.runs) / run_id / "evals" / checkpoint,
    )


def _condition(released: Released) -> tuple[str | None, str | None]:
    return released.domain, released.regime


def _config(domain: str | None, regime: str | None, overrides: Sequence[str]) -> RunConfig:
    """The configuration of a domain and regime; what the user gave counts."""
    given = {override.lstrip("+").split("=")[0] for override in overrides}
    told: dict[str, Any] = {"scale": "paper", "domain": domain, "regime": regime}
    wanted = {} if "experiment" in given else {k: v for k, v in told.items() if k not in given}
    if None in wanted.values():
        raise UserError(
            "a released model whose name begins with none of starcoder, openwebmath, magicoder and "
            "metamath: say what it was trained on with domain=code|math regime=cpt|ift"
        )
    return compose(*(f"{key}={value}" for key, value in wanted.items()), *overrides)


def _leave_out_tasks_on_held_out_text(cfg: RunConfig) -> None:
    left_out = [task for task in cfg.evals.tasks if task in NEEDS_HELDOUT]
    cfg.evals.tasks = [task for task in cfg.evals.tasks if task not in left_out]
    if left_out:
        print(f"left out {', '.join(left_out)}: the authors trained on what we hold out")


def _check(cfg: RunConfig) -> None:
    require_consent(cfg)
    for task in cfg.evals.tasks:
        task_inputs(task, cfg, {}, benchmarks_dir(cfg))


def _show(found: list[Released]) -> None:
    for one in found:
        method = f"LoRA r={one.rank}" if one.rank else one.method
        unit = {"cpt": "tokens", "ift": "epochs"}.get(one.regime or "", "")
        told = f"of unknown duration, which {one.branch!r} does not tell"
        if one.duration is not None:
            told = f"after {one.duration:g} {unit}"
        print(f"{one.repo} {one.branch}: {method} {told}")
