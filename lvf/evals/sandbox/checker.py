"""The trusted process that runs a benchmark's check; only `supervisor` starts it.

`check(candidate)` is called here with a proxy that passes each call on to the generated program
in its own process. What comes back is exact built-in data, so there is nothing of the program's
to walk, to patch or to compare dishonestly.
"""

import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from traceback import format_exception_only
from types import CodeType
from typing import Any, NoReturn

from lvf.evals.sandbox import isolation, wire
from lvf.evals.sandbox.zygote import start_zygote

MEMORY_BYTES = 2 << 30
START_SECONDS = 60.0
"""What a fresh process gets to shut itself in: it takes milliseconds."""


class Lost(BaseException):  # noqa: N818
    """The program cannot pass any more; no `except Exception` of a check catches it."""


class Candidate:
    """Stands for the function of a generated program, in that program's own process."""

    def __init__(self, connection: wire.Connection) -> None:
        self.connection = connection
        self.num_calls = 0
        self.lost = ""
        """Why the program cannot pass any more."""

    def load(self, source: str, entry_point: str) -> None:
        """Have the program run up to the definition of its function; raises what it raises."""
        self._exchange([source, entry_point])

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Return or raise what the program's function does; `Lost` where it broke the rules."""
        self.num_calls += 1
        return self._exchange([self.num_calls, list(arguments), keywords])

    def finish(self) -> None:
        """Raise `Lost` if the program said more than it was asked."""
        if not self.lost and self.connection.has_spoken():
            self._lose("failed: the program ended or replied unasked")
        if self.lost:
            raise Lost(self.lost)

    def _exchange(self, request: list[Any]) -> Any:
        self.finish()
        content = wire.encode(request)
        try:
            self.connection.send_encoded(content)
            reply = self.connection.receive()
        except TimeoutError:
            self._lose("timed out")
        except (EOFError, OSError):
            self._lose("failed: the program ended before its tests did")
        except wire.BrokenRulesError as error:
            self._lose(f"failed: {error}")
        match reply:
            case [self.num_calls, "value", value]:
                return value
            case [self.num_calls, "not plain", str(problem)]:
                self._lose(f"failed: its answer of kind {problem[:200]}")
            case [self.num_calls, "error", str(name), str(message)] if name in wire.EXCEPTIONS:
                raise wire.EXCEPTIONS[name](message)
        return self._lose("failed: a reply that was not asked for")

    def _lose(self, reason: str) -> NoReturn:
        self.lost = reason
        raise Lost(reason)


@lru_cache(maxsize=256)
def _compiled(source: str) -> CodeType:
    return compile(source, "<benchmark>", "exec")


def judge(order: dict[str, str], sock: socket.socket, timeout_seconds: float) -> str:
    """Run a benchmark's check on a generated program.

    Args:
        order: `prompt`, `test` and `entry_point` of the problem, and `source` of the program.
        sock: Leads to the fresh process that is to run the program.
        timeout_seconds: Wall-clock time for loading the program and all of the check.

    Returns:
        `passed`, `timed out` or `failed: ` and why.

    Raises:
        RuntimeError: the process could not be shut in.
    """
    connection = wire.Connection(sock, wire.REPLY_BYTES, wire.TRAFFIC_BYTES)
    connection.deadline = time.monotonic() + START_SECONDS
    try:
        state = connection.receive()
    except (EOFError, OSError) as error:
        state = f"it ended: {error}"
    if state != "ready":
        raise RuntimeError(f"a process for a generated program could not be shut in: {state}")
    connection.deadline = time.monotonic() + timeout_seconds
    try:
        candidate = Candidate(connection)
        candidate.load(order["source"], order["entry_point"])
        namespace: dict[str, Any] = {}
        exec(_compiled(order["prompt"]), namespace)  # helpers that the check may call
        namespace[order["entry_point"]] = candidate
        exec(_compiled(order["test"]), namespace)
        namespace["check"](candidate)
        candidate.finish()
    except Lost as lost:
        return str(lost)
    except BaseException as error:  # SystemExit too, where the program raised it
        return f"failed: {''.join(format_exception_only(error)).strip()[:200]}"
    return "passed" if time.monotonic() < connection.deadline else "timed out"


def main() -> None:
    """Say the level of isolation, then answer every order with a verdict, until there are none."""
    descriptor, folder, seconds, core = sys.argv[1:]
    timeout_seconds = float(seconds)
    isolation.die_with_parent()
    os.sched_setaffinity(0, {int(core)})  # checker and program take turns: fastest on one core
    supervisor = wire.Connection(socket.socket(fileno=int(descriptor)))
    try:
        zygote = start_zygote(folder, timeout_seconds)
    except OSError as error:
        supervisor.send(["none", str(error)])
        return
    supervisor.send([zygote.level, zygote.shortfall])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    upcoming = zygote.start()
    for order in _orders(supervisor):
        current, upcoming = upcoming, zygote.start()
        with current:
            verdict = judge(order, current, timeout_seconds)
        zygote.end_oldest()
        supervisor.send(verdict)
    zygote.close()


def _orders(supervisor: wire.Connection) -> Iterator[dict[str, str]]:
    with suppress(EOFError):
        while True:
            yield supervisor.receive()


if __name__ == "__main__":
    main()
