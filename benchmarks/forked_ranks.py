"""The ranks of a run as forks of this process, which has imported the libraries already."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed import TCPStore

LIMIT_SECONDS = 300.0


@dataclass
class Ranks:
    """The processes of a run, in a process group of their own."""

    pids: list[int]
    folder: tempfile.TemporaryDirectory[str]
    """What each of them prints."""
    store: TCPStore
    """Where they meet. The parent keeps it open, as torchrun does: no free port is guessed."""

    def wait(self, to_others: signal.Signals = signal.SIGKILL) -> list[int]:
        """Exit statuses, negative for a signal.

        When a rank fails, the others get a signal (torchrun's is SIGTERM). When `LIMIT_SECONDS`
        are over, all are killed.
        """
        over = threading.Timer(LIMIT_SECONDS, self.kill)
        over.start()
        statuses: dict[int, int] = {}
        while len(statuses) < len(self.pids):
            pid, status = os.waitpid(-self.pids[0], 0)
            statuses[pid] = os.waitstatus_to_exitcode(status)
            if statuses[pid] not in (0, 75):
                self.kill(to_others)
        over.cancel()
        return [statuses[pid] for pid in self.pids]

    def end_with(self, statuses: list[int]) -> None:
        """Wait for the ranks.

        Raises:
            AssertionError: they end with other statuses; shows all that they have printed.
        """
        ended = self.wait()
        if ended != statuses:
            raise AssertionError(f"ended with {ended}, not {statuses}:\n{self.said()}")

    def kill(self, by: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to all that are alive."""
        with suppress(ProcessLookupError):
            os.killpg(self.pids[0], by)

    def said(self) -> str:
        """Everything that the ranks have printed."""
        logs = [_log(self.folder, rank) for rank in range(len(self.pids))]
        texts = [log.read_text(errors="replace") if log.exists() else "" for log in logs]
        return "\n".join(f"--- rank {rank}:\n{text}" for rank, text in enumerate(texts))


def start_ranks(world_size: int, work: Callable[[], None]) -> Ranks:
    """Fork the ranks of a run."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    folder = tempfile.TemporaryDirectory()
    pids: list[int] = []
    for rank in range(world_size):
        pid = os.fork()
        group = pids[0] if pids else pid
        if pid == 0:
            gc.freeze()  # what the parent still holds is not the child's to finalise
            os.setpgid(0, group)
            _live(rank, world_size, store.port, _log(folder, rank), work)
        os.setpgid(pid, group)
        pids.append(pid)
    return Ranks(pids, folder, store)


def _log(folder: tempfile.TemporaryDirectory[str], rank: int) -> Path:
    return Path(folder.name) / f"{rank}.log"


def _live(rank: int, world_size: int, port: int, log: Path, work: Callable[[], None]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    sys.stdout, sys.stderr = (os.fdopen(os.dup2(output, to), "w", buffering=1) for to in (1, 2))
    faulthandler.enable(sys.stderr)
    # A fork's first use of torch's thread pool replaces the parent's; two threads at once break it.
    torch.set_num_threads(torch.get_num_threads())
    if world_size > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}  # as torchrun does
        sizes = {"WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in (ranks | sizes).items()})
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    status = 1
    try:
        work()
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
