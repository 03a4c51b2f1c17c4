"""Keeps runs on one machine out of each other's shared memory, and clears that of dead ones."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streaming import StreamingDataset

SHARED_MEMORY = Path("/dev/shm")
SEGMENT = re.compile(r"/dev/shm/(\d{6})_")
"""streaming numbers the data sets that are open on a machine: 000000_locals, 000000_resume, ..."""


def open_dataset(**arguments: Any) -> StreamingDataset:
    """Make a StreamingDataset: one job of this machine at a time registers itself.

    streaming looks for a free number, and two runs that start together would both find the same.
    Every rank of a distributed job must call this together.
    """
    from streaming import StreamingDataset
    from streaming.base.distributed import maybe_init_dist
    from torch import distributed

    own_group = maybe_init_dist()
    with _gate().open("w") as gate:
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            fcntl.flock(gate, fcntl.LOCK_EX)
            clear_dead_segments()
        if distributed.is_initialized():
            distributed.barrier()  # the other ranks look for a number only under the leader's lock
        dataset = StreamingDataset(**arguments)
        _own(dataset)
    if own_group:
        distributed.destroy_process_group()
    return dataset


def _own(dataset: StreamingDataset) -> None:
    """Hold a lock that says that the data set is in use, as long as it or a worker of it lives."""
    file = _owner_file(f"{dataset._shm_prefix_int:06}")
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # shared by the ranks; workers inherit it
    weakref.finalize(dataset, _let_go, file, descriptor)


def _let_go(file: Path, descriptor: int) -> None:
    file.unlink(missing_ok=True)  # another program may get the number next
    os.close(descriptor)


def clear_dead_segments() -> None:
    """Remove what killed processes of this user left; on systems without /proc, do nothing.

    streaming's own cleaner takes the segments of living runs too, and stops at the first gap in
    the numbers. Documents of other programs, which hold no lock on them, count as dead once no
    process that can be seen has them mapped. That says nothing of our own: streaming maps those
    of every run that it finds when it looks for a number, and keeps them until it ends.
    """
    from streaming.base import constant

    if not Path("/proc/self/maps").exists():
        return
    folders = (SHARED_MEMORY, Path(tempfile.gettempdir()))
    # Listed before the processes are: what appears in between is not taken for dead.
    files = [path for folder in folders for path in folder.glob("[0-9]" * 6 + "_*")]
    mapped: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended, or is another user's
            mapped.update(SEGMENT.findall(maps.read_text()))
    names = {*constant.SHM_TO_CLEAN, constant.BARRIER_FILELOCK, constant.CACHE_FILELOCK}
    ours = [path for path in files if path.name.split("_", maxsplit=1)[1] in names]
    alive = {number: _is_alive(number, mapped) for number in {path.name[:6] for path in ours}}
    for path in ours:
        if not alive[path.name[:6]]:
            with suppress(OSError):  # another user's
                path.unlink()


def _is_alive(number: str, mapped: set[str]) -> bool:
    try:
        with _owner_file(number).open("r+") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _owner_file(number).unlink()
            return False
    except FileNotFoundError:  # another program's
        return number in mapped
    except OSError:  # locked
        return True


def _owner_file(number: str) -> Path:
    return _gate().with_name(f"lvf-{os.getuid()}-streaming-{number}.lock")


def _gate() -> Path:
    # Beside the shared memory itself: jobs of one machine may have temporary folders of their own.
    folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    return folder / f"lvf-{os.getuid()}-streaming.lock"
