"""Checkpoints on disk that a crash cannot spoil: sealed when whole, and only whole ones count."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from lvf.errors import UserError

COMPLETE = "whole.json"
"""File sizes of a checkpoint, written after all of them."""
PLAIN = re.compile(
    r"numpy\.(ndarray|dtype|dtypes\.\w+|(core|_core)\.multiarray\._reconstruct)"
    r"|datetime\.timedelta|torch\.torch_version\.TorchVersion"
)
"""What Composer's state is made of beside tensors: the list of Composer's main branch, whose last
release (0.32.1) lets a checkpoint run any function that it names."""


def name_of(batch: int) -> str:
    """Folder name of the checkpoint after `batch` optimiser steps."""
    return f"ba{batch:07d}"


def batch_of(checkpoint: Path) -> int:
    """Optimiser steps behind a checkpoint."""
    return int(checkpoint.name.removeprefix("ba"))


def is_complete(checkpoint: Path) -> bool:
    """Whether every file has the size that was noted after all were written."""
    try:
        sizes = json.loads((checkpoint / COMPLETE).read_text())
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def newest_complete(folder: Path) -> Path | None:
    """The checkpoint to continue from; None where there is none at all.

    Raises:
        UserError: there are checkpoints, and not one is whole.
    """
    found = by_age(folder)
    for checkpoint in reversed(found):
        if is_complete(checkpoint):
            return checkpoint
        print(f"{checkpoint} is not whole: passed over")
    if found:
        raise UserError(
            f"none of the {len(found)} checkpoints in {folder} is whole. To start the run afresh, "
            f"delete them: rm -r {folder}"
        )
    return None


def state_file(checkpoint: Path) -> Path:
    """The file that Composer loads."""
    return checkpoint / "rank0.pt"


def refuse_code(checkpoint: Path) -> None:
    """Refuse a checkpoint whose state names functions other than those that make plain data.

    Raises:
        UserError: names them.
    """
    from torch.serialization import get_unsafe_globals_in_checkpoint

    file = state_file(checkpoint)
    try:
        names = get_unsafe_globals_in_checkpoint(str(file))
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{file} is no checkpoint of torch.save: {error}") from error
    if unknown := sorted(name for name in names if not PLAIN.fullmatch(name)):
        raise UserError(
            f"{file} would run {', '.join(unknown)} when it is loaded, which no checkpoint of lvf "
            "does. Where it did not come from a run of yours, delete the run folder"
        )


def by_age(folder: Path) -> list[Path]:
    """Checkpoints from the oldest to the newest."""
    return sorted(folder.glob("ba*"))


def prune(folder: Path, kept: Collection[int]) -> None:
    """Delete the checkpoints of a trained run, which nothing continues, but for those of batches.

    Args:
        folder: Of the checkpoints.
        kept: Batches off which other runs branch.
    """
    names = {name_of(batch) for batch in kept}
    for checkpoint in by_age(folder):
        if checkpoint.name not in names:
            shutil.rmtree(checkpoint)


def commit(partial: Path, target: Path) -> None:
    """Give a fully written folder its final name, once all of it is on disk.

    A spoilt checkpoint of that name, which was passed over, makes room.
    """
    sizes = {}
    for path in (path for path in partial.rglob("*") if path.is_file()):
        _sync(path)
        sizes[str(path.relative_to(partial))] = path.stat().st_size
    (partial / COMPLETE).write_text(json.dumps(sizes))
    _sync(partial / COMPLETE)
    _sync(partial)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
