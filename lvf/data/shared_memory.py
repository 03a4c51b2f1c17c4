"""Keeps runs on one machine out of each other's shared memory, and clears that of dead ones."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_alive: IO[str] | None = None
"""Held with a shared lock as long as this process lives; the kernel drops it at any death."""


@contextmanager
def opening() -> Iterator[None]:
    """Hold while a StreamingDataset is made: one job of this machine at a time registers itself.

    streaming numbers its shared memory by looking for a free number, which two starting runs
    would both find; and it leaves it behind when killed. Its own cleaner removes that of living
    runs too, so it runs only when no other run of lvf is alive.
    """
    from streaming.base.distributed import maybe_init_dist
    from torch import distributed

    own_group = maybe_init_dist()
    has_met_others = False
    is_leader = int(os.environ.get("LOCAL_RANK", "0")) == 0
    with _lock_file("opening").open("w") as gate:
        if is_leader:
            fcntl.flock(gate, fcntl.LOCK_EX)
            has_met_others = _clear_if_alone()
        if distributed.is_initialized() and not has_met_others:
            distributed.barrier()  # the other ranks look for a number only under the leader's lock
        yield
    if own_group:
        distributed.destroy_process_group()


def _clear_if_alone() -> bool:
    """Clear unless another run lives; whether streaming's cleaner ran, which ends in a barrier."""
    global _alive
    if _alive is not None:
        return False
    from streaming.base.util import clean_stale_shared_memory

    _alive = _lock_file("alive").open("w")
    try:
        fcntl.flock(_alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_alone = False
    else:
        is_alone = True
        clean_stale_shared_memory()
    fcntl.flock(_alive, fcntl.LOCK_SH)
    return is_alone


def _lock_file(name: str) -> Path:
    # Beside the shared memory itself: jobs of one machine may have temporary folders of their own.
    shared_memory = Path("/dev/shm")
    folder = shared_memory if shared_memory.is_dir() else Path(tempfile.gettempdir())
    return folder / f"lvf-{os.getuid()}-streaming-{name}.lock"
