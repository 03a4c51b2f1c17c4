"""The models that a run offers for measurement: its exports, and the base they came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from lvf.config.compose import first_of
from lvf.config.schema import RunConfig
from lvf.config.validate import require_consent
from lvf.data.shards import Prepared, prepare
from lvf.evals.measure import (
    Subject,
    benchmarks_dir,
    measure,
    prompt_of_question,
    task_inputs,
)
from lvf.evals.suite import check_task
from lvf.models.counts import num_parameters, num_trainable_parameters
from lvf.models.load import (
    load_base,
    load_export,
    load_model_config,
    load_tokenizer,
    read_export_facts,
)
from lvf.records.schema import Axes
from lvf.runs.run_folder import RunFolder
from lvf.runs.run_id import base_id, run_id


def measure_run(cfg: RunConfig, prepared: Prepared, folder: RunFolder) -> list[Path]:
    """Measure every export of a run, and its base, on the tasks whose records are missing.

    Returns the paths of all their records, the base's first.
    """
    subjects = export_subjects(cfg, folder)
    return [*measure_all(subjects, cfg, prepared), *measure_first_task(subjects, cfg)]


def measure_first_task(subjects: list[Subject], cfg: RunConfig) -> list[Path]:
    """Measure the exports of a sequence's second run on the task of its first.

    The records say the domain, regime and data of the first task, and `first_run`, so that they
    stand beside those of the first run.

    Returns:
        The paths of these records, and those of the first run; none of a run that is no second.
    """
    first = _first_task(cfg)
    if first is None:
        return []
    records, texts = Path(cfg.paths.records), _texts(prepare(first))
    place = _shared_axes(first)
    paths = [
        path
        for subject in subjects
        for path in measure(
            replace(subject, axes=replace(subject.axes, **place)), first, texts, records
        )
    ]
    return [*paths, *sorted((records / run_id(first)).glob("*.json"))]


def _first_task(cfg: RunConfig) -> RunConfig | None:
    """The first run of a sequence, to be measured as the second is, on its own task alone."""
    first = first_of(cfg)
    if first is None:
        return None
    tasks = [first.domain.target_task, "nll_target"]
    return replace(first, evals=replace(cfg.evals, tasks=tasks))


def measure_all(subjects: Iterable[Subject], cfg: RunConfig, prepared: Prepared) -> list[Path]:
    """Measure models and the base that they came from, on the tasks whose records are missing.

    Returns the paths of all their records, the base's first. Runs that share a base and end
    together measure it once: the others wait.
    """
    texts, records = _texts(prepared), Path(cfg.paths.records)
    tuned = [path for subject in subjects for path in measure(subject, cfg, texts, records)]
    base = base_subject(cfg)
    base.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(base.folder / ".lock"):
        return [*measure(base, cfg, texts, records), *tuned]


def check_measurable(cfg: RunConfig, prepared: Prepared) -> None:
    """Find out before a training whether its tasks could be measured after it.

    Raises:
        UserError: a task, or a file or column of it, is missing, or its prompts do not fit.
    """
    if first := _first_task(cfg):
        require_consent(first)
        check_measurable(first, prepare(first))
    benchmarks, evals = benchmarks_dir(cfg), cfg.evals
    for task in evals.tasks:
        task_inputs(task, cfg, _texts(prepared), benchmarks)
    tokenizer, shape = load_tokenizer(cfg.model), load_model_config(cfg.model)
    max_length = getattr(shape, "max_position_embeddings", tokenizer.model_max_length)
    for name in (task for task in evals.tasks if task in evals.lm_eval):
        prompt_of = prompt_of_question(cfg)
        check_task(evals.lm_eval[name], evals, benchmarks, tokenizer, max_length, prompt_of)


def _texts(prepared: Prepared) -> dict[str, Path]:
    return {"nll_target": prepared.heldout, "nll_validation": prepared.validation}


def base_subject(cfg: RunConfig) -> Subject:
    """The untrained model, measured once for each (model, data set)."""
    axes = Axes(**_shared_axes(cfg), method="base", method_name="base")
    run_id = base_id(cfg)
    return Subject(
        run_id=run_id,
        checkpoint="base",
        axes=axes,
        training={"parameters": num_parameters(load_model_config(cfg.model))},
        load=lambda: (load_base(cfg.model), load_tokenizer(cfg.model)),
        folder=Path(cfg.paths.runs) / run_id / "evals" / "base",
    )


def export_subjects(cfg: RunConfig, folder: RunFolder) -> list[Subject]:
    """Every export of a run that is to be measured, in the order of training."""
    trainable = num_trainable_parameters(load_model_config(cfg.model), cfg.method)
    return [_export_subject(cfg, folder, path, trainable) for path in folder.exports_of(cfg)]


def _export_subject(cfg: RunConfig, folder: RunFolder, export: Path, trainable: int) -> Subject:
    facts = read_export_facts(export)
    axes = replace(
        run_axes(cfg),
        run_duration=cfg.duration,
        duration=facts["duration"],
        duration_unit=cfg.regime.duration_unit,
        cooled_down=facts["cooled_down"],
    )
    cost = (
        "batch", "tokens", "loss_tokens", "train_flops", "train_seconds", "peak_memory_bytes",
    )  # fmt: skip
    return Subject(
        run_id=folder.path.name,
        checkpoint=export.name,
        axes=axes,
        training={key: facts[key] for key in cost} | {"trainable_parameters": trainable},
        load=lambda: load_export(export, cfg.model),
        load_base=lambda: load_base(cfg.model),
        folder=folder.path / "evals" / export.name,
    )


def run_axes(cfg: RunConfig) -> Axes:
    """Where a run stands, without how long it is."""
    first, adapter = first_of(cfg), "kept" if cfg.sequence.keep_adapter else "merged"
    return Axes(
        **_shared_axes(cfg),
        method=cfg.method.kind,
        method_name=cfg.method.name,
        rank=cfg.method.rank,
        alpha=cfg.method.alpha,
        target_modules=cfg.method.target_modules,
        optimizer=cfg.optimizer["_target_"],
        lr_peak=cfg.training.lr_peak,
        seed=cfg.seed,
        replay=cfg.data.replay or None,
        first_run=run_id(first) if first else None,
        first_adapter=adapter if first and cfg.method.kind == "lora" else None,
    )


def _shared_axes(cfg: RunConfig) -> dict[str, Any]:
    return {
        "scale": cfg.scale.name,
        "model": cfg.model.name,
        "domain": cfg.domain.name,
        "regime": cfg.regime.name,
        "dataset": cfg.data.name,
    }
