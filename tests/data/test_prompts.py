"""Text, tokens and the boundary of the loss."""

from typing import Any

import numpy as np
import pytest

from lvf.config.data_schema import DataConfig
from lvf.data.prompts import (
    TEMPLATES,
    encode_examples,
    encode_texts,
    example_text,
    has_own_bos,
    with_chat_template,
)
from lvf.errors import UserError

from .conftest import pair


def encode_example(
    tokenizer: Any, prompt: str, response: str, eos: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    return encode_examples(tokenizer, [(prompt, response)], eos)[0]


PAIRS = DataConfig(name="d", prompt_column="query", response_column="response")
ROW = {"query": "What is {2} + 2?", "response": "It is {4}."}


@pytest.mark.parametrize(
    ("template", "prompt", "response"),
    [
        ("plain", "What is {2} + 2?", "It is {4}."),
        ("question_answer", "Question: What is {2} + 2?\nAnswer:", " It is {4}."),
        (
            "alpaca",
            "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n\n### Instruction:\nWhat is {2} + 2?\n\n### Response:",
            "It is {4}.",
        ),
    ],
)
def test_templates_fill_in_text_as_it_is(template: str, prompt: str, response: str) -> None:
    PAIRS.template = template
    assert example_text(ROW, PAIRS) == (prompt, response)


def test_running_text_has_no_prompt() -> None:
    assert example_text({"text": "abc"}, DataConfig(name="d", text_column="text")) == ("", "abc")


def test_an_unknown_template_is_refused_with_those_there_are() -> None:
    data = DataConfig(name="d", prompt_column="query", response_column="response", template="chat")
    with pytest.raises(UserError, match="'chat' is not one of plain, question_answer, alpaca"):
        example_text(ROW, data)


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_the_loss_covers_exactly_the_response_and_eos(tokenizer: Any, template: str) -> None:
    data = DataConfig(
        name="d", prompt_column="query", response_column="response", template=template
    )
    for seed in range(40):
        prompt, response = example_text(pair(seed), data)
        response = "\n" + response if template == "plain" else response  # a seam between tokens
        ids, in_loss = encode_example(tokenizer, prompt, response, tokenizer.eos_token_id)
        assert tokenizer.decode(ids) == "<s>" + prompt + response + "</s>"
        assert tokenizer.decode(ids[in_loss]) == response + "</s>"


def test_a_token_across_the_seam_is_in_the_loss(tokenizer: Any) -> None:
    assert tokenizer.tokenize("apples") == ["apples"]
    ids, in_loss = encode_example(tokenizer, "app", "les", 1)
    assert tokenizer.decode(ids) == "<s>apples</s>"
    assert in_loss.tolist() == [False, True, True]


def test_tokens_are_those_of_the_joined_text_which_generation_sees(tokenizer: Any) -> None:
    for seed in range(20):
        row = pair(seed)
        ids, _ = encode_example(tokenizer, row["query"], row["response"], 1)
        assert ids.tolist() == [*tokenizer.encode(row["query"] + row["response"]), 1]


def test_encoding_many_is_encoding_each(tokenizer: Any) -> None:
    pairs = [(pair(seed)["query"], "ä€😀" + pair(seed)["response"]) for seed in range(20)]
    for (ids, in_loss), (prompt, response) in zip(
        encode_examples(tokenizer, pairs, 1), pairs, strict=True
    ):
        one_ids, one_in_loss = encode_example(tokenizer, prompt, response, 1)
        assert ids.tolist() == one_ids.tolist() and in_loss.tolist() == one_in_loss.tolist()


def test_running_text_is_encoded_with_one_eos_even_if_the_tokenizer_adds_it(tokenizer: Any) -> None:
    from tokenizers import processors
    from transformers import AutoTokenizer

    ender = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    ender.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    for one in (tokenizer, ender):
        (ids,) = encode_texts(one, ["7 dogs"], 1)
        assert one.decode(ids) == "<s>7 dogs</s>"
        pair_ids, in_loss = encode_example(one, "7", " dogs", 1)
        assert pair_ids.tolist() == ids.tolist() and bool(in_loss[-1])


def test_a_text_that_begins_with_bos_gets_no_second_one(tokenizer: Any) -> None:
    (plain,) = encode_texts(tokenizer, ["7 dogs"], 1)
    for text in ("<s>7 dogs", "<s><s>7 dogs"):
        (own,) = encode_texts(tokenizer, [text], 1)
        assert own.tolist() == plain.tolist()
    expected, expected_mask = encode_example(tokenizer, "7 dogs", " buy", 1)
    ids, mask = encode_example(tokenizer, "<s>7 dogs", " buy", 1)
    assert ids.tolist() == expected.tolist() and mask.tolist() == expected_mask.tolist()
    assert has_own_bos(tokenizer, "<s>7 dogs") and not has_own_bos(tokenizer, "7 <s> dogs")


@pytest.mark.parametrize(
    ("template", "prompt", "response"),
    [
        ("{prompt}{response}", "a {response}", "b {prompt}"),
        ("Q: {prompt}\nA: {response}\n", "Q: a {response}\nA:", " b {prompt}\n"),
        ("{x} {{prompt}} ->\n{response}", "{x} {a {response}} ->\n", "b {prompt}"),
    ],
)
def test_a_template_may_be_written_as_a_text(template: str, prompt: str, response: str) -> None:
    data = DataConfig(name="d", prompt_column="q", response_column="r", template=template)
    row = {"q": "a {response}", "r": "b {prompt}"}
    assert example_text(row, data) == (prompt, response)


@pytest.mark.parametrize("template", ["other", "{prompt}", "{response}{prompt}", "{response}"])
def test_a_text_without_prompt_and_response_is_refused(template: str) -> None:
    data = DataConfig(name="d", prompt_column="q", response_column="r", template=template)
    with pytest.raises(UserError, match="alpaca, chat, nor a text with {prompt}"):
        example_text({"q": "a", "r": "b"}, data)


CHAT_TEMPLATES = {
    "chatml": "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "llama": "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] }} "
    "[/INST]{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_the_chat_template_is_that_of_the_tokenizer(name: str, tokenizer: Any) -> None:
    data = DataConfig(name="d", prompt_column="q", response_column="r", template="chat")
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template"):
        with_chat_template(data, tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATES[name]
    try:
        row = {"q": "What is 2?", "r": "It is 2."}
        prompt, response = example_text(row, with_chat_template(data, tokenizer))
        messages = [
            {"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["r"]},
        ]  # fmt: skip
        asked = tokenizer.apply_chat_template(
            messages[:1], tokenize=False, add_generation_prompt=True
        )
        answered = tokenizer.apply_chat_template(messages, tokenize=False)
    finally:
        tokenizer.chat_template = None
    assert prompt == asked
    assert prompt + response == answered.rstrip().removesuffix("</s>")
    ((ids, in_loss),) = encode_examples(tokenizer, [(prompt, response)], 1)
    assert ids[-1] == 1 and (ids == 1).sum() == answered.count("</s>")
    learnt = tokenizer.decode(ids[in_loss])
    assert learnt.strip().removesuffix("</s>").strip() == "It is 2."
