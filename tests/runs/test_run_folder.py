"""Who works on a run, and who only asks for its state."""

import fcntl
import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.errors import UserError
from lvf.launching.status import statuses
from lvf.runs.run_folder import (
    RUNNING,
    STOPPED,
    UNREADABLE,
    RunFolder,
    open_run_folder,
    run_folder,
)
from lvf.runs.sweep import SweepRun

FORK = multiprocessing.get_context("fork")


def started_once(runs: Path) -> tuple[RunConfig, RunFolder]:
    cfg = compose("+experiment=math_ift", f"paths.runs={runs}")
    folder = open_run_folder(cfg)
    folder.write_status(RUNNING)
    folder.lock().release()
    return cfg, folder


def ask(cfg: RunConfig, asked: Any, end: Any) -> None:
    """Ask for the state of a run, again and again, as fast as can be."""
    seen = set()
    while not end.is_set():
        seen.add(run_folder(cfg).state(cfg))
        asked.set()
    os._exit(0 if seen <= {RUNNING, STOPPED} else 1)


def test_whoever_asks_for_the_state_keeps_no_run_from_starting(tmp_path: Path) -> None:
    cfg, folder = started_once(tmp_path)
    asked, end = [FORK.Event() for _ in range(2)], FORK.Event()
    pollers = [FORK.Process(target=ask, args=(cfg, one, end)) for one in asked]
    for poller in pollers:
        poller.start()
    for one in asked:
        one.wait()
    for _ in range(300):
        with folder.lock():
            assert folder.state(cfg) == RUNNING
        assert folder.state(cfg) == STOPPED  # others who ask do not count
    end.set()
    for poller in pollers:
        poller.join()
    assert [poller.exitcode for poller in pollers] == [0, 0]


def test_a_start_in_the_middle_of_a_question_waits_for_its_end(tmp_path: Path) -> None:
    _, folder = started_once(tmp_path)
    question = (folder.path / ".lock").open()
    fcntl.flock(question, fcntl.LOCK_SH)
    answered = threading.Timer(0.1, question.close)
    answered.start()
    folder.lock().release()
    assert question.closed


def test_two_processes_cannot_work_on_one_run(tmp_path: Path) -> None:
    _, folder = started_once(tmp_path)
    with folder.lock(), pytest.raises(UserError, match="another process"):
        RunFolder(folder.path).lock()


@contextmanager
def as_another_user() -> Iterator[None]:
    """Root may read everything; anybody else what is not closed to them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that every user can enter."""
    with TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)


def test_another_user_sees_the_state_of_a_run_and_not_its_absence_of_rights(common: Path) -> None:
    cfg, folder = started_once(common)
    (folder.path / ".lock").chmod(0o444)
    with as_another_user():
        assert folder.state(cfg) == STOPPED
    with folder.lock(), as_another_user():
        assert folder.state(cfg) == RUNNING


def test_a_run_that_may_not_be_read_is_called_so(common: Path) -> None:
    cfg, folder = started_once(common)
    folder.path.chmod(0)
    with as_another_user():
        (found,) = statuses([SweepRun((), cfg)])
    folder.path.chmod(0o755)
    assert found.state == UNREADABLE and str(folder.path) in found.why
