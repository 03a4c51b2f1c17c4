"""Models that are written once as another folder, in lvf's cache, which all of lvf then reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lvf.config.schema import stable_hash
from lvf.embedded.files import cache_dir
from lvf.errors import UserError


def written_once(source: Path, stamp: list[Any], write: Callable[[Path], None]) -> Path:
    """The folder that `write` makes of a model, made again when the model or transformers changes.

    Args:
        source: What the model is made of.
        stamp: Its size and time of change.
        write: Takes the folder to be written.

    Raises:
        UserError: there is no room; or what `write` raises.
    """
    import transformers
    from filelock import FileLock

    folder = cache_dir() / "models" / stable_hash([str(source), stamp, transformers.__version__])
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                print(f"model.path={source} is written to {folder}, once, as fp32 weights")
                temporary = folder.with_suffix(f".{os.getpid()}")
                shutil.rmtree(temporary, ignore_errors=True)
                write(temporary)
                temporary.rename(folder)
    except OSError as error:
        raise UserError(
            f"model.path={source} cannot be written to {folder}: {error}. Set the environment "
            "variable LVF_CACHE to a folder with room for 4 bytes a parameter"
        ) from error
    return folder
