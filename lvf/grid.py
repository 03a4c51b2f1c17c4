"""`python -m lvf.grid`: list the cells of a sweep, and run those that are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig

from lvf.compose import compose, speaking_to_the_user, to_schema
from lvf.config import CONF_DIR, RunConfig, run_id
from lvf.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LAUNCHERS = ("none", "local")


@dataclass(kw_only=True)
class SweepConfig:
    """Cells as products of overrides of `python -m lvf.train`."""

    name: str = MISSING
    blocks: dict[str, dict[str, list[Any]]] = MISSING
    """Each block is a product: override key (such as `+experiment` or `duration`) to its values."""
    overrides: list[str] = field(default_factory=list)
    """Settings of every cell."""


@dataclass(kw_only=True)
class GridConfig:
    """What to list, and how to run it."""

    sweep: SweepConfig = field(default_factory=SweepConfig)
    launcher: str = "none"
    """`none` only lists; `local` runs the missing cells on this machine."""
    workers: int | None = None
    """Cells at a time; null takes one where there is a GPU, else one a core."""
    overrides: list[str] = field(default_factory=list)
    """Further settings of every cell, such as [paths.runs=/scratch/runs]."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    overrides: tuple[str, ...]
    cfg: RunConfig

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.cfg.paths.runs) / run_id(self.cfg)

    @property
    def log(self) -> Path:
        """Everything the run's process prints."""
        return Path(self.cfg.paths.runs) / "logs" / f"{run_id(self.cfg)}.log"

    def state(self) -> str:
        """State of the run on disk, as `RunFolder.state` tells them apart."""
        from lvf.training.run_folder import RunFolder

        return RunFolder(self.folder).state(self.cfg)


def cells_of(sweep: SweepConfig, extra: list[str]) -> list[Cell]:
    """Every distinct run of a sweep, composed and checked before anything starts.

    Raises:
        UserError: a cell is impossible; names it.
    """
    cells: dict[str, Cell] = {}
    for block in sweep.blocks.values():
        for values in product(*block.values()):
            axes = [f"{key}={value}" for key, value in zip(block, values, strict=True)]
            overrides = (*axes, *sweep.overrides, *extra)
            try:
                cfg = compose(*overrides)
            except (UserError, HydraException) as error:
                raise UserError(f"cell {' '.join(overrides)}: {error}") from error
            cells[run_id(cfg)] = Cell(overrides, cfg)
    return list(cells.values())


def default_workers() -> int:
    """One run where there is a GPU, else one a core: small models gain little from threads."""
    return 1 if shutil.which("nvidia-smi") else os.cpu_count() or 1


def run_local(cells: list[Cell], workers: int) -> list[Cell]:
    """Run cells in processes of their own, `workers` at a time; returns those that failed."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    failed: list[Cell] = []
    with Progress(*columns, TimeElapsedColumn(), refresh_per_second=2) as progress:
        whole = progress.add_task(f"{len(cells)} runs, {workers} at a time", total=len(cells))

        def work(cell: Cell) -> None:
            if not _run_cell(cell, workers, progress):
                failed.append(cell)
            progress.advance(whole)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, cells))
    return failed


def _run_cell(cell: Cell, workers: int, progress: Progress) -> bool:
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = {
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # else torch starts compilers that no run uses
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "lvf.train", *cell.overrides]
    cell.log.parent.mkdir(parents=True, exist_ok=True)
    task = progress.add_task(cell.folder.name, total=None)
    began = time.monotonic()
    with cell.log.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        while process.poll() is None:
            _show_progress(cell, progress, task)
            time.sleep(0.5)
    progress.remove_task(task)
    verdict = "done" if process.returncode == 0 else f"failed, see {cell.log}"
    progress.print(f"{cell.folder.name}  {verdict}  ({time.monotonic() - began:.0f} s)")
    return process.returncode == 0


def _show_progress(cell: Cell, progress: Progress, task: TaskID) -> None:
    from lvf.training.run_folder import RunFolder

    status = RunFolder(cell.folder).status()
    progress.update(task, completed=status.get("batch", 0), total=status.get("total_batches"))


def show(cells: list[Cell]) -> None:
    """Print the cells with their states."""
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "duration", "rate", "state")
    for cell in cells:
        unit = cell.cfg.regime.duration_unit
        rate = f"{cell.cfg.training.lr_peak:.3g}"
        table.add_row(cell.folder.name, f"{cell.cfg.duration:g} {unit}", rate, cell.state())
    Console().print(table)


def run(grid: GridConfig) -> None:
    """List a sweep; with a launcher, run what is missing.

    Raises:
        UserError: an unknown launcher, an impossible cell, or cells that failed.
    """
    if grid.launcher not in LAUNCHERS:
        raise UserError(f"launcher={grid.launcher!r} is not one of {', '.join(LAUNCHERS)}")
    cells = cells_of(grid.sweep, grid.overrides)
    missing = [cell for cell in cells if cell.state() != "done"]
    show(cells)
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
