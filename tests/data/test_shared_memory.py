"""streaming's shared memory: that of dead runs of lvf goes, all other stays."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lvf.data.shared_memory import (
    KEPT_SECONDS,
    SHARED_MEMORY,
    _adopt_of_killed_leader,
    _gate,
    _owner_file,
    clear_dead_segments,
)

pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="needs /dev/shm")
Segments = Callable[[str], list[Path]]


@pytest.fixture
def number() -> Iterator[str]:
    """One that streaming comes to only behind those of a million data sets."""
    found = f"{900_000 + os.getpid() % 99_999}"
    yield found
    for path in (*SHARED_MEMORY.glob(f"{found}_*"), _owner_file(found)):
        path.unlink(missing_ok=True)


def write_segments(number: str, rows: str = "/rows") -> list[Path]:
    text = f"{rows}\0{int(number)}".encode()
    segments = [SHARED_MEMORY / f"{number}_{name}" for name in ("locals", "barrier", "resume")]
    for segment in segments:
        segment.write_bytes((4 + len(text)).to_bytes(4, "little") + text)
    return segments


def own(number: str, segment: Path, seen_dead: float | None = None) -> None:
    facts = {"inode": segment.stat().st_ino, "seen_dead": seen_dead}
    _owner_file(number).write_text(json.dumps(facts))


def clear() -> None:
    with _gate().open("a+") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        clear_dead_segments()


def test_what_no_run_of_lvf_has_made_is_another_programs(number: str) -> None:
    segments = write_segments(number)
    clear()
    assert all(segment.exists() for segment in segments)


def test_a_number_that_another_program_has_taken_since_is_that_programs(number: str) -> None:
    first, *_ = write_segments(number)
    own(number, first, seen_dead=0.0)
    held = first.open()  # its inode is not given again
    first.unlink()
    segments = write_segments(number)
    clear()
    held.close()
    assert all(segment.exists() for segment in segments)
    assert not _owner_file(number).exists()


def test_a_dead_run_lets_go_of_its_rows_at_once_and_of_its_number_later(number: str) -> None:
    segments = write_segments(number)
    own(number, segments[0])
    before = time.time()
    clear()
    assert segments[0].read_bytes()[:4] == bytes(4)
    assert all(segment.exists() for segment in segments)
    facts = json.loads(_owner_file(number).read_text())
    assert before <= facts["seen_dead"] <= time.time()
    own(number, segments[0], seen_dead=facts["seen_dead"] - KEPT_SECONDS)
    clear()
    assert not any(path.exists() for path in (*segments, _owner_file(number)))


def test_a_run_that_lives_keeps_its_segments(number: str) -> None:
    segments = write_segments(number)
    own(number, segments[0], seen_dead=0.0)
    with _owner_file(number).open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        clear()
    assert all(segment.exists() for segment in segments)
    assert segments[0].read_bytes()[:4] != bytes(4)


def test_what_a_leader_left_that_was_killed_while_it_opened_is_known_by_its_rows(
    number: str, tmp_path: Path
) -> None:
    segments = write_segments(number, str(tmp_path))
    gate = (tmp_path / "gate").open("a+")
    gate.write(str(tmp_path))
    _adopt_of_killed_leader(gate)
    clear()
    assert segments[0].read_bytes()[:4] == bytes(4)
    assert (tmp_path / "gate").read_text() == ""
