"""Samples are those of transformers' own loop, and do not depend on what is sampled beside them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, TopPLogitsWarper

from lvf.data.prompts import prompt_ids
from lvf.evals.completion import Key, Request, Sampling, cut
from lvf.evals.generate import SHARED_FROM, choose, generate, nucleus
from lvf.evals.humaneval import STOP_STRINGS
from lvf.evals.plain_rows import slots_are_right
from tests.models.architectures import tiny_model

PROMPTS = {
    "first": "def add_3(x):",
    "second": 'def f(x):\n    """Return x plus 3."""',
    "third": "class A:\n    pass\n\nx",
    "fourth": "the red cup and the blue lamp and the old chair costs 3",
}
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_length_tokens=60, stop_strings=["\n\n\n"])
SAMPLED = replace(GREEDY, temperature=0.9, top_p=0.95, stop_strings=STOP_STRINGS)


def sampled(
    model: Any,
    tokenizer: Any,
    prompts: dict[str, str],
    keys: list[Key],
    sampling: Sampling,
    batch_rows: int,
) -> Iterator[tuple[Key, str]]:
    ids = {name: prompt_ids(tokenizer, prompt) for name, prompt in prompts.items()}
    request = Request(
        model=model, tokenizer=tokenizer, prompts=ids, wanted=keys, sampling=sampling,
        batch_rows=batch_rows,
    )  # fmt: skip
    return ((key, completion.text) for key, completion in generate(request))


def wanted(samples: int) -> list[Key]:
    return [(name, sample) for name in PROMPTS for sample in range(samples)]


@pytest.fixture(scope="module", params=["all heads", "grouped heads"])
def llama(request: pytest.FixtureRequest, model: Any, tokenizer: Any) -> Any:
    """The random model, and one whose queries share keys and values."""
    if request.param == "all heads":
        return model
    torch.manual_seed(1)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(shape).eval()


@pytest.mark.parametrize("samples", [1, SHARED_FROM])
def test_greedy_tokens_are_those_of_transformers_generate(
    llama: Any, tokenizer: Any, samples: int
) -> None:
    ours = dict(sampled(llama, tokenizer, PROMPTS, wanted(samples), GREEDY, 3))
    assert set(ours) == set(wanted(samples))
    for name, prompt in PROMPTS.items():
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        settings = GenerationConfig(
            max_length=GREEDY.max_length_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        attended = torch.ones_like(ids)
        theirs = llama.generate(ids, attention_mask=attended, generation_config=settings)[0]
        text = tokenizer.decode(theirs, skip_special_tokens=True)[len(prompt) :]
        for sample in range(samples):
            assert ours[name, sample] == cut(text, GREEDY.stop_strings)
            assert len(text) > 0


@pytest.mark.parametrize(
    ("model_type", "in_slots"),
    [
        ("mistral", True),
        ("qwen2", True),
        ("gemma2", True),
        ("gpt_neox", True),
        ("gpt_oss", True),
        ("bloom", False),
    ],
)
def test_greedy_tokens_of_other_architectures_are_those_of_whole_texts(
    model_type: str, in_slots: bool, tokenizer: Any
) -> None:
    """The model reads the whole text without a cache for each token, one sample at a time."""
    model = tiny_model(model_type).eval()
    assert slots_are_right(model) == in_slots
    settings = replace(GREEDY, stop_strings=[], max_length_tokens=44)
    keys = [("first", 0), *(("fourth", sample) for sample in range(SHARED_FROM))]
    ours = dict(sampled(model, tokenizer, PROMPTS, keys, settings, 3))
    for name, num_samples in (("first", 1), ("fourth", SHARED_FROM)):
        prompt = PROMPTS[name]
        ids = start = tokenizer(prompt, return_tensors="pt")["input_ids"]
        while ids.shape[1] < settings.max_length_tokens and ids[0, -1] != tokenizer.eos_token_id:
            logits = model(input_ids=ids, use_cache=False).logits[:, -1:]
            ids = torch.cat([ids, logits.argmax(-1)], 1)
        text = tokenizer.decode(ids[0], skip_special_tokens=True)
        before = tokenizer.decode(start[0], skip_special_tokens=True)
        for sample in range(num_samples):
            assert before + ours[name, sample] == text


@pytest.mark.parametrize("samples", [2, 8])
def test_batch_size_does_not_change_a_sample(llama: Any, tokenizer: Any, samples: int) -> None:
    small, large = (
        dict(sampled(llama, tokenizer, PROMPTS, wanted(samples), SAMPLED, batch_rows))
        for batch_rows in (4, 64)
    )
    assert small == large
    assert len(set(small.values())) > samples  # they do differ from one another


def test_a_sample_is_the_same_without_the_others_and_whatever_was_drawn_before(
    model: Any, tokenizer: Any
) -> None:
    everything = dict(sampled(model, tokenizer, PROMPTS, wanted(8), SAMPLED, 5))
    torch.manual_seed(5)
    some = [("first", 6), ("third", 1), ("third", 2)]
    alone = dict(sampled(model, tokenizer, PROMPTS, some, SAMPLED, 2))
    assert alone == {key: everything[key] for key in some}


def test_the_model_attends_afterwards_as_before(model: Any, tokenizer: Any) -> None:
    before = model.config._attn_implementation
    list(sampled(model, tokenizer, PROMPTS, wanted(1), GREEDY, 4))
    assert model.config._attn_implementation == before


def test_a_prompt_beyond_the_limit_gets_an_empty_completion(model: Any, tokenizer: Any) -> None:
    prompts = {"short": "x", "long": "the red cup " * 30}
    limited = replace(GREEDY, max_length_tokens=12)
    both = dict(sampled(model, tokenizer, prompts, [("long", 0), ("short", 0)], limited, 2))
    assert both["long", 0] == ""
    assert both["short", 0]
    (alone,) = sampled(model, tokenizer, prompts, [("short", 0)], limited, 2)
    assert alone == (("short", 0), both["short", 0])


def test_completions_end_before_the_first_stop_string(model: Any, tokenizer: Any) -> None:
    assert cut("    return 1\n\ndef g():\n    pass\nclass A", STOP_STRINGS) == "    return 1\n"
    assert cut("    return 1", STOP_STRINGS) == "    return 1"
    free = dict(sampled(model, tokenizer, PROMPTS, wanted(1), GREEDY, 4))
    stop = free["first", 0][9:12]
    stopped = dict(
        sampled(model, tokenizer, PROMPTS, wanted(1), replace(GREEDY, stop_strings=[stop]), 4)
    )
    assert stopped == {key: text.split(stop)[0] for key, text in free.items()}


def test_a_sample_says_whether_the_model_ended_it(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GenerationConfig(max_length=24, do_sample=False, pad_token_id=0)
    new = {}
    for name, prompt in PROMPTS.items():
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        new[name] = whole[0, ids.shape[1] :].tolist()
    end = new["first"][3]
    monkeypatch.setattr(model, "generation_config", GenerationConfig(eos_token_id=end))
    limited = replace(GREEDY, max_length_tokens=24, stop_strings=[])
    ids = {name: prompt_ids(tokenizer, prompt) for name, prompt in PROMPTS.items()}
    request = Request(
        model=model, tokenizer=tokenizer, prompts=ids, wanted=wanted(1), sampling=limited,
        batch_rows=4,
    )  # fmt: skip
    ended = {name: one.ended_by_eos for (name, _), one in generate(request)}
    ends = {end, tokenizer.eos_token_id}
    assert ended == {name: bool(ends & set(tokens)) for name, tokens in new.items()}
    assert ended["first"] and not all(ended.values())


def test_tokens_are_drawn_as_often_as_their_probabilities_say() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 30)
    num_draws = 20_000
    uniforms = (torch.arange(num_draws, dtype=torch.float64) + 0.5) / num_draws
    tokens = choose(logits.expand(num_draws, -1), uniforms, replace(SAMPLED, top_p=1.0))
    share = torch.bincount(tokens, minlength=30) / num_draws
    truth = (logits[0] / SAMPLED.temperature).softmax(0)
    assert torch.allclose(share, truth, atol=1.1 / num_draws)


@pytest.mark.parametrize("spread", [0.1, 3.0])  # of which the nucleus needs many tokens, and few
def test_the_nucleus_is_that_of_transformers(spread: float) -> None:
    torch.manual_seed(0)
    logits = spread * torch.randn(20, 500)
    theirs = TopPLogitsWarper(0.9)(torch.empty(0), logits).isfinite()
    assert torch.equal(nucleus(logits.softmax(-1), 0.9) > 0, theirs)
