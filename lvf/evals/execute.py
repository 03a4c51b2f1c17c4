"""Score generated programs in processes of their own, away from the model's process.

What this covers: accidents. A program that loops, exits, forks, eats memory, prints, writes,
deletes or opens a socket fails its test and harms nothing; it sees no environment variable of
ours and cannot pass by exiting before its tests. What it does not cover: intent. The program and
the code that judges it share one process, so code that walks Python's frames can find the token
that means success, an object that equals everything passes every assertion, and native code can
undo the audit hook. Files that the user may read can be read. The limits are Linux's.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

WORKER = Path(__file__).with_name("execute_worker.py")


@dataclass(frozen=True)
class Program:
    """A whole program: it passes if it runs to its end."""

    task_id: str
    source: str


@dataclass(frozen=True)
class Verdict:
    """Whether a program ran to its end, and otherwise why not."""

    passed: bool
    reason: str


def score_programs(
    programs: Sequence[Program], timeout_seconds: float, workers: int | None = None
) -> list[Verdict]:
    """Run every program, equal ones once, and return their verdicts in the same order.

    Args:
        programs: What to run.
        timeout_seconds: Wall-clock time that each program gets.
        workers: Programs that run at once; by default as many as there are usable cores.

    Raises:
        RuntimeError: the worker process died.
    """
    sources = list(dict.fromkeys(program.source for program in programs))
    if not sources:
        return []
    order = {
        "sources": sources,
        "timeout_seconds": timeout_seconds,
        "workers": workers or os.cpu_count() or 1,
    }
    verdicts = _ask_worker(json.dumps(order), len(sources))
    by_source = {sources[index]: verdict for index, verdict in verdicts.items()}
    return [by_source[program.source] for program in programs]


def _ask_worker(order: str, num_sources: int) -> dict[int, Verdict]:
    verdicts: dict[int, Verdict] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-I", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            env={"HOME": folder, "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"},
            text=True,
        ) as worker,
        tqdm(total=num_sources, desc="Running programs", unit="program") as bar,
    ):
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(order)
        worker.stdin.close()
        for line in worker.stdout:
            answer = json.loads(line)
            verdicts[answer["index"]] = Verdict(answer["passed"], answer["reason"])
            bar.update()
    if len(verdicts) != num_sources:
        raise RuntimeError(
            f"the process that runs generated programs ended with status {worker.returncode} after "
            f"{len(verdicts)} of {num_sources} programs; start the measurement again"
        )
    return verdicts
