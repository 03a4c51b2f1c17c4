"""`python -m lvf.grid`: list the cells of a sweep, and run those that are missing."""

from __future__ import annotations

from dataclasses import dataclass, field

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from lvf.cells import SweepConfig, cells_of
from lvf.compose import speaking_to_the_user, to_schema
from lvf.config import CONF_DIR, ScaleConfig
from lvf.errors import UserError
from lvf.launching.local import default_workers, run_local
from lvf.planning.listing import show

LAUNCHERS = ("none", "local")


@dataclass(kw_only=True)
class GridConfig:
    """What to list, and how to run it."""

    scale: ScaleConfig = field(default_factory=ScaleConfig)
    """The scale of every cell, to whose ranks, durations and rates a sweep refers."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    launcher: str = "none"
    """`none` only lists; `local` runs the missing cells on this machine."""
    workers: int | None = None
    """Cells at a time; null takes one where there is a GPU, else one a core."""
    overrides: list[str] = field(default_factory=list)
    """Further settings of every cell, such as [paths.runs=/scratch/runs]."""


def run(grid: GridConfig) -> None:
    """List a sweep; with a launcher, run what is missing.

    Raises:
        UserError: an unknown launcher, an impossible cell, or cells that failed.
    """
    if grid.launcher not in LAUNCHERS:
        raise UserError(f"launcher={grid.launcher!r} is not one of {', '.join(LAUNCHERS)}")
    cells = cells_of(grid.sweep, [f"scale={grid.scale.name}", *grid.overrides])
    states = [cell.state() for cell in cells]
    missing = [cell for cell, state in zip(cells, states, strict=True) if state != "done"]
    show(cells, states)
    print(f"{len(cells)} runs, {len(cells) - len(missing)} done, {len(missing)} to do")
    if grid.launcher == "none":
        print("start them with launcher=local")
        return
    failed = run_local(missing, grid.workers or default_workers())
    if failed:
        logs = "\n".join(f"  {cell.log}" for cell in failed)
        raise UserError(f"{len(failed)} of {len(missing)} runs failed; their logs:\n{logs}")


@hydra.main(config_path=str(CONF_DIR), config_name="grid", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Command line of the planner."""
    with speaking_to_the_user():
        run(to_schema(composed, GridConfig))


ConfigStore.instance().store(name="grid_schema", node=GridConfig)

if __name__ == "__main__":
    main()
