"""Keys and values of a batch whose rows differ in length, share prompts and are replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import Cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "lvf_slots"
"""Name of `attend` among transformers' implementations of attention."""
Rows = torch.Tensor | slice
"""Indices of rows; a slice for all of them, which needs no copy."""


@dataclass(frozen=True, eq=False)
class Part:
    """Keys and values of some tokens of a text."""

    keys: list[torch.Tensor]
    """Of each layer, [num_kv_heads, num_tokens, head_dim]."""
    values: list[torch.Tensor]

    @property
    def num_tokens(self) -> int:
        """Length of the part."""
        return self.keys[0].shape[1]


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt that the model has read."""

    shared: Part | None
    """Its first tokens, of which all rows that share them see one copy."""
    own: Part | None
    """The tokens behind them, of which each row has a copy."""
    logits: torch.Tensor
    """Of the token behind the prompt, [vocab]."""


class SlotCache(Cache):
    """Fixed rows; each holds the keys and values of one sample, from its first column on.

    A row's next token goes to the column behind its last, whatever column the other rows are at: so
    a new sample can take the place of a finished one at any step. What rows share stays outside of
    them: memory and its traffic, which bound decoding, do not grow with the samples of a prompt,
    nor with the prompts that begin alike.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        num_rows: int,
        capacity_tokens: int,
        beginning: Sequence[int] = (),
    ) -> None:
        """Make room for texts of up to `capacity_tokens`, and read what all of them begin with."""
        super().__init__(layers=[])
        self.model, self.capacity_tokens = model, capacity_tokens - len(beginning)
        self.lengths = [0] * num_rows
        self.shared: list[Part | None] = [None] * num_rows
        self.keys: list[torch.Tensor] = []  # [num_rows, num_kv_heads, capacity_tokens, head_dim]
        self.values: list[torch.Tensor] = []
        self.groups: list[tuple[Part, Rows]] | None = None  # what rows share; None once they change
        self.longest_shared = 0
        self._before = torch.empty(0)  # shared tokens of each row
        self._columns = (torch.empty(0), torch.empty(0))  # of a step: each row, and its column
        self._width = 0
        self._masks: dict[int | None, torch.Tensor] = {}
        self.beginning: Part | None = None
        if beginning:
            self.beginning = self.read([list(beginning)], [True])[0].shared

    @torch.no_grad()
    def read(self, prompts: Sequence[list[int]], shared: Sequence[bool]) -> list[Prompt]:
        """Read some prompts in one pass; `shared` says of each whether its samples share it.

        What all texts begin with is not read again. Padding is behind the prompts, where no token
        of theirs sees it, so that columns are positions, by which windows are counted.
        """
        start = 0 if self.beginning is None else self.beginning.num_tokens
        device, rests = self.model.device, [ids[start:] for ids in prompts]
        ends = [len(ids) for ids in rests]
        padded = [ids + [0] * (max(ends) - len(ids)) for ids in rests]
        columns = torch.arange(start, start + max(ends), device=device)
        places = sorted({end - 1 for end in ends})
        cache = DynamicCache()
        if self.beginning is not None:
            every = (len(prompts), -1, -1, -1)
            pairs = zip(self.beginning.keys, self.beginning.values, strict=True)
            for layer, (keys, values) in enumerate(pairs):
                cache.update(keys.expand(every), values.expand(every), layer)
        logits = self.model(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.ones(len(prompts), start + max(ends), device=device).long(),
            position_ids=columns.expand(len(prompts), -1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.tensor(places, device=device),
        ).logits
        layers: Any = cache.layers
        read = []
        for row, (end, is_shared) in enumerate(zip(ends, shared, strict=True)):
            first = 0 if is_shared else start
            part = Part(
                keys=[layer.keys[row, :, first : start + end] for layer in layers],
                values=[layer.values[row, :, first : start + end] for layer in layers],
            )
            following = logits[row, places.index(end - 1)]
            if is_shared:
                read.append(Prompt(part, None, following))
            else:
                read.append(Prompt(self.beginning, part, following))
        return read

    def place(self, prompt: Prompt, rows: list[int]) -> None:
        """Begin these rows with a prompt."""
        if not self.keys:
            like = prompt.own or prompt.shared
            assert like is not None  # a prompt has tokens
            self.keys = [self._allocate(part) for part in like.keys]
            self.values = [self._allocate(part) for part in like.values]
        for row in rows:
            self.shared[row] = prompt.shared
            self.lengths[row] = 0 if prompt.own is None else prompt.own.num_tokens
        if prompt.own is not None:
            for whole, part in zip(
                [*self.keys, *self.values], [*prompt.own.keys, *prompt.own.values], strict=True
            ):
                whole[rows, :, : prompt.own.num_tokens] = part
        self.groups = None

    def _allocate(self, part: torch.Tensor) -> torch.Tensor:
        num_heads, _, head_dim = part.shape
        # Zeros, since a masked column still takes part in products, where a NaN would spread.
        return part.new_zeros(len(self.lengths), num_heads, self.capacity_tokens, head_dim)

    def keep(self, rows: list[int]) -> None:
        """Give up all other rows."""
        self.keys = [part[rows] for part in self.keys]
        self.values = [part[rows] for part in self.values]
        self.lengths = [self.lengths[row] for row in rows]
        self.shared = [self.shared[row] for row in rows]
        self.groups = None

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add a token [num_rows] to each row; return the logits of the next, [num_rows, vocab].

        A row at its full length, whose sample is finished, overwrites its last column.
        """
        device = tokens.device
        self.lengths = [min(length, self.capacity_tokens - 1) for length in self.lengths]
        at = torch.tensor(self.lengths, device=device)
        self._columns = (torch.arange(len(at), device=device), at)
        self._width = self.get_seq_length() + 1
        self._masks = {}
        if self.groups is None:
            self._group(device)
        with attention_of(self.model):
            logits = self.model(
                input_ids=tokens[:, None],
                attention_mask=torch.ones(len(at), 1, 1, self._width, device=device).bool(),
                position_ids=(self._before + at)[:, None],
                cache_position=torch.tensor([self._width - 1], device=device),
                past_key_values=self,
                use_cache=True,
                slots=self,
            ).logits[:, -1]
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def _group(self, device: torch.device) -> None:
        """Note which rows share a part, and how long it is."""
        self.groups = []
        for part in filter(None, dict.fromkeys(self.shared)):
            rows = [row for row, one in enumerate(self.shared) if one is part]
            everything = len(rows) == len(self.shared)
            self.groups.append(
                (part, slice(None) if everything else torch.tensor(rows, device=device))
            )
        before = [0 if part is None else part.num_tokens for part in self.shared]
        self._before, self.longest_shared = torch.tensor(before, device=device), max(before)

    def mask(self, window: int | None, scores: torch.Tensor) -> torch.Tensor:
        """What is added to each row's scores in this step: 0 where its token sees, else -inf.

        Args:
            window: Tokens that are seen at most, the row's own among them.
            scores: Whose data type the mask has.

        Returns:
            [num_rows, 1, 1, longest_shared + width]: the shared columns, and the row's own.
        """
        if window not in self._masks:
            at, before = self._columns[1][:, None], self._before[:, None]
            columns = torch.arange(self._width, device=at.device)
            shared = torch.arange(self.longest_shared, device=at.device)
            shared_seen, own_seen = shared < before, columns <= at
            if window is not None:
                shared_seen = shared_seen & (shared > before + at - window)
                own_seen = own_seen & (columns > at - window)
            seen = torch.cat([shared_seen, own_seen], -1)
            mask = scores.new_zeros(seen.shape).masked_fill_(~seen, float("-inf"))
            self._masks[window] = mask[:, None, None]
        return self._masks[window]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_more: Any,
        **_further: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in a layer's keys and values of one token a row, and return those of all columns.

        Both come as [num_rows, num_kv_heads, 1, head_dim] and go with `width` columns. What else
        transformers hands over differs by version and is for caches of other kinds.
        """
        rows, columns = self._columns
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        keys[rows, :, columns] = key_states[:, :, 0]
        values[rows, :, columns] = value_states[:, :, 0]
        return keys[:, :, : self._width], values[:, :, : self._width]


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float,
    slots: SlotCache,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """Softmax attention of one token a row, over what its row shares and its own columns together.

    Args:
        module: The layer's attention; takes `layer_idx`.
        query: [num_rows, num_heads, 1, head_dim].
        key: [num_rows, num_kv_heads, width, head_dim]; `value` likewise.
        value: See `key`.
        attention_mask: Not looked at; given so that transformers makes none.
        scaling: Factor of the scores.
        slots: The batch.
        sliding_window: Tokens that are seen, the row's own among them; None for all.
        softcap: See `lvf.models.packed.attend`; so are the sinks.
        s_aux: [num_heads].

    Returns:
        [num_rows, 1, num_heads, head_dim].
    """
    num_rows, num_kv_heads = key.shape[:2]
    query = query.view(num_rows, num_kv_heads, -1, query.shape[-1]) * scaling
    scores, longest = query @ key.transpose(2, 3), slots.longest_shared
    groups = slots.groups or ()
    if longest:
        # Left empty where a row shares less: the mask covers it, and its weights are 0.
        shared = scores.new_zeros(*scores.shape[:3], longest)
        for part, rows in groups:
            part_keys = part.keys[module.layer_idx].transpose(1, 2)
            shared[rows, :, :, : part.num_tokens] = _by_head(query[rows], part_keys)
        scores = torch.cat([shared, scores], -1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + slots.mask(sliding_window, scores)
    width = scores.shape[-1]
    if s_aux is not None:
        sinks = s_aux.to(scores.dtype).view(1, num_kv_heads, -1, 1).expand(num_rows, -1, -1, 1)
        scores = torch.cat([scores, sinks], -1)
    weights = scores.softmax(-1, dtype=torch.float32)[..., :width].to(value.dtype)
    attended = weights[..., longest:] @ value
    for part, rows in groups:
        part_values = part.values[module.layer_idx]
        attended[rows] += _by_head(weights[rows, :, :, : part.num_tokens], part_values)
    return attended.view(num_rows, 1, -1, attended.shape[-1]), None


def _by_head(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Product of [num_rows, num_heads, m, k] with one [num_heads, k, n] for all rows."""
    num_rows, num_heads, m, k = rows.shape
    product = rows.transpose(0, 1).reshape(num_heads, num_rows * m, k) @ matrix
    return product.view(num_heads, num_rows, m, -1).transpose(0, 1)


@contextmanager
def attention_of(model: PreTrainedModel) -> Iterator[None]:
    """Let the model use `attend`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


AttentionInterface.register(ATTENTION, attend)
