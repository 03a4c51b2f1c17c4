"""Sampling on transformers: a batch that stays full, each prompt read once for all its samples."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lvf.evals.completion import (
    Completion,
    Key,
    Request,
    Sampling,
    StopWatch,
    completion_text,
    seed_of,
    stop_ids,
)
from lvf.evals.plain_rows import PlainRows, slots_are_right
from lvf.evals.slots import SlotCache
from lvf.models.special_tokens import end_ids

PROMPTS_AT_ONCE = 8
"""Prompts that are read in one pass."""
SHARED_FROM = 4
"""Samples of a prompt from which they share its keys and values: each prompt costs some steps."""
BEGINNING_FROM = 32
"""Tokens that all prompts begin with, from which these are read once for all."""


@dataclass
class Row:
    """A sample that is being written."""

    key: Key
    context: list[int]
    """Tokens behind which its text is decoded."""
    uniforms: np.ndarray
    """[room]: the random numbers of this sample, one a token."""
    tail: str = ""
    new: list[int] = field(default_factory=list)


def generate(request: Request) -> Iterator[tuple[Key, Completion]]:
    """Yield each wanted sample as it is finished, cut before its first stop string.

    A sample's random numbers follow from its key alone, so neither the batch size, the order nor an
    interruption changes it, as far as rounding lets two batches agree.
    """
    if request.wanted:
        yield from _Batch(request).run()


class _Batch:
    """The rows in work, and those that wait."""

    def __init__(self, request: Request) -> None:
        model, tokenizer, sampling = request.model, request.tokenizer, request.sampling
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.request = request
        self.num_samples = Counter(name for name, _ in request.wanted)
        self.ends = end_ids(model, tokenizer)
        self.stops = stop_ids(tokenizer, sampling.stop_strings)
        self.waiting = deque(request.wanted)
        self.unread = deque(name for name in self.num_samples if request.room(name) > 0)
        self.read: dict[str, Any] = {}
        self.watch = StopWatch(tokenizer, sampling.stop_strings)
        num_rows = min(request.batch_rows, len(request.wanted))
        self.rows: list[Row | None] = [None] * num_rows
        kind: Any = SlotCache if slots_are_right(model) else PlainRows
        prompts = {name: request.prompts[name] for name in self.unread}
        capacity = max((len(ids) + request.room(name) for name, ids in prompts.items()), default=0)
        beginning = common_beginning(list(prompts.values()))
        if len(beginning) < BEGINNING_FROM or max(self.num_samples.values()) >= SHARED_FROM:
            beginning = []
        self.cache = kind(model, num_rows, capacity, beginning)
        self.logits = torch.zeros(
            num_rows, model.config.vocab_size, dtype=model.dtype, device=model.device
        )

    def run(self) -> Iterator[tuple[Key, Completion]]:
        """Until nothing waits and nothing is in work."""
        while True:
            yield from self._refill()
            if not any(self.rows):
                return
            tokens = self._choose()
            yield from self._append(tokens.tolist())
            if not self.waiting:
                tokens = tokens[self._shrink()]
            self.logits = self.cache.step(tokens)

    def _refill(self) -> Iterator[tuple[Key, Completion]]:
        """Put waiting samples into free rows, behind a copy of their prompts' keys and values."""
        free = deque(index for index, row in enumerate(self.rows) if row is None)
        placed: dict[str, list[int]] = {}
        while self.waiting and free:
            key = self.waiting.popleft()
            name, room = key[0], self.request.room(key[0])
            if room <= 0:
                yield key, Completion("", ended_by_eos=False, tokens=[])
                continue
            index = free.popleft()
            uniforms = np.random.default_rng(seed_of(key)).random(room)
            self.rows[index] = Row(key, self.request.context(name), uniforms)
            placed.setdefault(name, []).append(index)
        for name, indices in placed.items():
            prompt = self._prompt(name)
            self.cache.place(prompt, indices)
            self.logits[indices] = prompt.logits
            if not (self.waiting and self.waiting[0][0] == name):
                del self.read[name]

    def _prompt(self, name: str) -> Any:
        if name not in self.read:
            names = [self.unread.popleft() for _ in range(min(PROMPTS_AT_ONCE, len(self.unread)))]
            shared = [self.num_samples[one] >= SHARED_FROM for one in names]
            prompts = self.cache.read([self.request.prompts[one] for one in names], shared)
            self.read.update(zip(names, prompts, strict=True))
        return self.read[name]

    def _choose(self) -> torch.Tensor:
        """Next token of each row, [num_rows]; of rows without a sample, any."""
        if self.sampling.temperature == 0:
            return self.logits.argmax(-1)
        uniforms = [0.0 if row is None else row.uniforms[len(row.new)] for row in self.rows]
        return choose(self.logits, torch.tensor(uniforms, dtype=torch.float64), self.sampling)

    def _append(self, tokens: list[int]) -> Iterator[tuple[Key, Completion]]:
        """Add a token to each row; yield and free those that are finished."""
        for index, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if row is None:
                continue
            row.new.append(token)
            ended = token in self.ends or token in self.stops or len(row.new) == len(row.uniforms)
            row.tail, suspected = self.watch.follow(row.tail, token)
            if ended or suspected:
                text, stopped = completion_text(
                    self.tokenizer, row.context, row.new, self.sampling.stop_strings, self.ends
                )
                if ended or stopped:
                    self.rows[index] = None
                    yield row.key, Completion(text, token in self.ends and not stopped, row.new)

    def _shrink(self) -> list[int]:
        """Give up the free rows once they are half of all; return the indices of those kept."""
        kept = [index for index, row in enumerate(self.rows) if row is not None]
        if not kept or 2 * len(kept) > len(self.rows):
            return list(range(len(self.rows)))
        self.rows = [self.rows[index] for index in kept]
        self.cache.keep(kept)
        return kept


def common_beginning(prompts: Sequence[list[int]]) -> list[int]:
    """The tokens that all prompts begin with, up to the last but one of the shortest."""
    if not prompts:
        return []
    first, last = min(prompts), max(prompts)  # what these two share, all in between share
    shortest = min(map(len, prompts))
    pairs = enumerate(zip(first, last, strict=False))
    num_equal = next((place for place, (one, other) in pairs if one != other), shortest)
    return first[: min(num_equal, shortest - 1)]


def choose(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Sample a token of each row by inverting the cumulative distribution over the vocabulary.

    In the vocabulary's order, not in that of the probabilities: rounding that swaps two of these
    then changes nothing.

    Args:
        logits: [num_rows, vocab].
        uniforms: [num_rows], float64 in [0, 1).
        sampling: Takes `temperature`, above 0, and `top_p`.

    Returns:
        Token ids [num_rows].
    """
    probabilities = (logits.float() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        probabilities = nucleus(probabilities, sampling.top_p)
    cumulative = probabilities.double().cumsum(-1)
    drawn = uniforms.to(logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, drawn, right=True)[:, 0]


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Set to 0 what lies outside the smallest set of tokens of at least `top_p` in all.

    Both are [num_rows, vocab]. transformers' TopPLogitsWarper sorts the vocabulary for this, which
    takes longer than a small model; here only where a few tokens do not reach `top_p`.
    """
    vocab = probabilities.shape[1]
    for num_top in (min(64, vocab), vocab):
        top = probabilities.topk(num_top).values
        before = top.cumsum(-1) - top
        if num_top == vocab or bool((before[:, -1] >= top_p).all()):
            break
    smallest = top.masked_fill(before >= top_p, 1.0).amin(-1, keepdim=True)
    return probabilities.masked_fill(probabilities < smallest, 0.0)
