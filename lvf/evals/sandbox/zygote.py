"""The process that starts a fresh process for each generated program, and what runs in those.

A zygote never sees a program or a benchmark: a program's text comes by the socket that the
program's own process is given, so that no program can find another's in memory.
"""

import gc
import os
import signal
import socket
import sys

from lvf.evals.sandbox import isolation, library, program, wire
from lvf.evals.sandbox.isolation import System

PROBE = f"{library.SAMPLE}\ndef probe(x): return x, colorsys.__name__"
START, END = b"s", b"e"
LEVELS = ("full", "seccomp")
"""`full`: all that `lvf.evals.sandbox.supervisor` promises. `seccomp`: without namespaces."""


class Zygote:
    """The checker's end: asks for processes and has them killed, in the same order."""

    def __init__(self, sock: socket.socket, pid: int, level: str, shortfall: str) -> None:
        self.sock = sock
        self.pid = pid
        self.level = level
        self.shortfall = shortfall
        """Why the level is not `full`."""

    def start(self) -> socket.socket:
        """The socket of a fresh process, which will first say that it is shut in."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.sock, [START], [theirs.fileno()])
        return ours

    def end_oldest(self) -> None:
        """Kill the process started first of those alive, with all that came of it."""
        self.sock.send(END)

    def close(self) -> None:
        """Kill every process, and wait until they are gone."""
        self.sock.close()
        os.waitpid(self.pid, 0)


def start_zygote(folder: str, timeout_seconds: float) -> Zygote:
    """Fork a zygote at the best level that the kernel allows.

    Raises:
        OSError: it allows none.
    """
    shortfalls: list[str] = []
    for level in LEVELS:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            _live(theirs, level, folder, timeout_seconds)
        theirs.close()
        problem = ours.recv(1000).decode()
        if problem == "ready":
            return Zygote(ours, pid, level, "; ".join(shortfalls))
        shortfalls.append(f"{level}: {problem or 'it died'}")
        ours.close()
        os.waitpid(pid, 0)
    raise OSError("; ".join(shortfalls))


def _live(sock: socket.socket, level: str, folder: str, timeout_seconds: float) -> None:
    """The life of a zygote; does not return."""
    try:
        isolation.keep_only(sock.detach())
        sock = socket.socket(fileno=isolation.KEPT)
        _prepare()
        system = System()
        if level == "full":
            isolation.enter(system, folder)
            pid = os.fork()
            if pid != 0:  # the child is the first process of the pid namespace: it ends, all ends
                sock.close()
                os.waitpid(pid, 0)
                return
        else:
            isolation.give_up_root(system)
        gc.collect()
        gc.freeze()  # keeps the collector from touching, and so copying, the shared pages
        _try(system, level, timeout_seconds)
        sock.send(b"ready")
        _serve(sock, system, level, timeout_seconds)
    except Exception as error:
        sock.send(f"{type(error).__name__}: {error}"[:900].encode())
    finally:
        os._exit(0)


def _prepare() -> None:
    """Leave behind what the checker has and programs are not to see, and warm up."""
    library.load_common()
    os.umask(0o022)
    prefixes = (sys.prefix, sys.base_prefix)
    sys.path[:] = [path for path in sys.path if path.startswith(prefixes)]
    os.environ.clear()
    os.environ.update(HOME="/tmp", TMPDIR="/tmp", LANG="C.UTF-8", OPENBLAS_NUM_THREADS="1")
    compile("def warm_up(): ...", "<warm-up>", "exec")  # the first compilation makes what all need


def _try(system: System, level: str, timeout_seconds: float) -> None:
    """Run a program of ours, which fails where all would fail through no fault of theirs."""
    ours, theirs = socket.socketpair()
    with theirs:
        pid = _fork(theirs, system, level, timeout_seconds)
    connection = wire.Connection(ours)
    try:
        problem = connection.receive()
        if problem == "ready":
            connection.send([PROBE, "probe"])
            problem = connection.receive()
        if problem == [0, "value", None]:
            connection.send([1, [2], {}])
            problem = connection.receive()
        if problem == [1, "value", (2, "colorsys")]:
            return
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    raise OSError(f"a trial program failed: {problem}")


def _fork(theirs: socket.socket, system: System, level: str, timeout_seconds: float) -> int:
    full = level == "full"
    pid = isolation.fork_into_pid_namespace(system) if full else os.fork()
    if pid != 0:
        return pid
    try:
        isolation.confine(system, full, theirs.fileno(), timeout_seconds)
        program.answer_calls(socket.socket(fileno=isolation.KEPT))
    except Exception as error:  # of ours: a program's own end in its answers
        wire.Connection(theirs).send(f"{type(error).__name__}: {error}"[:900])
    finally:
        os._exit(0)


def _serve(sock: socket.socket, system: System, level: str, timeout_seconds: float) -> None:
    """Start and end processes as asked, until the checker goes."""
    running: list[int] = []
    while True:
        order, descriptors, _, _ = socket.recv_fds(sock, 1, 1)
        if order == START:
            with socket.socket(fileno=descriptors[0]) as theirs:
                running.append(_fork(theirs, system, level, timeout_seconds))
            continue
        for pid in running[:1] if order else running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if not order:
            return
        del running[0]
