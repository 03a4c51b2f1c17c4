"""Runs cells on this machine, a bounded number at a time, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from lvf.launching.order import in_order
from lvf.launching.status import ENDED_WITH
from lvf.runs.sweep import SweepRun

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def default_workers() -> int:
    """One run where there is a GPU, else one a core: small models gain little from threads."""
    return 1 if shutil.which("nvidia-smi") else os.cpu_count() or 1


def run_local(cells: list[SweepRun], workers: int) -> list[SweepRun]:
    """Run cells in processes of their own, `workers` at a time; returns those that failed.

    Trunks start first, a branch when its trunk is done; without it, it has failed.

    Raises:
        UserError: the trunk of a branch is missing; raised before anything starts.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    ready, waiting = in_order(cells, set())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    failed: list[SweepRun] = []
    with Progress(*columns, TimeElapsedColumn(), refresh_per_second=2) as progress:
        whole = progress.add_task(f"{len(cells)} runs, {workers} at a time", total=len(cells))

        with ThreadPoolExecutor(workers) as pool:

            def start(cell: SweepRun) -> Future[bool]:
                return pool.submit(_run_cell, cell, workers, progress)

            running = {start(cell): cell for cell in ready}
            while running:
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for one in ended:
                    cell = running.pop(one)
                    branches = waiting.pop(cell.run_id, [])
                    if one.result():
                        running |= {start(branch): branch for branch in branches}
                        progress.advance(whole)
                    else:
                        failed += [cell, *branches]
                        progress.advance(whole, 1 + len(branches))
    return failed


def _run_cell(cell: SweepRun, workers: int, progress: Progress) -> bool:
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
        if process.returncode:
            print(f"{ENDED_WITH} {process.returncode}", file=log)
    progress.remove_task(task)
    verdict = "done" if process.returncode == 0 else f"failed, see {cell.log}"
    progress.print(f"{cell.folder.name}  {verdict}  ({time.monotonic() - began:.0f} s)")
    return process.returncode == 0


def _show_progress(cell: SweepRun, progress: Progress, task: TaskID) -> None:
    from lvf.runs.run_folder import RunFolder

    status = RunFolder(cell.folder).status()
    progress.update(task, completed=status.get("batch", 0), total=status.get("total_batches"))
