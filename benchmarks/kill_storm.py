"""Kill a run again and again, at random moments: does it end as if nothing had happened?

    python benchmarks/kill_storm.py [kills] [folder]

For full finetuning and LoRA, on one and on two ranks: an embedded run is trained undisturbed, then
again with `kills` SIGKILLs to its whole process group, each at a random moment of a life (start and
saves included; every third aimed into a save). It is only ever started again. Its final weights
must equal the undisturbed ones bit for bit.

Lives are forked from a process that has imported the libraries, which takes ten seconds each time
and where there is nothing to lose; all else of a life is that of `python -m lvf.train`.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable


def start_ranks(num_ranks: int, work: Callable[[], None]) -> list[int]:
    """Fork the ranks of a run into a process group of their own; returns their process ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids: list[int] = []
    for rank in range(num_ranks):
        pid = os.fork()
        group = pids[0] if pids else pid
        if pid == 0:
            _live(rank, num_ranks, port, group, work)
        os.setpgid(pid, group)
        pids.append(pid)
    return pids


def _live(rank: int, num_ranks: int, port: int, group: int, work: Callable[[], None]) -> None:
    os.setpgid(0, group)
    if num_ranks > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0}
        sizes = {"WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in (ranks | sizes).items()})
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    status = 1
    try:
        work()
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait_for(pids: list[int]) -> list[int]:
    """Exit statuses of the ranks, negative for a signal; when one fails, the others are ended."""
    statuses: dict[int, int] = {}
    while len(statuses) < len(pids):
        pid, status = os.waitpid(-pids[0], 0)
        statuses[pid] = os.waitstatus_to_exitcode(status)
        if statuses[pid] not in (0, 75):
            os.killpg(pids[0], signal.SIGKILL)
    return [statuses[pid] for pid in pids]
