"""What libraries say goes to a log file; the terminal shows what lvf says, and errors."""

import logging
import os
import sys
import warnings
from contextlib import suppress
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TextIO

LIBRARIES = ("torch", "transformers", "datasets", "huggingface_hub", "lm_eval")
"""Those that may give their loggers a handler of their own, which writes to the terminal."""
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# It hands each line on at once, but keeps all of them as long as it has no target.
_log_file = MemoryHandler(capacity=1, flushLevel=logging.CRITICAL + 1)


def keep_from_terminal() -> None:
    """Keep the lines of all loggers and the warnings for the file that `log_to` will name.

    Commands call this first, before they import libraries. Errors go to the terminal, too, and so
    do lvf's own warnings. Progress bars whose maker does not ask for them by `disable=False` are
    not shown (`TQDM_DISABLE` of tqdm's documentation; a value that the user has set stays).
    """
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.ERROR)
    logging.basicConfig(level=logging.INFO, handlers=[_log_file, terminal], force=True)
    warnings.showwarning = _log_warning
    os.environ.setdefault("TQDM_DISABLE", "1")


def log_to(file: Path) -> None:
    """Append what was kept so far, and what will follow, to a file; imports torch, transformers.

    Does nothing unless this process has called `keep_from_terminal`: notebooks and tests log as
    they like. Where the file cannot be written, lines are kept on, and lost at the end.
    """
    if not _is_in_use():
        return
    import torch  # noqa: F401, both make their handlers when they are imported
    import transformers  # noqa: F401

    silence_own_handlers()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        target = logging.FileHandler(file, encoding="utf-8")
        target.setFormatter(logging.Formatter(FORMAT))
        if _log_file.target is not None:
            _log_file.target.close()
        _log_file.setTarget(target)
        _log_file.flush()


def silence_own_handlers() -> None:
    """Let the root logger's handlers alone write what the imported libraries log.

    To be called again after a library of `LIBRARIES` is imported.
    """
    if not _is_in_use():
        return
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.propagate = True


def _is_in_use() -> bool:
    return _log_file in logging.getLogger().handlers


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Replace `warnings.showwarning`: lvf's own are for the user."""
    if category.__module__.startswith("lvf."):
        print(f"note: {message}", file=sys.stderr)
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        logging.getLogger("py.warnings").warning(text.strip())
