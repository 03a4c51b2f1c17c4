"""In which order cells can start: budgets that branch off a trunk come after it."""

from __future__ import annotations

from lvf.errors import UserError
from lvf.runs.run_id import run_id
from lvf.runs.sweep import SweepRun
from lvf.runs.trunk import branch_point, trunk_of


def trunk_id(cell: SweepRun) -> str | None:
    """The run whose checkpoint a cell still has to wait for; None where it can start."""
    trunk = trunk_of(cell.cfg)
    if trunk is None or cell.folder.joinpath("checkpoints").exists():
        return None
    try:
        branch_point(cell.cfg)
    except UserError:
        return run_id(trunk)
    return None


def in_order(
    cells: list[SweepRun], under_way: set[str]
) -> tuple[list[SweepRun], dict[str, list[SweepRun]]]:
    """Cells that can start now, trunks first, and the others by the run that they wait for.

    Args:
        cells: Those that are to be started.
        under_way: Other runs that are queued or running.

    Raises:
        UserError: a cell waits for a trunk that is in neither.
    """
    waiting: dict[str, list[SweepRun]] = {}
    for cell in cells:
        if trunk := trunk_id(cell):
            waiting.setdefault(trunk, []).append(cell)
    for trunk in set(waiting) - {cell.run_id for cell in cells} - under_way:
        branch = waiting[trunk][0]
        raise UserError(
            f"{branch.run_id} branches off the trunk {trunk}, which is neither trained nor in "
            f"this sweep: add duration={branch.cfg.trunk.duration:g} to it, or set "
            "trunk.branch=false to train each budget as a run of its own"
        )
    ready = [cell for cell in cells if trunk_id(cell) is None]
    return sorted(ready, key=lambda cell: cell.run_id not in waiting), waiting
