"""Turns rows into text and text into tokens, with the boundary between prompt and response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lvf.config.data_schema import DataConfig
from lvf.errors import UserError

if TYPE_CHECKING:
    import numpy as np
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


CHAT = "chat"
"""The name of the tokenizer's own chat template."""


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
    assert data.prompt_column and data.response_column  # config.validate saw to it
    prompt, response = template_of(data)
    return (
        prompt.replace("{prompt}", row[data.prompt_column]),
        response.replace("{response}", row[data.response_column]),
    )


def template_of(data: DataConfig) -> tuple[str, str]:
    """Templates of prompt and response: those of a name, or the parts of a text that holds both.

    Raises:
        UserError: it is neither; or it is `chat`, which `with_chat_template` replaces.
    """
    text = data.template
    if text in TEMPLATES:
        return TEMPLATES[text]
    before, response, after = text.partition("{response}")
    if not response or before.count("{prompt}") != 1 or "{prompt}" in after:
        raise UserError(
            f"data.template={text!r} is not one of {', '.join([*TEMPLATES, CHAT])}, nor a text "
            'with {prompt} and behind it {response}, such as "Q: {prompt}\\nA: {response}"'
        )
    # The response begins behind the last character that is no blank, as in `question_answer`: a
    # tokenizer may join blanks to the word behind them.
    end = len(before.rstrip(" "))
    return before[:end], before[end:] + response + after


def with_chat_template(data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> DataConfig:
    """The same data; for `data.template=chat` with the text that the tokenizer's template gives.

    Raises:
        UserError: the tokenizer has no chat template, or one that is no text around the messages.
    """
    if data.template != CHAT or data.text_column:
        return data
    if not tokenizer.chat_template:
        raise UserError(
            f"data.template={CHAT}: the tokenizer has no chat template; choose one of "
            f"{', '.join(TEMPLATES)}, or write one with {{prompt}} and {{response}}"
        )
    pair = [("user", "{prompt}"), ("assistant", "{response}")]
    messages = [{"role": role, "content": content} for role, content in pair]
    answered = str(tokenizer.apply_chat_template(messages, tokenize=False))
    eos = str(tokenizer.eos_token)
    if answered.rstrip().endswith(eos):  # which the end of each document brings
        answered = answered.rstrip().removesuffix(eos)
    if not 0 <= answered.find("{prompt}") < answered.find("{response}"):
        raise UserError(f"data.template={CHAT}: the tokenizer's chat template gives {answered!r}")
    return replace(data, template=answered)


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], eos: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Encode (prompt, response) pairs into token ids and loss masks, int64 and bool [num_tokens].

    Prompt and response are tokenised as one text, since a model that continues its prompt sees
    no seam; a token is in the loss if it ends beyond the prompt. The end-of-text token `eos` is
    appended and in the loss; what the tokenizer itself puts in front (BOS) is not. A text that
    begins with BOS gets no second one.
    """
    import numpy as np

    texts = [prompt + response for prompt, response in pairs]
    examples = []
    for (prompt, _), text, encoding in zip(
        pairs, texts, _backend(tokenizer).encode_batch(texts), strict=True
    ):
        ids = _ended(encoding.ids, eos)
        covered = (encoding.char_to_token(at) for at in range(len(prompt), len(text)))
        first = next((token for token in covered if token is not None), len(ids) - 1)
        start = _num_extra_bos(ids, tokenizer)
        examples.append((ids[start:], np.arange(start, len(ids)) >= first))
    return examples


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], eos: int
) -> list[np.ndarray]:
    """Encode running text into token ids int64 [num_tokens], ended by `eos`; as above, one BOS."""
    encodings = _backend(tokenizer).encode_batch_fast(list(texts))
    documents = [_ended(encoding.ids, eos) for encoding in encodings]
    return [ids[_num_extra_bos(ids, tokenizer) :] for ids in documents]


def check_embedded(
    ids: np.ndarray, num_embeddings: int, tokenizer: PreTrainedTokenizerBase, place: str
) -> None:
    """Refuse a token for which the model has no embedding.

    Args:
        ids: Token ids, int64 [num_tokens].
        num_embeddings: Rows of the model's embedding.
        tokenizer: Names the token.
        place: Where the text stands, for the message.

    Raises:
        UserError: an id is not below `num_embeddings`.
    """
    beyond = ids[ids >= num_embeddings]
    if len(beyond):
        raise UserError(
            f"{place}: the tokenizer makes of {tokenizer.decode([beyond[0]])!r} the id "
            f"{beyond[0]}, but the model has embeddings for {num_embeddings} ids only. Take this "
            "token out of the text, choose another model.tokenizer, or give the model more "
            "embeddings (resize_token_embeddings) and save it"
        )


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Encode a prompt that is to be answered, as in training: with one BOS at most."""
    own = has_own_bos(tokenizer, prompt)
    return list(tokenizer(prompt, add_special_tokens=not own)["input_ids"])


def has_own_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a text begins with the BOS that the tokenizer puts in front of every text."""
    bos = tokenizer.bos_token
    if not isinstance(bos, str) or not text.startswith(bos):
        return False
    return bool(_backend(tokenizer).encode("").ids[:1] == [tokenizer.bos_token_id])


def _num_extra_bos(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many of the first tokens are BOS, but for the last of them."""
    bos, extra = tokenizer.bos_token_id, 0
    while ids[extra] == bos and extra + 1 < len(ids) and ids[extra + 1] == bos:
        extra += 1
    return extra


def _backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """What a fast tokenizer wraps: called directly it does without copies of each list."""
    backend = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    backend.no_truncation()  # an earlier call may have left these on
    backend.no_padding()
    return backend


def _ended(ids: list[int], eos: int) -> np.ndarray:
    import numpy as np

    # Some tokenizers end every text themselves.
    return np.array(ids if ids[-1:] == [eos] else [*ids, eos])
