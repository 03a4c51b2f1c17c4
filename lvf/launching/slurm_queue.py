"""What Slurm says of a grid's jobs: which are queued or running, and how the others ended."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lvf.runs.run_folder import RunFolder

PREPARE, TRAIN, EVALUATE = "prepare", "train", "evaluate"


@dataclass(frozen=True)
class Task:
    """What one job does: prepare data, train a run, or measure its export of a moment."""

    kind: str
    run: str
    """Name of the run; of a preparation, what runs of the same data share."""
    moment: float | None = None

    def __str__(self) -> str:
        """A line of `tasks.txt`; `Task.of` reads it."""
        return " ".join([self.kind, self.run, *([] if self.moment is None else [str(self.moment)])])

    @classmethod
    def of(cls, line: str) -> Task:
        """The task of a line."""
        kind, run, *moment = line.split()
        return cls(kind, run, float(moment[0]) if moment else None)


@dataclass(frozen=True)
class Job:
    """One element of an array in the queue."""

    task: Task
    id: str
    state: str
    """Slurm's word, such as PENDING or RUNNING."""
    reason: str
    """Why it is pending, such as Dependency or Priority."""


def queued_jobs(root: Path) -> list[Job]:
    """Jobs of the grid in Slurm's queue.

    A submission's folder has the name of its array, so that the queue alone tells what is in it.

    Args:
        root: Folder of the submissions.
    """
    if not shutil.which("squeue") or not root.is_dir():
        return []
    columns = "--format=%j|%F|%K|%T|%r"
    said = _ask(["squeue", "--me", "--array", "--noheader", columns])
    jobs = []
    for line in said.splitlines():
        name, array, index, state, reason = line.split("|")
        if task := _task(root / name, index):
            jobs.append(Job(task, f"{array}_{index}", state, reason))
    return jobs


def queued_tasks(root: Path) -> dict[Task, str]:
    """Number of the job that will do each queued task."""
    return {job.task: job.id for job in queued_jobs(root)}


def start_evaluation(folder: RunFolder, moment: float) -> None:
    """Drop the evaluation job's dependency on the training job, so that it starts now.

    Without Slurm's commands, as in some containers, the job waits for the end of the training.
    """
    if job := queued_tasks(folder.submissions).get(Task(EVALUATE, folder.path.name, moment)):
        line = ["scontrol", "update", f"JobId={job}", "Dependency="]
        subprocess.run(line, capture_output=True, check=False)  # a job that runs needs no more


def endings(root: Path) -> dict[Task, str]:
    """How the last job of each task ended, in Slurm's word, such as TIMEOUT or OUT_OF_MEMORY.

    Slurm's accounting may lag by seconds, and a job that failed can have done its work: this
    explains a state that was read from the run's own files, and never decides it.
    """
    if not shutil.which("sacct") or not root.is_dir():
        return {}
    columns = "--format=JobName%100,JobID,State"
    line = ["sacct", "-X", "-P", "--noheader", "--starttime=now-30days", columns]
    ended = {}
    for row in sorted(_ask(line).splitlines()):  # a later submission has a later name
        name, job, state = row.split("|")
        if task := _task(root / name, job.partition("_")[2]):
            ended[task] = state.split()[0]  # "CANCELLED by 0"
    return ended


def _ask(command: list[str]) -> str:
    environment = {**os.environ, "SLURM_TIME_FORMAT": "standard"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout


def _task(folder: Path, index: str) -> Task | None:
    tasks = folder / "tasks.txt"
    if not index.isdigit() or not tasks.is_file():
        return None  # another user's way with the same name, or not one of an array
    line = tasks.read_text().splitlines()[int(index)]
    return Task.of(line) if line else None
