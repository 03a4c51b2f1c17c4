"""Nothing that is measured occurs in what is trained on, the base's own text included."""

import random
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from lvf.embedded import pretrain

BASE_DOCUMENTS = {"source": 60_000, "maths": 12_000, "words": 6_000, "code": 6_000}
"""Documents of the base's own stream that are looked at; a full run reads about 4 times as many."""


@pytest.fixture(scope="session")
def base_text() -> dict[str, list[str]]:
    return {
        kind: list(islice(pretrain.documents(kind, 0), count))
        for kind, count in BASE_DOCUMENTS.items()
    }


def texts(rows: Any, split: str) -> Iterator[str]:
    for name in ("math_cpt", "code_cpt", "source"):
        yield from (row["text"] for row in rows(f"{split}/{name}"))
    yield from (row["query"] for row in rows(f"{split}/math_ift"))
    yield from (row["instruction"] + row["response"] for row in rows(f"{split}/code_ift"))


@pytest.mark.parametrize("split", ["validation", "heldout"])
def test_no_measured_document_is_a_training_document(
    rows: Any, base_text: dict[str, list[str]], split: str
) -> None:
    trained = set(texts(rows, "train")).union(*base_text.values())
    assert not trained & set(texts(rows, split))


def test_validation_and_heldout_share_no_document(rows: Any) -> None:
    assert not set(texts(rows, "validation")) & set(texts(rows, "heldout"))


def instances(text: str) -> set[tuple[Any, ...]]:
    """(whether things come packed, equations) of every problem in a text, its wording apart."""
    found = set()
    for part in re.split(r"Question: |Example \d+\. ", text):
        wording = re.split(r"Answer:|Solution\.", part)[0]
        equations = re.findall(r"\d+ [-+*/] \d+ = \d+", part)
        found.add((" in each." in wording, *equations))
    return found


def test_no_maths_problem_is_trained_on_in_other_words(
    rows: Any, base_text: dict[str, list[str]]
) -> None:
    trained: set[tuple[Any, ...]] = set()
    for row in rows("train/math_ift"):
        trained |= instances(f"{row['query']}\nAnswer: {row['response']}")
    for text in [row["text"] for row in rows("train/math_cpt")] + base_text["maths"]:
        trained |= instances(text)
    assert len(trained) > 10_000
    for row in rows("benchmarks/gsm8k_test"):
        assert not instances(f"{row['question']}\nAnswer: {row['answer']}") & trained
    for split in ("validation", "heldout"):
        for row in rows(f"{split}/math_ift"):
            assert not instances(f"{row['query']}\nAnswer: {row['response']}") & trained


def bodies(text: str) -> set[tuple[str, str]]:
    """(argument, body) of every function in a text."""
    return set(re.findall(r'def \w+\((\w+)\):\n    """[^"]*"""\n((?:    .+\n?)+)', text))


def behaviour(argument: str, body: str) -> str:
    """Outputs of a function on inputs that the generator does not use."""
    rng = random.Random(99)
    scope: dict[str, Any] = {}
    exec(f"def run({argument}):\n{body}", scope)
    inputs: dict[str, Any] = {
        "xs": [[rng.randint(-2, 14) for _ in range(rng.randint(0, 12))] for _ in range(60)],
        "s": ["".join(rng.choices("abcdeeaxyz", k=rng.randint(0, 12))) for _ in range(60)],
        "n": [rng.randint(-50, 200) for _ in range(30)],
    }
    return argument + repr([scope["run"](value) for value in inputs[argument]])


def test_no_tested_function_is_trained_on_in_another_spelling(
    rows: Any, base_text: dict[str, list[str]]
) -> None:
    trained: set[tuple[str, str]] = set()
    for row in rows("train/code_ift"):
        trained |= bodies(row["instruction"] + row["response"])
    for text in [row["text"] for row in rows("train/code_cpt")] + base_text["code"]:
        trained |= bodies(text)
    assert len(trained) > 2_000
    behaviours = {behaviour(*function) for function in trained}
    tested = [
        row["prompt"] + row["canonical_solution"] for row in rows("benchmarks/humaneval_test")
    ]
    for split in ("validation", "heldout"):
        tested += [r["instruction"] + r["response"] for r in rows(f"{split}/code_ift")]
    for text in tested:
        (function,) = bodies(text)
        assert behaviour(*function) not in behaviours


def test_no_description_of_a_tested_function_is_trained_on(
    rows: Any, base_text: dict[str, list[str]]
) -> None:
    def descriptions(text: str) -> set[str]:
        return set(re.findall(r'"""(.+)', text))

    trained: set[str] = set()
    for row in rows("train/code_ift"):
        trained |= descriptions(row["instruction"])
    for text in (
        [r["text"] for r in rows("train/code_cpt")] + base_text["code"] + base_text["words"]
    ):
        trained |= descriptions(text)
    for row in rows("benchmarks/humaneval_test"):
        assert not descriptions(row["prompt"]) & trained


def test_no_multiple_choice_item_is_trained_on(rows: Any, base_text: dict[str, list[str]]) -> None:
    trained = {row["text"] for row in rows("train/source")}.union(base_text["source"])
    questions = {text.split("\n")[0] for text in trained if text.startswith("Question: ")}
    for row in rows("benchmarks/arc_challenge_test"):
        assert f"Question: {row['question']}" not in questions
    runs = {tuple(text.split(" ", 6)[:6]) for text in trained if ": " in text[:40]}
    for row in rows("benchmarks/hellaswag_validation"):
        start = tuple(f"{row['activity_label']}: {row['ctx_a']}".split(" ", 6)[:6])
        assert start not in runs
    for row in rows("benchmarks/winogrande_validation"):
        for option in (row["option1"], row["option2"]):
            assert row["sentence"].replace("_", option) not in trained


def test_the_few_shot_pools_hold_no_benchmark_item(rows: Any) -> None:
    for pool, official in (
        ("hellaswag_train", "hellaswag_validation"),
        ("arc_challenge_train", "arc_challenge_test"),
        ("winogrande_train", "winogrande_validation"),
        ("gsm8k_train", "gsm8k_test"),
    ):
        ignored = {"ind", "id"}
        seen = [
            {
                repr([v for k, v in row.items() if k not in ignored])
                for row in rows(f"benchmarks/{n}")
            }
            for n in (pool, official)
        ]
        assert len(rows(f"benchmarks/{pool}")) == 32
        assert not seen[0] & seen[1]
