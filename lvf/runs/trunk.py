"""Continued pre-training as the paper did it: one trunk, and a cooldown branch for each budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from lvf.config.schema import RunConfig
from lvf.data.recipe import batch_tokens, num_token_batches
from lvf.errors import UserError
from lvf.runs.checkpoints import is_complete, name_of
from lvf.runs.run_folder import RunFolder, run_folder


def trunk_of(cfg: RunConfig) -> RunConfig | None:
    """The run that this one branches off; None for a trunk and for a run of its own."""
    if cfg.trunk.duration in (None, cfg.duration):
        return None
    return replace(cfg, duration=cfg.trunk.duration, measure_at=[])


def branch_batch(cfg: RunConfig, budget_tokens: float) -> int:
    """Optimiser steps that a budget shares with the trunk: 80 % of its tokens (App. A).

    Rounding must not reach into the cooldown, whose rates the trunk does not have.
    """
    total = num_token_batches(cfg, budget_tokens)
    shared = round((1 - cfg.schedule.cooldown) * budget_tokens / batch_tokens(cfg))
    return min(shared, total - cfg.schedule.cooldown_batches(total))


def kept_batches(cfg: RunConfig) -> list[int]:
    """Batches whose checkpoints a trunk keeps for its branches; none for any other run."""
    if cfg.trunk.duration != cfg.duration:
        return []
    return [branch_batch(cfg, budget) for budget in cfg.trunk.budgets]


def branch_point(cfg: RunConfig) -> Path | None:
    """The trunk's checkpoint from which this run starts; None for a run that starts afresh.

    Raises:
        UserError: the trunk has not kept or not reached it; names the command that makes it.
    """
    trunk = trunk_of(cfg)
    if trunk is None:
        return None
    folder = run_folder(trunk)
    point = folder.checkpoints / name_of(branch_batch(cfg, cfg.duration))
    if not is_complete(point):
        raise UserError(_why_missing(cfg, trunk, folder, point))
    return point


def _why_missing(cfg: RunConfig, trunk: RunConfig, folder: RunFolder, point: Path) -> str:
    own = "or set trunk.branch=false to train this budget as a run of its own"
    told = f"a budget of {cfg.duration:g} tokens branches off the trunk of {trunk.duration:g}"
    if cfg.duration not in cfg.trunk.budgets:
        return (
            f"{told}, which keeps no checkpoint for it: trunk.budgets={cfg.trunk.budgets}. Choose "
            f"one of these, add {cfg.duration:g} before the trunk is trained, {own}."
        )
    reached = folder.status().get("batch", 0)
    return (
        f"{told}: {point} is missing (the trunk is {folder.state(trunk)}, at batch {reached}). "
        f"Train the trunk first:\n  {_command(trunk)}\n{own}."
    )


def _command(trunk: RunConfig) -> str:
    """The user's own command line with the trunk's duration."""
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else ["..."]
    kept = [word for word in words if not word.startswith(("duration=", "measure_at="))]
    return " ".join(["python -m lvf.train", *kept, f"duration={trunk.duration:g}"])
