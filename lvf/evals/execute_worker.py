"""The light process that forks a child for each program; started by `lvf.evals.execute` only.

Imports nothing of lvf: it must stay small, because each program starts as a copy of it.
"""

import ctypes
import gc
import importlib
import json
import os
import resource
import secrets
import selectors
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any

PRELOADED = "bisect collections copy functools hashlib heapq itertools math random re string typing"
"""Loaded once, so that the children do not each import what most programs use."""

MEMORY_BYTES = 2 << 30
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = (
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr", "shutil."),
    *("os.fork", "os.exec", "os.posix_spawn", "os.system", "os.kill", "subprocess.", "pty."),
    *("socket.connect", "socket.bind", "socket.sendto"),
)
"""Audit events, by their beginnings: changing files, other processes, the network."""


@dataclass
class Child:
    """A program that is running."""

    index: int
    pid: int
    token: bytes
    deadline: float
    said: bytes = field(default=b"")


def main() -> None:
    """Read the order from standard input; write one JSON verdict a line, in order of completion."""
    order = json.load(sys.stdin)
    leave_network()
    for module in PRELOADED.split():
        importlib.import_module(module)
    gc.freeze()  # keeps the collector from touching, and so copying, the shared pages
    waiting = list(enumerate(order["sources"]))[::-1]
    selector = selectors.DefaultSelector()
    while waiting or selector.get_map():
        while waiting and len(selector.get_map()) < order["workers"]:
            index, source = waiting.pop()
            start(selector, index, source, order["timeout_seconds"])
        listen(selector)


def start(
    selector: selectors.BaseSelector, index: int, source: str, timeout_seconds: float
) -> None:
    """Fork a child that runs the program, and listen to what it says."""
    reading, writing = os.pipe()
    token = secrets.token_hex(16).encode()
    pid = os.fork()
    if pid == 0:
        run_and_exit(source, token, writing, timeout_seconds)
    os.close(writing)
    child = Child(index, pid, token, time.monotonic() + timeout_seconds)
    selector.register(reading, selectors.EVENT_READ, child)


def listen(selector: selectors.BaseSelector) -> None:
    """Take in what the children say until one ends, and end those whose time is over."""
    keys = list(selector.get_map().values())
    soonest = min(key.data.deadline for key in keys)
    for key, _ in selector.select(max(0.0, soonest - time.monotonic())):
        said = os.read(key.fd, 4096)
        key.data.said = (key.data.said + said)[:4096]
        if not said:
            finish(selector, key, timed_out=False)
    for key in list(selector.get_map().values()):
        if time.monotonic() >= key.data.deadline:
            finish(selector, key, timed_out=True)


def finish(selector: selectors.BaseSelector, key: selectors.SelectorKey, timed_out: bool) -> None:
    """Kill what is left of a program and report its verdict."""
    child: Child = key.data
    selector.unregister(key.fd)
    os.close(key.fd)
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has not yet made its own group
        os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    passed = child.said == child.token
    reason = "passed" if passed else child.said.decode(errors="replace")
    if not reason:
        reason = "timed out" if timed_out else "ended before its tests did"
    print(json.dumps({"index": child.index, "passed": passed, "reason": reason}), flush=True)


def run_and_exit(source: str, token: bytes, writing: int, timeout_seconds: float) -> None:
    """In the child: run the program, say the token if it ran to its end, and exit."""
    said = b""
    try:
        confine(writing, timeout_seconds)
        exec(compile(source, "<program>", "exec"), {})
        said = token
    except BaseException as error:  # SystemExit too: a program that exits has not run its tests
        said = f"failed: {type(error).__name__}: {error}"[:200].encode(errors="replace")
    finally:
        try:
            os.write(writing, said)
        finally:  # whatever the program did to its descriptors, it must not return to `main`
            os._exit(0)


def confine(writing: int, timeout_seconds: float) -> None:
    """Give up in this process, for good, what a program has no need of."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, writing)
    os.closerange(writing + 1, 256)
    limits = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: int(timeout_seconds) + 1,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,  # does not bind root, for whom the audit hook has to do
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    sys.addaudithook(forbid)


def forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: refuse writing and every event of `FORBIDDEN`."""
    is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
    if is_write or event.startswith(FORBIDDEN):
        raise PermissionError(f"{event} is not allowed here")


def leave_network() -> None:
    """Move to an empty network namespace where the kernel permits it; go on where it does not."""
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is not None and unshare(CLONE_NEWNET) != 0:
        unshare(CLONE_NEWUSER | CLONE_NEWNET)


if __name__ == "__main__":
    main()
