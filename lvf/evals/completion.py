"""What every sampling backend shares: its settings, and where a completion ends."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Key = tuple[str, int]
"""Name of a prompt, and number of the sample."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are drawn, and where they end."""

    temperature: float
    """0 decodes greedily."""
    top_p: float
    max_length_tokens: int
    """Limit of a prompt and its completion together."""
    stop_strings: Sequence[str]
    max_new_tokens: int | None = None
    """Limit of a completion alone; None for no further limit."""
    decode_behind_prompt: bool = True
    """Whether a completion's text is read behind its prompt: some tokenizers drop the blank of a
    text's first word. lm-eval reads it alone."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a backend is asked for."""

    model: PreTrainedModel
    """Causal language model in eval mode."""
    tokenizer: PreTrainedTokenizerBase
    prompts: Mapping[str, list[int]]
    """Name to token ids."""
    wanted: Sequence[Key]
    """Samples to make; those of one prompt stand together."""
    sampling: Sampling
    batch_rows: int
    """Samples that are written at once."""

    def room(self, name: str) -> int:
        """Tokens that a completion of this prompt may have; none or less if it does not fit."""
        room = self.sampling.max_length_tokens - len(self.prompts[name])
        limit = self.sampling.max_new_tokens
        return room if limit is None else min(room, limit)

    def context(self, name: str) -> list[int]:
        """Tokens behind which the text of a completion is read."""
        return self.prompts[name] if self.sampling.decode_behind_prompt else []


class Completion(NamedTuple):
    """What a model writes behind a prompt."""

    text: str
    """Up to the first stop string."""
    ended_by_eos: bool
    """Whether the model ended it, instead of a stop string or the limit."""
    tokens: list[int]
    """What the model wrote, with the token that ends it and those of a stop string."""


Backend = Callable[[Request], Iterator[tuple[Key, Completion]]]
"""Yields each wanted sample, in any order."""


def seed_of(key: Key) -> int:
    """What seeds a sample, whatever is sampled beside it."""
    return int.from_bytes(hashlib.sha256(f"{key[0]} {key[1]}".encode()).digest(), "big")


def cut(text: str, stop_strings: Sequence[str]) -> str:
    """Text up to the first of the stop strings."""
    found = [text.find(stop) for stop in stop_strings]
    return text[: min((index for index in found if index >= 0), default=len(text))]


def completion_text(
    tokenizer: PreTrainedTokenizerBase,
    context: list[int],
    new: list[int],
    stops: Sequence[str],
    ends: Collection[int],
) -> tuple[str, bool]:
    """Text of the new tokens up to a stop string or one of `ends`, and whether a string stops it.

    `context` are the tokens before the new ones, of which some tokenizers need one not to drop the
    blank of a text's first word.
    """
    new = new[: next((place for place, token in enumerate(new) if token in ends), len(new))]
    text = _decode(tokenizer, context + new)[len(_decode(tokenizer, context)) :]
    up_to_stop = cut(text, stops)
    return up_to_stop, len(up_to_stop) < len(text)


def stop_ids(tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> set[int]:
    """Ids of special tokens that hold a stop string; a completion's text leaves them out."""
    return {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and any(stop in token.content for stop in stops)
    }


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text)  # which transformers declares as possibly a list


class StopWatch:
    """Follows a row's text token by token, to say cheaply when a stop string may be in it.

    Pieces that are decoded singly can lack a leading blank: what it suspects has to be checked. A
    stop string that it missed would cost time, not change a completion.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_strings: Sequence[str]) -> None:
        self.pieces = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        self.stop_strings = stop_strings
        self.longest = max((len(stop) for stop in stop_strings), default=1)

    def follow(self, tail: str, token: int) -> tuple[str, bool]:
        """New tail of a row behind its next token, and whether it holds a stop string."""
        text = tail + (self.pieces[token] if token < len(self.pieces) else "")
        return text[-self.longest :], any(stop in text for stop in self.stop_strings)
