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


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt that the model has read."""

    keys: list[torch.Tensor]
    """Of each layer, [num_kv_heads, num_tokens, head_dim]."""
    values: list[torch.Tensor]
    logits: torch.Tensor
    """Of the token behind the prompt, [vocab]."""
    shared: bool
    """Whether its samples look at this one copy, rather than each at its own."""

    @property
    def num_tokens(self) -> int:
        """Length of the prompt."""
        return self.keys[0].shape[1]


class SlotCache(Cache):
    """Fixed rows; each holds the keys and values of one sample, from its first column on.

    A row's next token goes to the column behind its last, whatever column the other rows are at: so
    a new sample can take the place of a finished one at any step. A shared prompt stays outside the
    rows: memory and its traffic, which bound decoding, do not grow with the samples of a prompt.
    """

    def __init__(self, model: PreTrainedModel, num_rows: int, capacity_tokens: int) -> None:
        super().__init__(layers=[])
        self.model, self.capacity_tokens = model, capacity_tokens
        self.lengths = [0] * num_rows
        self.prompts: list[Prompt | None] = [None] * num_rows  # those of rows that share theirs
        self.keys: list[torch.Tensor] = []  # [num_rows, num_kv_heads, capacity_tokens, head_dim]
        self.values: list[torch.Tensor] = []
        self.groups: list[tuple[Prompt, torch.Tensor]] = []  # of a step: a prompt and its rows
        self._columns = (torch.empty(0), torch.empty(0))  # of a step: each row, and its column
        self._width = 0

    @torch.no_grad()
    def read(self, prompts: Sequence[list[int]], shared: Sequence[bool]) -> list[Prompt]:
        """Read some prompts in one pass; `shared` says of each whether its samples share it."""
        longest = max(len(ids) for ids in prompts)
        padding = [longest - len(ids) for ids in prompts]
        ids = torch.tensor([[0] * pad + row for pad, row in zip(padding, prompts, strict=True)])
        attended = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding])
        cache = DynamicCache()
        logits = self.model(
            input_ids=ids.to(self.model.device),
            attention_mask=attended.to(self.model.device),
            position_ids=(attended.cumsum(1) - 1).clamp(min=0).to(self.model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        layers: Any = cache.layers
        return [
            Prompt(
                keys=[layer.keys[row, :, pad:] for layer in layers],
                values=[layer.values[row, :, pad:] for layer in layers],
                logits=logits[row],
                shared=shared[row],
            )
            for row, pad in enumerate(padding)
        ]

    def place(self, prompt: Prompt, rows: list[int]) -> None:
        """Begin these rows with a prompt."""
        if not self.keys:
            self.keys = [self._allocate(part) for part in prompt.keys]
            self.values = [self._allocate(part) for part in prompt.values]
        for row in rows:
            self.prompts[row] = prompt if prompt.shared else None
            self.lengths[row] = 0 if prompt.shared else prompt.num_tokens
        if not prompt.shared:
            for whole, part in zip(
                [*self.keys, *self.values], [*prompt.keys, *prompt.values], strict=True
            ):
                whole[rows, :, : prompt.num_tokens] = part

    def _allocate(self, part: torch.Tensor) -> torch.Tensor:
        num_heads, _, head_dim = part.shape
        # Zeros, since a masked column still takes part in products, where a NaN would spread.
        return part.new_zeros(len(self.lengths), num_heads, self.capacity_tokens, head_dim)

    def keep(self, rows: list[int]) -> None:
        """Give up all other rows."""
        self.keys = [part[rows] for part in self.keys]
        self.values = [part[rows] for part in self.values]
        self.lengths = [self.lengths[row] for row in rows]
        self.prompts = [self.prompts[row] for row in rows]

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add a token [num_rows] to each row; return the logits of the next, [num_rows, vocab].

        A row at its full length, whose sample is finished, overwrites its last column.
        """
        device = tokens.device
        self.lengths = [min(length, self.capacity_tokens - 1) for length in self.lengths]
        at = torch.tensor(self.lengths, device=device)
        before = torch.tensor([0 if one is None else one.num_tokens for one in self.prompts])
        self._columns = (torch.arange(len(at), device=device), at)
        self._width = self.get_seq_length() + 1
        self.groups = []
        for prompt in filter(None, dict.fromkeys(self.prompts)):
            rows = [row for row, one in enumerate(self.prompts) if one is prompt]
            self.groups.append((prompt, torch.tensor(rows, device=device)))
        with attention_of(self.model):
            logits = self.model(
                input_ids=tokens[:, None],
                attention_mask=torch.ones(len(at), 1, 1, self._width, device=device).bool(),
                position_ids=(before.to(device) + at)[:, None],
                cache_position=torch.tensor([self._width - 1], device=device),
                past_key_values=self,
                use_cache=True,
                slots=self,
            ).logits[:, -1]
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def visible(self, longest: int, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """What each row's token sees in this step.

        Args:
            longest: Tokens of the longest shared prompt.
            window: Tokens that are seen at most, the row's own among them.

        Returns:
            Of the shared prompt [num_rows, longest], and of its own columns [num_rows, width].
        """
        at = self._columns[1][:, None]
        columns = torch.arange(self._width, device=at.device)
        before = torch.zeros_like(at)
        for prompt, rows in self.groups:
            before[rows] = prompt.num_tokens
        shared = torch.arange(longest, device=at.device)
        shared_seen, own_seen = shared < before, columns <= at
        if window is not None:
            shared_seen = shared_seen & (shared > before + at - window)
            own_seen = own_seen & (columns > at - window)
        return shared_seen, own_seen

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
    """Softmax attention of one token a row, over its shared prompt and its own columns together.

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
    own = query @ key.transpose(2, 3)
    longest = max((prompt.num_tokens for prompt, _ in slots.groups), default=0)
    shared = own.new_full((*own.shape[:3], longest), float("-inf"))
    for prompt, rows in slots.groups:
        prompt_keys = prompt.keys[module.layer_idx].transpose(1, 2)
        shared[rows, :, :, : prompt.num_tokens] = _by_head(query[rows], prompt_keys)
    if softcap is not None:
        own, shared = (softcap * torch.tanh(part / softcap) for part in (own, shared))
    shared_seen, own_seen = slots.visible(longest, sliding_window)
    own = own.masked_fill(~own_seen[:, None, None], float("-inf"))
    shared = shared.masked_fill(~shared_seen[:, None, None], float("-inf"))
    scores = torch.cat([shared, own], -1)
    if s_aux is not None:
        sinks = s_aux.to(scores.dtype).view(1, num_kv_heads, -1, 1).expand(num_rows, -1, -1, 1)
        scores = torch.cat([scores, sinks], -1)
    weights = scores.softmax(-1, dtype=torch.float32)[..., : longest + own.shape[-1]]
    weights = weights.to(value.dtype)
    attended = weights[..., longest:] @ value
    for prompt, rows in slots.groups:
        prompt_values = prompt.values[module.layer_idx]
        attended[rows] += _by_head(weights[rows, :, :, : prompt.num_tokens], prompt_values)
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
