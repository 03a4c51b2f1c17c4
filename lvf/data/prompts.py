"""Turns rows into text and text into tokens, with the boundary between prompt and response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lvf.config import DataConfig
from lvf.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pair = tuple[str, str]
"""Prompt and response of an example, after templating."""

TEMPLATES: dict[str, tuple[str, str]] = {
    "plain": ("{prompt}", "{response}"),
    # The words of lm-eval's gsm8k task, so that a model is asked as it was taught.
    "question_answer": ("Question: {prompt}\nAnswer:", " {response}"),
    # Stanford Alpaca's prompt without input, as MetaMath and others use it: the response follows
    # the colon directly.
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n{prompt}\n\n### Response:",
        "{response}",
    ),
}
"""Name to (prompt template, response template); generation is given the first, filled in."""


def text_columns(data: DataConfig) -> list[str]:
    """Columns that a row of this data set must have."""
    columns = [data.text_column, data.prompt_column, data.response_column]
    return [column for column in columns if column]


def example_text(row: Mapping[str, str], data: DataConfig) -> Pair:
    """Prompt and response of a row after templating; the prompt of running text is empty.

    Raises:
        UserError: the template is unknown.
    """
    if data.text_column:
        return "", row[data.text_column]
    if data.template not in TEMPLATES:
        raise UserError(f"data.template={data.template!r} is not one of {', '.join(TEMPLATES)}")
    assert data.prompt_column and data.response_column  # config.validate saw to it
    prompt, response = TEMPLATES[data.template]
    return (
        prompt.format(prompt=row[data.prompt_column]),
        response.format(response=row[data.response_column]),
    )


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], eos: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Encode (prompt, response) pairs into token ids and loss masks, int64 and bool [num_tokens].

    Prompt and response are tokenised as one text, since a model that continues its prompt sees
    no seam; a token is in the loss if it ends beyond the prompt. The end-of-text token `eos` is
    appended and in the loss; what the tokenizer itself puts in front (BOS) is not.
    """
    texts = [prompt + response for prompt, response in pairs]
    encoded = tokenizer(
        texts, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    examples = []
    for (prompt, _), ids, offsets in zip(
        pairs, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        if ids[-1:] == [eos]:  # some tokenizers end every text themselves
            ids, offsets = ids[:-1], offsets[:-1]
        in_response = [end > len(prompt) for _, end in offsets]
        examples.append((np.array([*ids, eos]), np.array([*in_response, True])))
    return examples


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], eos: int
) -> list[np.ndarray]:
    """Encode running text into token ids int64 [num_tokens], ended by `eos`."""
    encoded = tokenizer(list(texts), return_attention_mask=False, verbose=False)
    return [np.array(ids if ids[-1:] == [eos] else [*ids, eos]) for ids in encoded["input_ids"]]
