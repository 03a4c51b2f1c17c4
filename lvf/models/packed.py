"""Packed batches without padding: real tokens end to end, attention within each document only.

A batch [B, S] of packed rows becomes one row [1, T] of its T real tokens, so that no product is
spent on padding, and attention is computed document by document, so that none is spent on masked
pairs. Neither changes what a token sees: outputs are those of the padded batch to rounding.
FlashAttention's variable-length kernel does the same where it is installed.

Sizes: T tokens, P places, N documents, L places of the longest, H query heads, K key heads, D of a
head.
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

NAME = "lvf_documents"
"""Under which transformers knows `attend`."""


def attend_within_documents(model: PreTrainedModel) -> None:
    """Make a model ready for the inputs of `unpad`."""
    on_flash = torch.cuda.is_available() and is_flash_attn_2_available()
    model.set_attn_implementation("flash_attention_2" if on_flash else NAME)


@dataclass(frozen=True)
class Documents:
    """Where the documents of a row of T tokens are, those of like length together.

    A document of length l has a row of L >= l places; groups of [N, L] places lie one after the
    other, P in all.
    """

    shapes: list[tuple[int, int]]
    """N and L of each group."""
    tokens: Tensor
    """Token at each place, [P]; beyond a document's end its last one, again."""
    empty: Tensor
    """Places beyond a document's end, as indices into [P]."""
    places: Tensor
    """Place of each token, [T]."""


def find_documents(position_ids: Tensor) -> Documents:
    """Documents of a row of tokens, position_ids [T]: they start where positions are 0.

    Lengths are sorted into powers of two, so that at most half of the places are repetitions.
    """
    starts = torch.nonzero(position_ids == 0).squeeze(1)
    ends = torch.cat([starts[1:], starts.new_tensor([len(position_ids)])])
    lengths = ends - starts
    doublings = torch.ceil(torch.log2(lengths.double())).int()
    shapes, tokens, owned = [], [], []
    for doubling in doublings.unique().tolist():
        some = doublings == doubling
        steps = torch.arange(int(lengths[some].max()), device=starts.device)
        index_NL = (starts[some, None] + steps).minimum(ends[some, None] - 1)
        shapes.append((index_NL.shape[0], index_NL.shape[1]))
        tokens.append(index_NL.flatten())
        owned.append((steps < lengths[some, None]).flatten())
    tokens_P, owned_P = torch.cat(tokens), torch.cat(owned)
    places_T = torch.empty_like(position_ids)
    places_T[tokens_P[owned_P]] = torch.nonzero(owned_P).squeeze(1)
    return Documents(shapes, tokens_P, torch.nonzero(~owned_P).squeeze(1), places_T)


class ToPlaces(torch.autograd.Function):
    """Tokens [H, T, D] to places [H, P, D].

    What is put at a place beyond a document's end reaches no token's output, so its gradient is 0,
    and the sum over a token's places is a single one: a gather, where autograd's would add.
    """

    @staticmethod
    def forward(ctx: Any, x_HTD: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        """Repeat the last token of each document to its group's length."""
        ctx.save_for_backward(places)
        return x_HTD.index_select(1, tokens)

    @staticmethod
    def backward(ctx: Any, dx_HPD: Tensor) -> tuple[Tensor, None, None]:
        """Gradient at each token's own place."""
        (places,) = ctx.saved_tensors
        return dx_HPD.index_select(1, places), None, None


class ToTokens(torch.autograd.Function):
    """Places [P, H, D] to tokens [T, H, D], the way back."""

    @staticmethod
    def forward(ctx: Any, y_PHD: Tensor, tokens: Tensor, empty: Tensor, places: Tensor) -> Tensor:
        """Leave out what lies beyond the documents' ends."""
        ctx.save_for_backward(tokens, empty)
        return y_PHD.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, dy_THD: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient at each token's own place, 0 beyond the ends."""
        tokens, empty = ctx.saved_tensors
        return dy_THD.index_select(0, tokens).index_fill_(0, empty, 0), None, None, None


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    documents: Documents | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within documents, as transformers calls it: [1, H, T, D] to [1, T, H, D].

    Without `documents` each row is one.
    """
    if documents is None:
        return sdpa_attention_forward(
            module, query, key, value, None, dropout, scaling, is_causal=True
        )
    sizes = [num * longest for num, longest in documents.shapes]
    placed: list[Any] = [
        ToPlaces.apply(x[0], documents.tokens, documents.places).split(sizes, 1)
        for x in (query, key, value)
    ]
    outputs = []
    for shape, *three in zip(documents.shapes, *placed, strict=True):
        q_NHLD, k_NKLD, v_NKLD = (x.unflatten(1, shape).transpose(0, 1) for x in three)
        # What follows a document's end needs no mask: causal attention never looks at it.
        y_NHLD = scaled_dot_product_attention(
            q_NHLD,
            k_NKLD,
            v_NKLD,
            dropout_p=dropout,
            is_causal=True,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(y_NHLD.transpose(1, 2).flatten(0, 1))
    back: Any = ToTokens.apply(
        torch.cat(outputs), documents.tokens, documents.empty, documents.places
    )
    return back[None], None


def unpad(batch: dict[str, Tensor]) -> dict[str, Any]:
    """Inputs [1, T] of a model for a batch of `lvf.data.loader.collate`."""
    input_ids = batch["input_ids"]
    real = torch.arange(input_ids.shape[1], device=input_ids.device) < batch["num_tokens"][:, None]
    kept = {name: batch[name][real] for name in ("input_ids", "labels", "position_ids")}
    documents = find_documents(kept["position_ids"])
    return {name: tokens[None] for name, tokens in kept.items()} | {"documents": documents}


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *_args, **_kwargs: None)
