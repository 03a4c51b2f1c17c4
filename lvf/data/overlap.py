"""Finds training text that stands in an evaluation set, by the word n-grams that both share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

Items = Mapping[str, Sequence[Sequence[str]]]
"""Task to its items, each with its texts (question, answer, ...)."""

NGRAM_WORDS = 13
"""As for GPT-3 (Brown et al. 2020, App. C); Llama 2 took 10 tokens."""
FEWEST_WORDS = 8
"""A shorter evaluation text counts whole, but not if it is below this (GPT-3's least)."""
WORD = re.compile(r"\w+")
FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Hit(NamedTuple):
    """An evaluation item that shares words with a document."""

    task: str
    item: int
    """Its place in the evaluation set, from 0."""
    words: str
    """The words that both have, without case and punctuation."""


class OverlapIndex:
    """The n-grams of all evaluation texts, as 64-bit hashes: about 60 bytes each.

    Hashes differ from one start of Python to the next, so that only forked processes can share it.
    """

    def __init__(self, items: Items) -> None:
        """Index the items; two passes over their words."""
        self.names = [(task, item) for task, all_of in items.items() for item in range(len(all_of))]
        texts = [
            (number, words)
            for number, texts in enumerate(chain.from_iterable(items.values()))
            for words in map(_words, texts)
            if len(words) >= FEWEST_WORDS
        ]
        lengths = np.array([len(words) for _, words in texts], np.int64)
        self.tables = dict(self._tables(texts, lengths)) if texts else {}

    def _tables(
        self, texts: list[tuple[int, list[str]]], lengths: np.ndarray
    ) -> Iterator[tuple[int, _Table]]:
        """The table of each n-gram length."""
        flat = [word for _, words in texts for word in words]
        item_of = np.repeat(np.array([number for number, _ in texts], np.int32), lengths)
        left = np.concatenate([np.arange(length, 0, -1) for length in lengths])
        whole = np.repeat(lengths, lengths)
        for num_words, hashes in _hashes(flat):
            here = left[: len(hashes)]
            if num_words == NGRAM_WORDS:
                chosen = here >= num_words
            else:  # the whole of a shorter text
                chosen = (here == num_words) & (whole[: len(hashes)] == num_words)
            if chosen.any():
                yield num_words, _Table(hashes[chosen], item_of[: len(hashes)][chosen])

    def find(self, texts: Sequence[str]) -> list[list[Hit]]:
        """The items that share an n-gram with each text, each once, with the first shared words."""
        words = [_words(text) for text in texts]
        text_of = np.repeat(np.arange(len(texts)), [len(some) for some in words])
        flat = [word for some in words for word in some]
        hits: list[dict[int, Hit]] = [{} for _ in texts]
        for num_words, hashes in _hashes(flat):
            table = self.tables.get(num_words)
            for place, item in table.find(hashes) if table else ():
                end = place + num_words
                if text_of[place] == text_of[end - 1]:
                    hit = Hit(*self.names[item], " ".join(flat[place:end]))
                    hits[text_of[place]].setdefault(item, hit)
        return [[found[item] for item in sorted(found)] for found in hits]


class _Table:
    """Sorted hashes of n-grams with their items, behind a sieve that lets few others through."""

    def __init__(self, hashes: np.ndarray, items: np.ndarray) -> None:
        order = np.lexsort((items, hashes))
        hashes, items = hashes[order], items[order]
        new = np.ones(len(hashes), bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (items[1:] != items[:-1])
        self.hashes, self.items = hashes[new], items[new]
        # 1 place in 32 to 64 taken: enough to let few others through to the slow search.
        self.shift = np.uint64(64 - (32 * len(self.hashes)).bit_length())
        self.sieve = np.zeros(1 << (64 - int(self.shift)), bool)
        self.sieve[self.hashes >> self.shift] = True

    def find(self, hashes: np.ndarray) -> Iterator[tuple[int, int]]:
        """Place and item of each match."""
        places = np.flatnonzero(self.sieve[hashes >> self.shift])
        at = np.searchsorted(self.hashes, hashes[places])
        at[at == len(self.hashes)] = 0
        found = self.hashes[at] == hashes[places]
        for place, start in zip(places[found], at[found], strict=True):
            end = np.searchsorted(self.hashes, hashes[place], side="right")
            for item in self.items[start:end]:
                yield int(place), int(item)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _hashes(words: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
    """Hash of the n-gram at each place, uint64 [num_words - n + 1], for each length n in use."""
    one = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    hashes = np.zeros(len(words), np.uint64)
    for num_words in range(1, min(NGRAM_WORDS, len(words)) + 1):
        hashes = hashes[: len(words) - num_words + 1] * FACTOR + one[num_words - 1 :]
        if num_words >= FEWEST_WORDS:
            yield num_words, hashes
