"""The models whose weights are analysed: a run's exports, or a model from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

from lvf.analysis.tensors import ADAPTER_CONFIG, weights_folder
from lvf.config.schema import RunConfig, stable_hash
from lvf.errors import UserError
from lvf.evals.measure import Subject
from lvf.evals.subjects import export_subjects
from lvf.models.load import load_base, load_export, model_folder_or_id
from lvf.models.untrusted import check_model
from lvf.records.schema import Axes
from lvf.runs.run_folder import run_folder

Model = tuple[Subject, Path]
"""A model's place in the grid, and the folder of its weights."""


def base_weights(cfg: RunConfig) -> Path:
    """Folder of the base model's weights, downloaded if need be."""
    return weights_folder(model_folder_or_id(cfg.model), cfg.model.revision, "model.path")


def models(cfg: RunConfig) -> list[Model]:
    """What the configuration names: the model `tuned`, else the exports of the run.

    Raises:
        UserError: the run has exported nothing, or `tuned` cannot be found.
    """
    if cfg.tuned is not None:
        return [_elsewhere(cfg, cfg.tuned)]
    folder = run_folder(cfg)
    if not folder.finished_exports():
        raise UserError(
            f"{folder.path} has no exported model; train it first with the same settings "
            "(python -m lvf.train ...), or name a model from elsewhere with tuned=/path/to/folder"
        )
    return [(s, folder.exports / s.checkpoint) for s in export_subjects(cfg, folder)]


def _elsewhere(cfg: RunConfig, tuned: str) -> Model:
    """A model that lvf did not train; only what its files say is known of how it was made."""
    folder = weights_folder(tuned, None, "tuned")
    check_model("tuned", str(folder), trust_remote_code=cfg.model.trust_remote_code)
    adapter = folder / ADAPTER_CONFIG
    lora = json.loads(adapter.read_text()) if adapter.is_file() else {}
    method = "lora" if lora else "full"
    axes = Axes(
        scale=cfg.scale.name,
        model=cfg.model.name,
        domain=cfg.domain.name,
        regime=cfg.regime.name,
        dataset=cfg.data.name,
        method=method,
        method_name=f"lora_r{lora['r']}" if lora else method,
        rank=lora.get("r"),
        alpha=lora.get("lora_alpha"),
        target_modules=lora.get("target_modules"),
        duration_unit=cfg.regime.duration_unit,
    )
    prefix = f"{cfg.scale.name}-{cfg.domain.name}_{cfg.regime.name}-{axes.method_name}"
    run_id = f"{prefix}-{stable_hash([tuned, cfg.model.path, cfg.model.revision])}"
    subject = Subject(
        run_id=run_id,
        checkpoint=Path(tuned).name,
        axes=axes,
        training={},
        load=lambda: load_export(folder, cfg.model),
        load_base=lambda: load_base(cfg.model),
        folder=Path(cfg.paths.runs) / run_id / "evals" / Path(tuned).name,
    )
    return subject, folder
