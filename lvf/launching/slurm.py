"""Puts a sweep's missing cells into Slurm's queue: preparations, arrays of runs, evaluations."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lvf.config.grid_schema import SlurmConfig
from lvf.config.schema import shipped
from lvf.data.recipe import sharing_key
from lvf.data.shards import is_prepared
from lvf.errors import UserError
from lvf.launching.order import in_order
from lvf.launching.slurm_queue import EVALUATE, PREPARE, TRAIN, Task, queued_tasks
from lvf.launching.status import log_of
from lvf.runs.run_folder import FAILED, MISSING, STOPPED, TRAINED, RunFolder
from lvf.runs.sweep import SweepRun

EACH_ITS_OWN = "aftercorr:"
JOB_SCRIPT = shipped("launchers/run.sbatch")


@dataclass(frozen=True)
class Element:
    """One job of an array."""

    task: Task
    cell: SweepRun
    waits_for: str | None = None
    """Job whose success it waits for, or several with colons between them."""
    place: int = 0
    """Of an evaluation, the place of its export among those of its run."""

    @property
    def shape(self) -> tuple[int, int]:
        """Nodes, and ranks on each."""
        runtime = self.cell.cfg.runtime
        return (runtime.nodes, runtime.nproc_per_node) if self.task.kind == TRAIN else (1, 1)

    def command(self, slurm: SlurmConfig) -> str:
        """A shell line that does the work and keeps what it says in the cell's log."""
        settings = {
            PREPARE: [],
            TRAIN: ["runtime.measure=false"],
            EVALUATE: [f"runtime.export={self.task.moment!r}"],
        }[self.task.kind]
        words = ["-m", f"lvf.{self.task.kind}", *self.cell.overrides, *settings]
        python = shlex.join([sys.executable, *words])
        log = shlex.quote(str(log_of(self.cell, self.task).resolve()))
        start = f"exec {slurm.container or ''} {python}".replace("  ", " ")
        return "; ".join([f"exec >> {log} 2>&1", *slurm.setup, start])


def submit(cells: list[SweepRun], slurm: SlurmConfig) -> int:
    """Queue what is missing of these cells and not queued; returns the number of jobs.

    Data that are not prepared are made by a job without GPUs for all runs that share them, which
    wait for it. Cells that can start go into one array (one for each number of nodes and ranks, and
    for each preparation), branches into one for each trunk, which they wait for. Each export is
    measured by a job of its own, on one device, which waits for the export's run to write it or, at
    the latest, to end.

    Raises:
        UserError: Slurm refuses, a run that another one waits for is missing, or jobs would have
            their signal to save at once.
    """
    _check_times(slurm)
    root = RunFolder(cells[0].folder).submissions
    queue = queued_tasks(root)
    to_train = [cell for cell in cells if _needs_training(cell, queue)]
    under_way = {task.run for task in queue if task.kind == TRAIN}
    ready, waiting = in_order(to_train, under_way)
    ids = {task.run: job for task, job in queue.items() if task.kind == TRAIN}
    seconds = [cell for batch in waiting.values() for cell in batch if cell.cfg.sequence.first]
    preparations = _preparations([*ready, *seconds], queue)
    count = len(preparations)
    ids |= {task.run: job for task, job in queue.items() if task.kind == PREPARE}
    ids |= _submit_arrays(preparations, slurm, root)
    for awaited, batch in [("", ready), *waiting.items()]:
        elements = [
            Element(Task(TRAIN, cell.run_id), cell, _jobs_before(cell, awaited, ids))
            for cell in batch
        ]
        count += len(elements)
        ids |= _submit_arrays(elements, slurm, root)
    elements = [
        element
        for cell in cells
        for element in _evaluations(cell, ids.get(cell.run_id))
        if element.task not in queue
    ]
    _submit_arrays(elements, slurm, root)
    return count + len(elements)


def _check_times(slurm: SlurmConfig) -> None:
    for key in ("timeout_min", "evaluation_timeout_min"):
        minutes = getattr(slurm, key)
        if slurm.signal_delay_s >= 60 * minutes:
            raise UserError(
                f"slurm.{key}={minutes} is no longer than slurm.signal_delay_s="
                f"{slurm.signal_delay_s} seconds, so that jobs would stop as soon as they start: "
                f"set slurm.{key}={slurm.signal_delay_s // 60 + 30} or a smaller delay"
            )


def _jobs_before(cell: SweepRun, awaited: str, ids: dict[str, str]) -> str | None:
    """Jobs that a training waits for: of the awaited run, and of its data's preparation.

    A branch has the data of its trunk.
    """
    has_own_data = not awaited or cell.cfg.sequence.first
    names = [awaited, *([sharing_key(cell.cfg)] if has_own_data else [])]
    return ":".join(ids[name] for name in names if name in ids) or None


def _needs_training(cell: SweepRun, queue: dict[Task, str]) -> bool:
    is_queued = Task(TRAIN, cell.run_id) in queue
    return not is_queued and cell.state() in (MISSING, STOPPED, FAILED)


def _preparations(cells: list[SweepRun], queue: dict[Task, str]) -> list[Element]:
    """What prepares the data of cells, as far as it is neither done nor queued."""
    by_key = {sharing_key(cell.cfg): cell for cell in cells}
    return [
        Element(task, cell)
        for key, cell in by_key.items()
        if (task := Task(PREPARE, key)) not in queue and not is_prepared(cell.cfg)
    ]


def _evaluations(cell: SweepRun, run_job: str | None) -> list[Element]:
    """What measures the exports of a run that are not measured yet.

    Args:
        cell: The run.
        run_job: The job that trains it, for which those wait that are not written.
    """
    folder = RunFolder(cell.folder)
    if run_job is None and cell.state() != TRAINED:
        return []
    written, measured = folder.exported_moments(), folder.measured_moments(cell.cfg)
    return [
        Element(
            Task(EVALUATE, cell.run_id, moment), cell, None if moment in written else run_job, place
        )
        for place, moment in enumerate([*cell.cfg.measure_at, cell.cfg.duration])
        if moment not in measured
    ]


def _submit_arrays(elements: list[Element], slurm: SlurmConfig, root: Path) -> dict[str, str]:
    """Submit elements in as few arrays as can be; returns the job of each run."""
    groups: dict[tuple[Any, ...], list[Element]] = {}
    for element in elements:
        groups.setdefault((element.task.kind, element.shape, *_awaits(element)), []).append(element)
    jobs: dict[str, str] = {}
    for (kind, shape, dependency, _), group in groups.items():
        by_index = dict(enumerate(group))
        if dependency and dependency.startswith(EACH_ITS_OWN):
            by_index = {int(str(one.waits_for).partition("_")[2]): one for one in group}
        job = _sbatch(kind, shape, by_index, dependency, slurm, root)
        jobs |= {element.task.run: f"{job}_{index}" for index, element in by_index.items()}
    return jobs


def _awaits(element: Element) -> tuple[str | None, int]:
    """Dependency in sbatch's terms, and what keeps its elements apart from others that share it.

    The evaluations of an array's runs are an array of the same numbers, each waiting for its own.
    """
    if element.waits_for is None:
        return None, 0
    if element.task.kind != EVALUATE:
        return f"afterok:{element.waits_for}", 0
    return EACH_ITS_OWN + element.waits_for.partition("_")[0], element.place


def _sbatch(
    kind: str,
    shape: tuple[int, int],
    elements: dict[int, Element],
    dependency: str | None,
    slurm: SlurmConfig,
    root: Path,
) -> str:
    """Submit one array, whose elements stand in a folder of its name; returns its job number."""
    stamp = datetime.now(timezone.utc).strftime("%y%m%dT%H%M%S%f")
    folder = root / f"lvf-{stamp}-{kind}"
    folder.mkdir(parents=True)
    lines = [elements.get(index) for index in range(max(elements) + 1)]
    for name, texts in (
        ("tasks.txt", [str(one.task) if one else "" for one in lines]),
        ("commands.txt", [one.command(slurm) if one else "" for one in lines]),
    ):
        (folder / name).write_text("\n".join(texts) + "\n")
    for element in elements.values():
        element.cell.log.parent.mkdir(parents=True, exist_ok=True)
    options = [
        f"--job-name={folder.name}",
        f"--array={','.join(map(str, sorted(elements)))}%{slurm.array_parallelism}",
        f"--output={folder.resolve()}/%a.out",
        *_resources(kind, shape, slurm),
        *([f"--dependency={dependency}"] if dependency else []),
    ]
    line = [
        "sbatch",
        "--parsable",
        *options,
        str(JOB_SCRIPT),
        str(folder.resolve() / "commands.txt"),
    ]
    (folder / "submit.sh").write_text(shlex.join(line) + "\n")
    try:
        done = subprocess.run(line, env=_outside(), capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise UserError("launcher=slurm needs Slurm's sbatch, which is not on the PATH") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"Slurm refuses {shlex.join(line)}:\n{error.stderr.strip()}") from error
    return done.stdout.strip().partition(";")[0]


def _resources(kind: str, shape: tuple[int, int], slurm: SlurmConfig) -> list[str]:
    nodes, ranks = shape
    minutes = slurm.evaluation_timeout_min if kind == EVALUATE else slurm.timeout_min
    options: dict[str, Any] = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "time": minutes,
        "signal": f"B:USR2@{slurm.signal_delay_s}",
        "nodes": nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": slurm.cpus_per_task * ranks,
        "gpus-per-node": max(ranks, slurm.gpus_per_node) if slurm.gpus_per_node else None,
        "mem": f"{slurm.mem_gb * ranks}G" if slurm.mem_gb else None,
        "kill-on-invalid-dep": "yes",  # an evaluation whose run has failed would wait for ever
        **slurm.additional_parameters,
    }
    if kind == PREPARE:
        options |= {
            "partition": slurm.preparation_partition or slurm.partition,
            "constraint": None,  # of nodes with GPUs
            "cpus-per-task": slurm.preparation_cpus,
            "gpus-per-node": None,
        }
    return [f"--{name}={value}" for name, value in options.items() if value is not None]


def _outside() -> dict[str, str]:
    """The environment without that of a job in which we may be, which sbatch takes for options."""
    job = ("SLURM_", "SBATCH_")
    own = os.environ.items()
    return {key: value for key, value in own if not key.startswith(job) or key == "SLURM_CONF"}
