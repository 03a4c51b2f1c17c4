"""In which order cells can start: after the trunk or the first run that they start from."""

from __future__ import annotations

from lvf.config.compose import first_of
from lvf.errors import UserError
from lvf.runs.run_id import run_id
from lvf.runs.sequence import first_export
from lvf.runs.sweep import SweepRun
from lvf.runs.trunk import branch_point, trunk_of


def awaited_run(cell: SweepRun) -> str | None:
    """The run whose checkpoint or export a cell still has to wait for; None where it can start."""
    trunk, first = trunk_of(cell.cfg), first_of(cell.cfg)
    try:
        if trunk and not cell.folder.joinpath("checkpoints").exists():
            branch_point(cell.cfg)
    except UserError:
        return run_id(trunk) if trunk else None
    try:
        first_export(cell.cfg)
    except UserError:
        return run_id(first) if first else None
    return None


def in_order(
    cells: list[SweepRun], under_way: set[str]
) -> tuple[list[SweepRun], dict[str, list[SweepRun]]]:
    """Cells that can start now, awaited ones first, and the others by the run that they wait for.

    A run that waits itself stands before those that wait for it.

    Args:
        cells: Those that are to be started.
        under_way: Other runs that are queued or running.

    Raises:
        UserError: a cell waits for a run that is in neither.
    """
    awaited = {cell.run_id: awaited_run(cell) for cell in cells}
    for cell in cells:
        run = awaited[cell.run_id]
        if run and run not in awaited and run not in under_way:
            raise UserError(_why_missing(cell, run))
    ready = [cell for cell in cells if awaited[cell.run_id] is None]
    ready.sort(key=lambda cell: cell.run_id not in awaited.values())
    waiting: dict[str, list[SweepRun]] = {}
    runs = [*under_way, *(cell.run_id for cell in ready)]
    for name in runs:  # grows by the runs that wait for those before
        if its_cells := [cell for cell in cells if awaited[cell.run_id] == name]:
            waiting[name] = its_cells
            runs += [cell.run_id for cell in its_cells]
    return ready, waiting


def all_after(run: str, waiting: dict[str, list[SweepRun]]) -> list[SweepRun]:
    """Take out of `waiting` all cells that wait for a run, or for a cell that does."""
    cells = waiting.pop(run, [])
    return [*cells, *(later for cell in cells for later in all_after(cell.run_id, waiting))]


def _why_missing(cell: SweepRun, run: str) -> str:
    trunk = trunk_of(cell.cfg)
    if trunk and run == run_id(trunk):
        return (
            f"{cell.run_id} branches off the trunk {run}, which is neither trained nor in this "
            f"sweep: add duration={trunk.duration:g} to it, or set trunk.branch=false to train "
            "each budget as a run of its own"
        )
    return (
        f"{cell.run_id} starts from the last export of {run}, which is neither trained nor in this "
        "sweep: add that run, as sweep=sequence does"
    )
