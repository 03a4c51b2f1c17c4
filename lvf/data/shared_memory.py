"""Keeps runs on one machine out of each other's shared memory, and clears that of dead ones."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lvf.errors import UserError

if TYPE_CHECKING:
    from streaming import StreamingDataset

SHARED_MEMORY = Path("/dev/shm")
KEPT_SECONDS = 60.0
"""How long the number of a dead run is not given again. Python's resource tracker, a process of its
own, unlinks what a killed process has left by its names, some time after that process has ended."""


def open_dataset(kind: type[StreamingDataset], **arguments: Any) -> StreamingDataset:
    """Make a StreamingDataset of a kind: one job of this machine at a time registers itself.

    streaming numbers the data sets that are open on a machine (000000_locals, 000000_resume, ...).
    It looks for a free number, and two runs that start together would both find the same.
    Every rank of a distributed job must call this together.
    """
    from streaming.base.distributed import maybe_init_dist
    from torch import distributed

    own_group = maybe_init_dist()
    with _gate().open("a+") as gate:
        leads = _is_first_at(gate)
        if leads:
            fcntl.flock(gate, fcntl.LOCK_EX)
            _adopt_of_killed_leader(gate)
            clear_dead_segments()
            gate.write(os.path.abspath(arguments["streams"][0].local))  # noqa: PTH100  as streaming does
            gate.flush()
        if distributed.is_initialized():
            distributed.barrier()  # the other ranks look for a number only under the leader's lock
        dataset = kind(**arguments)
        _own(f"{dataset._shm_prefix_int:06}", leads)
        if leads:
            gate.truncate(0)
    if own_group:
        distributed.destroy_process_group()
    return dataset


def _is_first_at(gate: TextIO) -> bool:
    """Whether this rank is the first of its job that has this gate, and with it this machine.

    Raises:
        UserError: two launchers of the job are on this machine, which streaming does not support.
    """
    from torch import distributed

    if not distributed.is_initialized():
        return True
    facts = os.fstat(gate.fileno())
    here = (_machine(), facts.st_dev, facts.st_ino)
    ranks: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(ranks, (here, os.environ.get("LOCAL_RANK", "0")))
    if len(set(ranks)) < len(ranks):
        raise UserError(
            "torchrun was started twice on one machine for this run, which mosaicml-streaming does "
            "not support. Start torchrun once on each machine, with --nproc-per-node=NUMBER_OF_GPUS"
        )
    return [machine for machine, _ in ranks].index(here) == distributed.get_rank()


def _machine() -> str:
    """Differs between machines, also where all are called localhost."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text() if boot.exists() else socket.gethostname()


def _own(number: str, leads: bool) -> None:
    """Hold a lock that says that a number is in use, as long as this process or a worker lives."""
    descriptor = os.open(_owner_file(number), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # shared by the ranks; workers inherit it
    if leads:
        _describe(number)


def _describe(number: str) -> None:
    """Note which segment makes this number ours: once it is free, another program may take it."""
    locals_file = SHARED_MEMORY / f"{number}_locals"
    inode = locals_file.stat().st_ino if locals_file.exists() else None  # no such files on macOS
    _owner_file(number).write_text(json.dumps({"inode": inode, "seen_dead": None}))


def _adopt_of_killed_leader(gate: TextIO) -> None:
    """Own a number whose leader was killed before it could, so that it can be cleared.

    The gate then still names that leader's folder of rows, and so does the segment.
    """
    gate.seek(0)
    if rows := gate.read():
        for segment in SHARED_MEMORY.glob("[0-9]" * 6 + "_locals"):
            number = segment.name[:6]
            owner = _owner_file(number)
            is_described = owner.exists() and owner.stat().st_size > 0
            with suppress(OSError):  # another user's
                if not is_described and rows.encode() in segment.read_bytes():
                    _describe(number)
        gate.truncate(0)


def clear_dead_segments() -> None:
    """Remove what killed runs of lvf left, `KEPT_SECONDS` after they are first seen to be dead.

    Only the holder of the gate calls this. Until then the folder of rows is given free, as
    streaming does at the end of a data set; a start on the same rows would be refused. Other
    programs' numbers are left alone. (streaming's own cleaner takes the segments of living runs
    too, and stops at the first gap in the numbers.)
    """
    for file in _gate().parent.glob(_owner_file("*").name):
        with file.open("r+") as owner:
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # at work
                continue
            _clear(file.stem[-6:], owner)


def _clear(number: str, owner: TextIO) -> None:
    from streaming.base import constant

    locals_file = SHARED_MEMORY / f"{number}_{constant.LOCALS}"
    try:
        facts = json.loads(owner.read())
    except ValueError:  # it was killed while it wrote them
        facts = {"inode": None, "seen_dead": None}
    is_free = not locals_file.exists()
    if not is_free and locals_file.stat().st_ino != facts["inode"]:
        _owner_file(number).unlink()  # another program has the number now
    elif facts["seen_dead"] is None:
        if not is_free:
            with locals_file.open("r+b") as segment:
                segment.write(bytes(4))  # the length of the names of folders
        owner.seek(0)
        owner.truncate()
        owner.write(json.dumps(facts | {"seen_dead": time.time()}))
    elif time.time() - facts["seen_dead"] > KEPT_SECONDS:
        for name in constant.SHM_TO_CLEAN:
            (SHARED_MEMORY / f"{number}_{name}").unlink(missing_ok=True)
        for name in (constant.BARRIER_FILELOCK, constant.CACHE_FILELOCK):
            Path(tempfile.gettempdir(), f"{number}_{name}").unlink(missing_ok=True)
        _owner_file(number).unlink()


def _owner_file(number: str) -> Path:
    return _gate().with_name(f"lvf-{os.getuid()}-streaming-{number}.lock")


def _gate() -> Path:
    # Beside the shared memory itself: jobs of one machine may have temporary folders of their own.
    folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    return folder / f"lvf-{os.getuid()}-streaming.lock"
