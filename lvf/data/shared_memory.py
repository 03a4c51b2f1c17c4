"""Keeps runs on one machine out of each other's shared memory, and clears that of dead ones."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
SEGMENT = re.compile(r"/dev/shm/(\d{6})_")
"""streaming numbers the data sets that are open on a machine: 000000_locals, 000000_resume, ..."""


@contextmanager
def opening() -> Iterator[None]:
    """Hold while a StreamingDataset is made: one job of this machine at a time registers itself.

    streaming looks for a free number, and two runs that start together would both find the same.
    Every rank of a distributed job must enter this together.
    """
    from streaming.base.distributed import maybe_init_dist
    from torch import distributed

    own_group = maybe_init_dist()
    with _gate().open("w") as gate:
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            fcntl.flock(gate, fcntl.LOCK_EX)
            clear_dead_segments()
        if distributed.is_initialized():
            distributed.barrier()  # the other ranks look for a number only under the leader's lock
        yield
    if own_group:
        distributed.destroy_process_group()


def clear_dead_segments() -> None:
    """Remove what killed processes of this user left; on systems without /proc, do nothing.

    streaming's own cleaner takes the segments of living runs too, and stops at the first gap in
    the numbers. A process that cannot be seen from here, as in another container that shares
    /dev/shm, counts as dead.
    """
    from streaming.base import constant

    if not Path("/proc/self/maps").exists():
        return
    folders = (SHARED_MEMORY, Path(tempfile.gettempdir()))
    # Listed before the processes are: what appears in between is not taken for dead.
    files = [path for folder in folders for path in folder.glob("[0-9]" * 6 + "_*")]
    alive: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended, or is another user's
            alive.update(SEGMENT.findall(maps.read_text()))
    names = {*constant.SHM_TO_CLEAN, constant.BARRIER_FILELOCK, constant.CACHE_FILELOCK}
    for path in files:
        number, name = path.name.split("_", maxsplit=1)
        if name in names and number not in alive:
            with suppress(OSError):  # another user's
                path.unlink()


def _gate() -> Path:
    # Beside the shared memory itself: jobs of one machine may have temporary folders of their own.
    folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    return folder / f"lvf-{os.getuid()}-streaming.lock"
