"""Asks the Hugging Face hub again when the network or the hub fails for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt. The hub's own client tries some requests again, not all."""
HTTP_CLIENTS = ("requests", "httpx", "httpx2")
"""Of the versions of huggingface_hub; what these packages raise is the network's fault."""
Answer = TypeVar("Answer")


def ask_hub(question: Callable[[], Answer]) -> Answer:
    """What the hub answers, after as many attempts as it takes.

    Raises:
        OSError: the network or the hub still fails after all attempts.
        Exception: what else `question` raises, at once.
    """
    for pause in (*PAUSES, None):
        try:
            return question()
        except Exception as error:
            if not _passes(error):
                raise
            if pause is None:
                raise OSError(f"the hub does not answer: {error}") from error
            time.sleep(pause)
    raise AssertionError


def _passes(error: Exception) -> bool:
    """Whether an error, or what led to it, may be another one in a moment."""
    for one in _chain(error):
        status = getattr(getattr(one, "response", None), "status_code", None)
        if status is not None:
            return bool(status >= 500 or status == 429)
        if type(one).__module__.partition(".")[0] in HTTP_CLIENTS:
            return True
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
