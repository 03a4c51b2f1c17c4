"""Lets no rank wait for one that has ended: a connection to rank 0 that breaks ends the others.

A collective of NCCL waits for a lost rank until its time-out, in code that no signal of torchrun's
interrupts. The kernel closes a connection when its process ends, however that comes about.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from composer.utils import dist

GRACE_SECONDS = 5.0
"""How long a rank may take to end by itself, with an error of its own."""
START_SECONDS = 60.0
GOOD_BYE = -1
"""Said in place of a lost rank's number by one that ends as it should."""


class Lifeline:
    """Watches in a thread of its own; `close` it before the process ends as it should."""

    def __init__(self, before_end: Callable[[], None]) -> None:
        """Connect the ranks; each of them makes one, after `initialize_dist`.

        Args:
            before_end: Called before this process is ended for another's sake.
        """
        self.lost: int | None = None
        """A rank that has ended before its time."""
        self._before_end = before_end
        self._is_lost, self._is_closed = threading.Event(), threading.Event()
        self._others = self._connect()
        os.register_at_fork(after_in_child=self._hang_up)  # a loader's worker outlives its rank
        threading.Thread(target=self._watch, daemon=True).start()

    def lost_within(self, seconds: float) -> int | None:
        """The lost rank, waiting for the news of it."""
        self._is_lost.wait(seconds)
        return self.lost

    def close(self) -> None:
        """Take leave: this process ends as it should, or all have agreed on how it ends."""
        self._is_closed.set()
        self._tell(GOOD_BYE)

    def _connect(self) -> dict[int, socket.socket]:
        """Connections to the others: rank 0 has one to each, they have one to rank 0."""
        rank, world_size = dist.get_global_rank(), dist.get_world_size()
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(("", 0), family=family, dualstack_ipv6=dual) as server:
            server.listen(world_size)
            port = [server.getsockname()[1]]
            dist.broadcast_object_list(port)
            if rank > 0:
                address = (os.environ["MASTER_ADDR"], port[0])
                to_first = socket.create_connection(address, START_SECONDS)
                _send(to_first, rank)
                to_first.settimeout(None)
                return {0: to_first}
            server.settimeout(START_SECONDS)
            accepted = [server.accept()[0] for _ in range(1, world_size)]
            ranks = [_receive(other) for other in accepted]
            both = zip(ranks, accepted, strict=True)
            return {rank: other for rank, other in both if rank is not None}

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, other in self._others.items():
                selector.register(other, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    said = _receive(self._others[key.data])
                    if said != GOOD_BYE:
                        self._end(key.data if said is None else said)
                        return
                    selector.unregister(key.fileobj)

    def _end(self, lost: int) -> None:
        self.lost = lost
        self._is_lost.set()
        self._tell(lost)
        if self._is_closed.wait(GRACE_SECONDS):
            return
        print(f"rank {lost} has ended: so does this one", file=sys.stderr, flush=True)
        try:
            self._before_end()
        finally:
            os._exit(1)

    def _tell(self, message: int) -> None:
        for other in self._others.values():
            with suppress(OSError):  # it has ended
                _send(other, message)

    def _hang_up(self) -> None:
        for other in self._others.values():
            other.close()


def _send(to: socket.socket, number: int) -> None:
    to.sendall(number.to_bytes(4, "little", signed=True))


def _receive(other: socket.socket) -> int | None:
    """The next number; None when the process at the other end is gone."""
    try:
        said = other.recv(4, socket.MSG_WAITALL)
    except OSError:
        return None
    return int.from_bytes(said, "little", signed=True) if said else None
