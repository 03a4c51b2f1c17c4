"""Makes parts on all cores, with few of them under way at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing.connection import wait

from lvf.data.corpus_stats import CorpusStats
from lvf.data.part import Work, make_part
from lvf.data.sources import Part
from lvf.errors import PreparationInterruptedError

PARTS_UNDER_WAY = 2
"""For each process: one being made, and one waiting with its rows in memory."""

_work: Work


def num_cores() -> int:
    """Cores that this process may use, which a job scheduler may have made fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_parts(
    parts: Iterable[Part], work: Work, processes: int
) -> Generator[tuple[Part, CorpusStats], None, None]:
    """Make parts, and yield each with its counts in the order given.

    A single part is made in this process: a small corpus does not pay for others.

    Raises:
        UserError: see `make_part`; `PreparationInterruptedError` if a process was killed.
    """
    parts = iter(parts)
    first = list(islice(parts, 2))
    if len(first) < 2 or processes == 1:
        for part in chain(first, parts):
            yield part, make_part(part, work)
        return
    import streaming  # noqa: F401, here, so that not each worker has to

    # Forked, so that the workers share the tokenizer and the index of the evaluation sets.
    executor = ProcessPoolExecutor(
        processes, multiprocessing.get_context("fork"), _start_worker, (work,)
    )
    under_way: deque[tuple[Part, Future[CorpusStats]]] = deque()
    try:
        for part in chain(first, parts):
            under_way.append((part, executor.submit(_make, part)))
            if len(under_way) == PARTS_UNDER_WAY * processes:
                yield _finished(*under_way.popleft())
        while under_way:
            yield _finished(*under_way.popleft())
    finally:
        executor.shutdown(cancel_futures=True)


def _finished(part: Part, future: Future[CorpusStats]) -> tuple[Part, CorpusStats]:
    try:
        return part, future.result()
    except BrokenProcessPool as error:
        raise PreparationInterruptedError(
            "a process that prepared data was killed, perhaps for want of memory. The same command "
            "goes on with what is missing; runtime.prepare_processes=1 needs the least memory."
        ) from error


def _start_worker(work: Work) -> None:
    global _work
    _work = work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a process
    # The executor ends its workers by SIGTERM. A handler in Python, such as Composer's, does not
    # run in a worker that begins to wait for work at that moment, and both would wait for ever.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Without this, the workers of a killed process would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _make(part: Part) -> CorpusStats:
    return make_part(part, _work)
