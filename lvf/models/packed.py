"""Packed batches without padding: real tokens end to end, attention within each segment only.

A batch [B, S] of packed rows becomes one row [1, T] of its T real tokens, so that no product is
spent on padding, and attention is computed segment by segment, so that none is spent on masked
pairs. Neither changes what a token sees: outputs are those of the padded batch to rounding.
FlashAttention's variable-length kernel does the same where it is installed.

Sizes: T tokens, N segments, L places of the longest, H query heads, K key heads, D of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import is_flash_attn_2_available

NAME = "lvf_segments"
"""Under which transformers knows `attend`."""


def attend_within_segments(model: PreTrainedModel) -> None:
    """Make a model ready for the inputs of `end_to_end`."""
    on_flash = torch.cuda.is_available() and is_flash_attn_2_available()
    model.set_attn_implementation("flash_attention_2" if on_flash else NAME)


@dataclass(frozen=True)
class Segments:
    """Where the segments of a row of tokens are, those of like length together."""

    places: list[tuple[Tensor, Tensor]]
    """Index of each segment's tokens, [N, L] (the last is repeated), and which are its own."""
    order: Tensor
    """Place of each token, [T], in the tokens that `places` lists one after the other."""


def find_segments(position_ids: Tensor) -> Segments:
    """Segments of a row of tokens, position_ids [T]: they start where positions are 0.

    Lengths are sorted into powers of two, so that at most half of the places are repetitions.
    """
    starts = torch.nonzero(position_ids == 0).squeeze(1)
    ends = torch.cat([starts[1:], starts.new_tensor([len(position_ids)])])
    lengths = ends - starts
    doublings = torch.ceil(torch.log2(lengths.double())).int()
    places = []
    for doubling in doublings.unique().tolist():
        some = doublings == doubling
        steps = torch.arange(int(lengths[some].max()), device=starts.device)
        own = steps < lengths[some, None]
        index = (starts[some, None] + steps).minimum(ends[some, None] - 1)
        places.append((index, own))
    listed = torch.cat([index[own] for index, own in places])
    order = torch.empty_like(listed)
    order[listed] = torch.arange(len(listed), device=listed.device)
    return Segments(places, order)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    segments: Segments | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within segments, as transformers calls it: [1, H, T, D] to [1, T, H, D].

    Without `segments` each row is one.
    """
    if segments is None:
        return sdpa_attention_forward(
            module, query, key, value, None, dropout, scaling, is_causal=True
        )
    outputs = []
    for index, own in segments.places:
        num, longest = index.shape
        q_NHLD, k_NKLD, v_NKLD = (
            x[0].index_select(1, index.view(-1)).unflatten(1, (num, longest)).transpose(0, 1)
            for x in (query, key, value)
        )
        # What follows a segment's end needs no mask: causal attention never looks at it.
        y_NHLD = scaled_dot_product_attention(
            q_NHLD,
            k_NKLD,
            v_NKLD,
            dropout_p=dropout,
            is_causal=True,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(y_NHLD.transpose(1, 2)[own])
    return torch.cat(outputs).index_select(0, segments.order)[None], None


def end_to_end(batch: dict[str, Tensor]) -> dict[str, Any]:
    """Inputs [1, T] of a model for a batch of `lvf.data.loader.collate`."""
    input_ids = batch["input_ids"]
    real = torch.arange(input_ids.shape[1], device=input_ids.device) < batch["num_tokens"][:, None]
    kept = {name: batch[name][real] for name in ("input_ids", "labels", "position_ids")}
    segments = find_segments(kept["position_ids"])
    return {name: tokens[None] for name, tokens in kept.items()} | {"segments": segments}


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *_args, **_kwargs: None)
