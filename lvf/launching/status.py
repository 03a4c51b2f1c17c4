"""What became of each cell: from the run's own files first, then from Slurm's queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lvf.data.recipe import sharing_key
from lvf.launching.slurm_queue import EVALUATE, PREPARE, TRAIN, Job, Task, endings, queued_jobs
from lvf.runs.run_folder import (
    DIVERGED,
    DONE,
    FAILED,
    MISSING,
    RUNNING,
    STOPPED,
    TRAINED,
    UNREADABLE,
    RunFolder,
)
from lvf.runs.sweep import SweepRun

QUEUED, REFUSED = "queued", "refused"
ENDED_WITH = "ended with status"
"""How the last line of a failed run's log begins."""
LOG_LINES = 3
GOOD = ("COMPLETED", "REQUEUED", "PENDING", "RUNNING")
"""Slurm's words for jobs that need no explanation."""


@dataclass(frozen=True)
class CellStatus:
    """State of a cell for people, and what explains it."""

    state: str
    why: str = ""


def statuses(cells: list[SweepRun]) -> list[CellStatus]:
    """State of every cell; a failed, stopped or diverged one says why."""
    root = RunFolder(cells[0].folder).submissions
    jobs, ended = queued_jobs(root), endings(root)
    by_run: dict[str, list[Job]] = {}
    for job in jobs:
        by_run.setdefault(job.task.run, []).append(job)
    how_ended: dict[str, dict[Task, str]] = {}
    for task, ending in ended.items():
        how_ended.setdefault(task.run, {})[task] = ending
    found = [
        _status(cell, by_run.get(cell.run_id, []), how_ended.get(cell.run_id, {})) for cell in cells
    ]
    pairs = zip(cells, found, strict=True)
    return [_with_preparation(cell, status, ended) for cell, status in pairs]


def _with_preparation(cell: SweepRun, status: CellStatus, ended: dict[Task, str]) -> CellStatus:
    """A cell that never started, since its data could not be prepared, says so."""
    task = Task(PREPARE, sharing_key(cell.cfg))
    how = ended.get(task, "COMPLETED")
    if how in GOOD or status.state not in (MISSING, FAILED) or cell.state() != MISSING:
        return status
    return CellStatus(FAILED, " | ".join(["preparation", how, *log_tail(log_of(cell, task))]))


def _status(cell: SweepRun, jobs: list[Job], ended: dict[Task, str]) -> CellStatus:
    state = cell.state()
    if state == UNREADABLE:
        return CellStatus(state, f"{cell.folder} may not be read: it is another user's")
    if state in (DONE, DIVERGED):
        why = str(RunFolder(cell.folder).status().get("error")) if state == DIVERGED else ""
        return CellStatus(state, why)
    active = [job for job in jobs if state != TRAINED or job.task.kind == EVALUATE]
    if active:
        # Of a run and the evaluation that waits for it, the run.
        job = min(active, key=lambda job: (job.task.kind == EVALUATE, job.state != "RUNNING"))
        word = {"RUNNING": RUNNING, "PENDING": QUEUED}.get(job.state, job.state.lower())
        reason = job.reason if job.state == "PENDING" else ""
        doing = "measuring" if job.task.kind == EVALUATE else ""
        return CellStatus(word, ", ".join(part for part in (doing, job.id, reason) if part))
    if state == RUNNING:
        return CellStatus(state)
    if refusal := RunFolder(cell.folder).refusal():
        reason = " ".join(refusal["refused"].split())
        return CellStatus(REFUSED, f"{reason} ({state} before; refused {refusal['at']})")
    kind = EVALUATE if state == TRAINED else TRAIN
    bad = [(task, how) for task, how in ended.items() if task.kind == kind and how not in GOOD]
    task, how = bad[0] if bad else (None, "")
    tail = list(log_tail(log_of(cell, task)))
    if state in (MISSING, TRAINED):
        if not bad and not any(line.startswith(ENDED_WITH) for line in tail):
            return CellStatus(state)
        state = FAILED
    explains = state in (FAILED, STOPPED)
    return CellStatus(state, " | ".join(filter(None, [how, *tail])) if explains else "")


def log_of(cell: SweepRun, task: Task | None) -> Path:
    """What the job of a task prints; a job that measures an export runs beside the others."""
    if task and task.kind == PREPARE:
        return cell.log.with_name(f"{task.run}.log")
    if task is None or task.moment is None:
        return cell.log
    return cell.log.with_name(f"{cell.run_id}-at-{task.moment:g}.log")


def log_tail(log: Path) -> Iterator[str]:
    """Last lines of a log that say something; of a progress bar, its last state."""
    if not log.is_file():
        return
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        text = file.read().decode(errors="replace")
    lines = [line.rsplit("\r", 1)[-1].strip() for line in text.splitlines()]
    yield from [line for line in lines if line][-LOG_LINES:]
