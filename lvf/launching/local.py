"""Runs cells on this machine, a bounded number at a time, each in a process of its own."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lvf.errors import UserError
from lvf.launching.order import all_after, in_order
from lvf.launching.status import ENDED_WITH
from lvf.runs.sweep import SweepRun
from lvf.training.stopping import TRY_AGAIN, StopRequest

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def default_workers() -> int:
    """One run a GPU, else one for each core that this process may use.

    Small models gain little from threads.
    """
    return len(visible_gpus()) or len(os.sched_getaffinity(0))


def visible_gpus() -> list[str]:
    """Names by which CUDA_VISIBLE_DEVICES chooses the GPUs that this process may use."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in chosen.split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False
    )
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    return [str(index) for index, line in enumerate(lines) if line.startswith("GPU")]


class GpuPool:
    """GPUs that runs of this machine take for themselves; of none, each run takes none."""

    def __init__(self, gpus: list[str], workers: int) -> None:
        # More workers than GPUs share them evenly.
        self._free = gpus * max(1, math.ceil(workers / max(1, len(gpus))))
        self._most = len(gpus)
        self._changed = threading.Condition()

    @contextmanager
    def take(self, count: int) -> Iterator[list[str]]:
        """Wait for `count` different GPUs, or all that there are, and give them back afterwards."""
        count = min(count, self._most)
        with self._changed:
            self._changed.wait_for(lambda: len(set(self._free)) >= count)
            taken = list(dict.fromkeys(self._free))[:count]
            for gpu in taken:
                self._free.remove(gpu)
        try:
            yield taken
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()


def run_local(cells: list[SweepRun], workers: int) -> list[SweepRun]:
    """Run cells in processes of their own, `workers` at a time; returns those that failed.

    Runs that others wait for (trunks, first runs of sequences) start first, those others when they
    are done; without them, they have failed.

    Raises:
        UserError: a run that another waits for is missing, or a run wants more GPUs than there are;
            raised before anything starts.
        SystemExit: a signal stopped the runs, each of which has saved if it was training (status
            `TRY_AGAIN`).
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    ready, waiting = in_order(cells, set())
    gpus = visible_gpus()
    wanted = max((cell.cfg.runtime.nproc_per_node for cell in cells), default=1)
    if gpus and wanted > len(gpus):
        raise UserError(
            f"runtime.nproc_per_node={wanted}, but this machine has {len(gpus)} GPUs: set it to at "
            "most that"
        )
    pool_of_gpus = GpuPool(gpus, workers)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    failed: list[SweepRun] = []
    with Progress(*columns, TimeElapsedColumn(), refresh_per_second=2) as progress:
        whole = progress.add_task(f"{len(cells)} runs, {workers} at a time", total=len(cells))

        with StopRequest() as stop, ThreadPoolExecutor(workers) as pool:

            def start(cell: SweepRun) -> Future[bool]:
                return pool.submit(_run_cell, cell, workers, pool_of_gpus, stop, progress)

            running = {start(cell): cell for cell in ready}
            while running:
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for one in ended:
                    cell = running.pop(one)
                    if one.result():
                        later = waiting.pop(cell.run_id, [])
                        running |= {start(after): after for after in later}
                        progress.advance(whole)
                    else:
                        lost = [cell, *all_after(cell.run_id, waiting)]
                        failed += lost
                        progress.advance(whole, len(lost))
    if stop.received:
        print("stopped: what was saved is kept, and the same command continues")
        raise SystemExit(TRY_AGAIN)
    return failed


def _run_cell(
    cell: SweepRun, workers: int, gpus: GpuPool, stop: StopRequest, progress: Progress
) -> bool:
    with gpus.take(cell.cfg.runtime.nproc_per_node) as taken:
        # A run that waited for its GPUs does not start any more.
        return not stop.received and _run_on(cell, workers, taken, stop, progress)


def _run_on(
    cell: SweepRun, workers: int, gpus: list[str], stop: StopRequest, progress: Progress
) -> bool:
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    environment = {
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # else torch starts compilers that no run uses
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        **({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}),
    }
    command = [sys.executable, "-m", "lvf.train", *cell.overrides]
    cell.log.parent.mkdir(parents=True, exist_ok=True)
    task = progress.add_task(cell.folder.name, total=None)
    began = time.monotonic()
    with cell.log.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        while process.poll() is None and not stop.received:
            _show_progress(cell, progress, task)
            time.sleep(0.5)
        if process.poll() is None:
            process.terminate()  # in training it saves first
        code = process.wait()
        is_stopped = code == TRY_AGAIN or bool(code and stop.received)
        if code and not is_stopped:
            print(f"{ENDED_WITH} {code}", file=log)
    progress.remove_task(task)
    verdict = "stopped" if is_stopped else f"failed, see {cell.log}" if code else "done"
    progress.print(f"{cell.folder.name}  {verdict}  ({time.monotonic() - began:.0f} s)")
    return code == 0


def _show_progress(cell: SweepRun, progress: Progress, task: TaskID) -> None:
    from lvf.runs.run_folder import RunFolder

    status = RunFolder(cell.folder).status()
    progress.update(task, completed=status.get("batch", 0), total=status.get("total_batches"))
