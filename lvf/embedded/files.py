"""Finds a file of the embedded world, which is written to a cache when first asked for."""

import os
from pathlib import Path

from lvf.embedded.corpora import write_world
from lvf.errors import UserError


def cache_dir() -> Path:
    """Folder for what can be made again: `LVF_CACHE`, or `~/.cache/lvf`.

    Where the home cannot be written, as of a service's user, `runs/.cache` of the working folder.
    """
    if given := os.environ.get("LVF_CACHE"):
        return Path(given).expanduser()
    try:
        folder = Path("~/.cache/lvf").expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # of a user without a home
        pass
    return Path("runs/.cache").absolute()


def embedded_file(stem: str) -> Path:
    """A .jsonl file of the world by its path without suffix, such as `train/math_ift`.

    Raises:
        UserError: there is no such file, or no room for the files.
    """
    cache = cache_dir()
    try:
        world = write_world(cache / "world")
    except OSError as error:
        raise UserError(
            f"the embedded world cannot be written to {cache}: {error}. Set the environment "
            "variable LVF_CACHE to a folder with room."
        ) from error
    path = world / f"{stem}.jsonl"
    if not path.is_file():
        files = sorted(world.rglob("*.jsonl"))
        known = [str(file.relative_to(world).with_suffix("")) for file in files]
        raise UserError(f"embedded:{stem} is not one of {', '.join(known)}")
    return path
