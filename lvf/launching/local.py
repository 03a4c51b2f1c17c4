"""Runs cells on this machine, a bounded number at a time, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lvf.cells import Cell

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


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
