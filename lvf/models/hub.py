"""Asks the Hugging Face hub again when the network or the hub fails for a moment."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt. The hub's own client tries some requests again, not all."""
ANSWER_SECONDS = 60.0
"""How long a silent hub is waited for, unless the user sets HF_HUB_DOWNLOAD_TIMEOUT."""
HTTP_CLIENTS = ("requests", "httpx", "httpx2")
"""Of the versions of huggingface_hub; what these packages raise is the network's fault."""
Answer = TypeVar("Answer")


def ask_hub(question: Callable[[], Answer]) -> Answer:
    """What the hub answers, after as many attempts as it takes.

    Raises:
        OSError: the network or the hub still fails after all attempts.
        Exception: what else `question` raises, at once.
    """
    _limit_waits()
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


@functools.cache
def _limit_waits() -> None:
    """Let no request of this process wait for ever: huggingface_hub limits few of them."""
    import huggingface_hub

    seconds = float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", ANSWER_SECONDS))
    session: Any = huggingface_hub.get_session()
    kind = type(session)
    if hasattr(huggingface_hub, "configure_http_backend"):  # before version 1.0, on requests
        hubs: Any = type(session.get_adapter("https://"))

        class LimitedAdapter(hubs):
            def send(self, *args: Any, timeout: Any = None, **kwargs: Any) -> Any:
                """Send, and wait for no longer than the limit."""
                return super().send(*args, timeout=timeout or seconds, **kwargs)

        def make_session() -> Any:
            made = kind()
            made.mount("http://", LimitedAdapter())
            made.mount("https://", LimitedAdapter())
            return made

        huggingface_hub.configure_http_backend(make_session)
        return

    def limit(request: Any) -> None:
        limits = request.extensions["timeout"]
        limits.update({wait: seconds for wait, given in limits.items() if given is None})

    hooks = {**session.event_hooks, "request": [*session.event_hooks["request"], limit]}
    huggingface_hub.set_client_factory(
        lambda: kind(event_hooks=hooks, follow_redirects=True, timeout=seconds)
    )


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
