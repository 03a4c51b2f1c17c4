"""Where a run's numbers go while it trains, and its scores afterwards."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra.utils

from lvf.config.schema import RunConfig
from lvf.records.schema import Record, read_record
from lvf.runs.run_folder import DONE, RunFolder

WANDB = "composer.loggers.WandBLogger"


def make_loggers(cfg: RunConfig, folder: RunFolder) -> list[Any]:
    """The configured loggers.

    In their arguments `{run_folder}` and `{run_id}` stand for the run's folder and its name;
    `{configuration}` alone, for the whole configuration.
    """
    return [
        # The configuration that a logger is given has `_target_` in it, too.
        hydra.utils.instantiate(filled, _recursive_=False, _convert_="all")
        for filled in _filled(cfg, folder)
    ]


def log_scores(cfg: RunConfig, folder: RunFolder) -> None:
    """Add a run's scores to its page on W&B, if it logs there and all of its exports are measured.

    They are logged over the duration of each export, `scores/<task>/<metric>`.
    """
    settings = next((one for one in _filled(cfg, folder) if one["_target_"] == WANDB), None)
    if settings is None or folder.state(cfg) != DONE:
        return
    import wandb

    names = ("project", "group", "name", "entity", "tags")
    given = {name: settings[name] for name in names if name in settings}
    with wandb.init(**given, **settings.get("init_kwargs", {})) as run:
        run.define_metric("scores/*", step_metric="scores/duration")
        for duration, scores in sorted(_scores(cfg, folder).items()):
            run.log({"scores/duration": duration, **scores})


def _scores(cfg: RunConfig, folder: RunFolder) -> dict[float, dict[str, float]]:
    """Of each duration, every metric of its newest record of each task."""
    newest: dict[tuple[str, str], Record] = {}
    for path in (Path(cfg.paths.records) / folder.path.name).glob("*.json"):
        record = read_record(path)
        key = (record.checkpoint, record.task)
        if key not in newest or newest[key].created_at < record.created_at:
            newest[key] = record
    scores: dict[float, dict[str, float]] = {}
    for record in newest.values():
        assert record.axes.duration is not None
        of_export = scores.setdefault(record.axes.duration, {})
        for name, metric in record.metrics.items():
            of_export[f"scores/{record.task}/{name}"] = metric.value
    return scores


def _filled(cfg: RunConfig, folder: RunFolder) -> list[dict[str, Any]]:
    """The settings of each logger, without placeholders."""
    names = {"{run_folder}": str(folder.path), "{run_id}": folder.path.name}

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        if value == "{configuration}":
            return {**asdict(cfg), "run_folder": str(folder.path.resolve())}
        if isinstance(value, str):
            for name, meant in names.items():
                value = value.replace(name, meant)
        return value

    return [fill(settings) for settings in cfg.logger.values()]
