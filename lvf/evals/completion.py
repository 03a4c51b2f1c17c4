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


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a backend is asked for."""

    model: PreTrainedModel
    """Causal language model in eval mode."""
    tokenizer: PreTrainedTokenizerBase
    prompts: Mapping[str, str]
    """Name to text."""
    wanted: Sequence[Key]
    """Samples to make; those of one prompt stand together."""
    sampling: Sampling
    batch_rows: int
    """Samples that are written at once."""


class Completion(NamedTuple):
    """What a model writes behind a prompt."""

    text: str
    """Up to the first stop string."""
    ended_by_eos: bool
    """Whether the model ended it, instead of a stop string or the limit."""


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
    prompt: list[int],
    new: list[int],
    stops: Sequence[str],
    ends: Collection[int],
) -> tuple[str, bool]:
    """Text of the new tokens up to a stop string or one of `ends`, and whether a string stops it.

    It is decoded behind the prompt: some tokenizers drop the blank of a text's first word.
    """
    new = new[: next((place for place, token in enumerate(new) if token in ends), len(new))]
    text = _decode(tokenizer, prompt + new)[len(_decode(tokenizer, prompt)) :]
    up_to_stop = cut(text, stops)
    return up_to_stop, len(up_to_stop) < len(text)


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
