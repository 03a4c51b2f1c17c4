"""The embedded tokenizer: exact round trips and prompts that tokenise as in training."""

import random
from typing import Any

import pytest

from lvf.embedded.tokenizer import VOCABULARY


def test_any_text_round_trips(tokenizer: Any) -> None:
    rng = random.Random(0)
    planes = ((32, 126), (9, 13), (160, 1000), (0x4E00, 0x4F00), (0x1F600, 0x1F640))
    for _ in range(300):
        text = "".join(chr(rng.randint(*rng.choice(planes))) for _ in range(rng.randint(1, 40)))
        assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize("text", ["", " ", "\n\n", "  a , b .  c 's", "\t x\r\n", "don 't ."])
def test_spaces_and_punctuation_are_kept(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_no_special_token_is_added(tokenizer: Any) -> None:
    ids = tokenizer("Anna lives in Norwick.").input_ids
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<pad>"]) == [0, 1, 2]
    assert len(tokenizer) == VOCABULARY


def test_a_newline_is_a_token_of_its_own_and_digits_are_single(tokenizer: Any) -> None:
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("12\n\n    34 #### 5:\n").input_ids)
    newline = tokenizer.convert_ids_to_tokens(tokenizer("\n").input_ids)
    assert len(newline) == 1 and pieces.count(newline[0]) == 3
    assert all(sum(letter.isdigit() for letter in piece) <= 1 for piece in pieces)


def test_prompt_and_answer_tokens_join_to_the_tokens_of_the_text(tokenizer: Any, rows: Any) -> None:
    pairs = [(f"Question: {r['query']}\nAnswer:", f" {r['response']}")
             for r in rows("train/math_ift")]  # fmt: skip
    pairs += [(r["instruction"], r["response"]) for r in rows("train/code_ift")]
    pairs += [(r["prompt"].strip(), "\n" + r["canonical_solution"])
              for r in rows("benchmarks/humaneval_test")]  # fmt: skip
    pairs += [(f"Question: {r['question']}\nAnswer:", f" {r['choices']['text'][0]}")
              for r in rows("benchmarks/arc_challenge_test")]  # fmt: skip
    for prompt, answer in pairs:
        parts = tokenizer(prompt).input_ids + tokenizer(answer).input_ids
        assert parts == tokenizer(prompt + answer).input_ids


def test_training_examples_fit_the_base_model(tokenizer: Any, rows: Any) -> None:
    for row in rows("train/code_ift"):
        assert len(tokenizer(row["instruction"] + row["response"]).input_ids) <= 256
    for row in rows("train/math_ift"):
        assert len(tokenizer(row["query"] + row["response"]).input_ids) <= 192
