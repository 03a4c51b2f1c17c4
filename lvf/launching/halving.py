"""Early end of sweeps over learning rates: successive halving by validation loss.

At each rung, a share of the duration, all runs of a group that are still in it are measured, and
the better half goes on. The runs of a group differ in their learning rate alone. See Jamieson and
Talwalkar, 2016 (arXiv 1502.07943).
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from lvf.config.schema import stable_hash
from lvf.errors import UserError
from lvf.launching.local import run_local
from lvf.models.load import read_export_facts
from lvf.records.schema import read_record
from lvf.runs.run_folder import DIVERGED, DONE, TRAINED, RunFolder
from lvf.runs.run_id import identity
from lvf.runs.sweep import SweepRun

RUNGS = (0.25, 0.5)
"""Shares of the duration at which the worse half ends."""
OVER = (TRAINED, DONE, DIVERGED)
TASK, METRIC = "nll_validation", "nll_per_token"


def check_rates_only(cells: list[SweepRun]) -> None:
    """Refuse to end runs early of a sweep that does more than choose learning rates.

    Raises:
        UserError: a run is measured on more than the validation loss, or has no other to compare.
    """
    for cell in cells:
        if cell.cfg.evals.tasks != [TASK]:
            raise UserError(
                f"stop_early=true goes with sweeps that only choose learning rates, such as "
                f"sweep=rates: {cell.run_id} is measured on {', '.join(cell.cfg.evals.tasks)}, "
                "which tables report. Leave stop_early out"
            )
    for group in groups_of(cells):
        if len(group) == 1 or group[0].cfg.trunk.duration is not None:
            raise UserError(
                f"stop_early=true compares runs that differ in their learning rate alone and share "
                f"no trunk, and {group[0].run_id} is no such run: leave stop_early out"
            )


def groups_of(cells: list[SweepRun]) -> list[list[SweepRun]]:
    """Cells that differ in their learning rate alone, by group."""
    groups: dict[str, list[SweepRun]] = {}
    for cell in cells:
        settings = identity(cell.cfg)
        del settings["training.lr_peak"]
        groups.setdefault(stable_hash(settings), []).append(cell)
    return list(groups.values())


def run_halving(cells: list[SweepRun], workers: int) -> list[SweepRun]:
    """Run cells on this machine, rung by rung; returns those that failed.

    Those that end early stay stopped, with a checkpoint from which the plain sweep continues them.
    """
    groups = groups_of(cells)
    failed: list[SweepRun] = []
    for share in RUNGS:
        missing = [
            _until(cell, share)
            for group in groups
            for cell in group
            if cell.state() not in OVER and loss_at(cell, share) is None
        ]
        failed += run_local(missing, workers)
        groups = [better_half(group, share) for group in groups]
    last = [cell for group in groups for cell in group if cell.state() not in (DONE, DIVERGED)]
    failed += run_local(last, workers)
    saved = 1 - sum(_trained_share(cell) for cell in cells) / len(cells)
    print(f"{saved:.0%} of the training was saved by the early end of runs")
    return failed


def better_half(group: list[SweepRun], share: float) -> list[SweepRun]:
    """The half, rounded up, of the runs with the lowest losses at a rung.

    A run that diverged is the worst. One that failed for another reason goes no further, and one
    that was trained without a stop at the rung goes on.
    """
    losses = {cell.run_id: loss_at(cell, share) for cell in group}
    known = [cell for cell in group if losses[cell.run_id] is not None]
    known.sort(key=lambda cell: losses[cell.run_id] or 0.0)
    trained = [cell for cell in group if losses[cell.run_id] is None and cell.state() in OVER]
    return known[: math.ceil(len(known) / 2)] + trained


def loss_at(cell: SweepRun, share: float) -> float | None:
    """Validation loss at a rung, infinite for a run that diverged; None where it is not known."""
    if cell.state() == DIVERGED:
        return math.inf
    for export in RunFolder(cell.folder).finished_exports():
        if read_export_facts(export)["duration"] == share * cell.cfg.duration:
            records = Path(cell.cfg.paths.records) / cell.run_id
            for path in records.glob(f"{export.name}--{TASK}--*.json"):
                return read_record(path).metrics[METRIC].value
    return None


def _until(cell: SweepRun, share: float) -> SweepRun:
    stop = f"runtime.stop_at={share * cell.cfg.duration!r}"
    return replace(cell, overrides=(*cell.overrides, stop))


def _trained_share(cell: SweepRun) -> float:
    """How much of a run was trained, at least."""
    if cell.state() in (TRAINED, DONE):
        return 1.0
    return max(RunFolder(cell.folder).exported_moments(), default=0.0) / cell.cfg.duration
