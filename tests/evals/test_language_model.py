"""Greedy answers are those of lm-eval's own Hugging Face model, item by item."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from lvf.embedded.corpora import base_dir
from lvf.evals.completion import stop_ids
from lvf.evals.generate import common_beginning
from lvf.evals.language_model import CountingLM
from tests.models.architectures import tiny_model

SHOTS = (
    "Question: Tom has 3 apples and buys 4 more. How many apples has Tom?\n"
    "Answer: 3 + 4 = 7\n#### 7\n\n"
    "Question: A red cup costs 5 and a blue lamp costs 8. What do both cost?\n"
    "Answer: 5 + 8 = 13\n#### 13\n\n"
)
QUESTIONS = [
    "Question: Ann has 2 pens and finds 6. How many has Ann?\nAnswer:",
    "Question: What is 3 + 9?\nAnswer:",
    "Question: A box holds 12 stones, of which 5 fall out, and then 4 more. The tower is tall. How "
    "many stones are in the box?\nAnswer:",
    "The old garden",
    "Question: What is 3 + 9?\nAnswer:",
    "def add(a, b):",
    "Question: What is 10 - 7?\nAnswer:",
]


def requests_of(prompts: Sequence[str], *options: dict[str, Any]) -> list[Instance]:
    """A request for each prompt, with the options in turn."""
    return [
        Instance("generate_until", {}, (prompt, copy.deepcopy(options[number % len(options)])), 0)
        for number, prompt in enumerate(prompts)
    ]


def answers(
    model: Any, tokenizer: Any, requests: list[Instance], batch_size: int
) -> tuple[list[str], list[str], CountingLM]:
    """Those of lvf, those of lm-eval, and the model that counted."""
    lm = CountingLM(model, tokenizer, batch_size)
    ours = lm.generate_until(copy.deepcopy(requests), disable_tqdm=True)
    reference = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    return ours, reference.generate_until(copy.deepcopy(requests), disable_tqdm=True), lm


def word_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """As Llama 2's: blanks belong to words, a text's first is dropped, BOS stands before it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    special = ["<unk>", "<s>", "</s>"]
    alphabet = sorted(set("".join(texts)) | {"▁"})
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="</s>", clean_up_tokenization_spaces=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def base() -> tuple[Any, Any]:
    """The packaged base."""
    model = AutoModelForCausalLM.from_pretrained(base_dir(), dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(base_dir())


@pytest.fixture(scope="module", params=["qwen2", "gpt2", "mistral"])
def other(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Windows, learned positions, or all layers with windows, behind a tokenizer with BOS."""
    tokenizer = word_tokenizer([SHOTS, *QUESTIONS])
    special = {"eos_token_id": 2, "pad_token_id": 2, "bos_token_id": 1}
    model = tiny_model(request.param, vocab_size=len(tokenizer), **special)
    return model.eval(), tokenizer


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_answers_of_the_packaged_base_are_those_of_lm_eval(
    base: tuple[Any, Any], batch_size: int
) -> None:
    prompts = [SHOTS + question for question in QUESTIONS]
    options = (
        {"until": ["Question:", "</s>", "\n####"], "do_sample": False, "temperature": 0.0,
         "max_gen_toks": 40},
        {"until": "\n\n", "do_sample": False, "max_gen_toks": 24},
        {"until": [" and the", "= 1"], "max_gen_toks": 40},
    )  # fmt: skip
    ours, theirs, _ = answers(*base, requests_of(prompts, *options), batch_size)
    assert ours == theirs
    assert len(set(ours)) > 3


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("shots", ["", SHOTS])
def test_answers_of_other_models_and_tokenizers_are_those_of_lm_eval(
    other: tuple[Any, Any], shots: str, batch_size: int
) -> None:
    model, tokenizer = other
    prompts = [shots + question for question in QUESTIONS]
    free, _, _ = answers(model, tokenizer, requests_of(prompts, {"max_gen_toks": 20}), 16)
    stops = [free[0][5:9], free[2][7:9]]  # which do come, over several tokens
    options = ({"until": stops, "max_gen_toks": 20}, {"until": ["\n"], "max_gen_toks": 9})
    ours, theirs, _ = answers(model, tokenizer, requests_of(prompts, *options), batch_size)
    assert ours == theirs
    assert ours[0] == free[0].split(stops[0])[0].split(stops[1])[0]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_prompts_that_do_not_fit_lose_their_beginning_as_in_lm_eval(
    base: tuple[Any, Any], batch_size: int
) -> None:
    model, tokenizer = base
    prompts = [SHOTS * repeats + question for repeats, question in zip((1, 9, 2, 0, 12), QUESTIONS)]  # noqa: B905
    requests = requests_of(prompts, {"until": ["\n\n"], "max_gen_toks": 200})
    ours, theirs, lm = answers(model, tokenizer, requests, batch_size)
    assert ours == theirs
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    too_long = sum(length > model.config.max_position_embeddings - 200 for length in lengths)
    assert lm.num_cut == too_long
    assert 0 < too_long < len(prompts)


def test_it_counts_the_answers_and_those_that_the_model_ends(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    prompts = [SHOTS + question for question in QUESTIONS]
    requests = requests_of(prompts, {"until": ["\n\n"], "max_gen_toks": 64})
    lm = CountingLM(model, tokenizer, 4)
    lm.generate_until(requests, disable_tqdm=True)
    num_ended = 0
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        for _ in range(64):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
            text = tokenizer.decode(ids[0])[len(prompt) :]
            if "\n\n" in text or ids[0, -1] == tokenizer.eos_token_id:
                break
        num_ended += int(ids[0, -1] == tokenizer.eos_token_id)
    assert (lm.num_generated, lm.num_ended) == (len(prompts), num_ended)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.9}, {}),
        ({"num_beams": 2}, {}),
        ({}, {"repetition_penalty": 1.3}),
    ],
)
def test_whatever_is_not_plain_greedy_decoding_is_as_in_lm_eval(
    options: dict[str, Any], settings: dict[str, Any], base: tuple[Any, Any]
) -> None:
    model, tokenizer = copy.deepcopy(base[0]), base[1]
    vars(model.generation_config).update(settings)
    plain = {"until": ["\n\n"], "max_gen_toks": 24}
    requests = requests_of([SHOTS + one for one in QUESTIONS[:4]], plain, plain | options)
    found = []
    for kind in (CountingLM, HFLM):
        torch.manual_seed(3)
        lm = kind(model, tokenizer=tokenizer, batch_size=2)
        found.append(lm.generate_until(copy.deepcopy(requests), disable_tqdm=True))
    assert found[0] == found[1]
    if settings:
        assert found[0] != answers(*base, requests, 2)[0]


def test_a_special_token_that_holds_a_stop_string_stops(base: tuple[Any, Any]) -> None:
    model, tokenizer = base

    def pad_forever(_module: Any, _inputs: Any, logits: Any) -> Any:
        logits[..., tokenizer.pad_token_id] = 1e4
        return logits

    assert stop_ids(tokenizer, ["<pad>", "x"]) == {tokenizer.pad_token_id}
    hook = model.lm_head.register_forward_hook(pad_forever)
    try:
        requests = requests_of(QUESTIONS[:2], {"until": ["<pad>"], "max_gen_toks": 9})
        ours, theirs, lm = answers(model, tokenizer, requests, 1)
    finally:
        hook.remove()
    assert ours == theirs == ["", ""]
    assert lm.num_ended == 0


def test_the_common_beginning_leaves_each_prompt_a_token_of_its_own() -> None:
    assert common_beginning([[1, 2, 3, 4], [1, 2, 3, 9], [1, 2, 3, 4, 5]]) == [1, 2, 3]
    assert common_beginning([[1, 2, 3], [1, 2, 3]]) == [1, 2]
    assert common_beginning([[1], [1, 2]]) == common_beginning([[5, 1], [4, 1]]) == []
