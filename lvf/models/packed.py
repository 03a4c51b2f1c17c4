"""Packed batches without padding: real tokens end to end, attention within each document only.

A batch [B, S] of packed rows becomes one row [1, T] of its T real tokens, so that no product is
spent on padding, and attention is computed document by document, so that none is spent on masked
pairs. Neither changes what a token sees: outputs are those of each document alone to rounding.
FlashAttention's variable-length kernel does the same where it is installed.

Which tokens of its document a token sees is asked of transformers' own masks, so sliding windows
and chunks are those of the model. An architecture whose attention does not go through
transformers' interfaces cannot be packed: `lvf.models.probe` notices it.

Sizes: T tokens, P places, N documents, L places of the longest, H query heads, K key heads, D of a
head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from lvf.config.schema import IGNORED_LABEL

NAME = "lvf_documents"
"""Under which transformers knows `attend`."""


class Layout(Enum):
    """How the documents of a batch are handed to a model, best first."""

    FLASH = "packed rows, FlashAttention"
    PACKED = "packed rows"
    ROWS = "each document a row of its own, padded"


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


@dataclass(frozen=True)
class Visible:
    """Which tokens of its document a token sees, by a mask function of transformers.

    It stands for the mask that a model makes of its inputs and hands to each layer's attention.
    """

    mask_function: Callable[..., Tensor]
    """Of batch, head, query and key index."""
    local_tokens: int | None
    """Size of a sliding window or of a chunk: within it, attention is plainly causal."""
    masks: dict[int, Tensor] = field(default_factory=dict)
    """Of the lengths that a layer has asked for."""

    def mask(self, length: int, device: torch.device) -> Tensor | None:
        """[length, length], true where a query (row) sees a key; None if plainly causal."""
        if self.mask_function is causal_mask_function:
            return None
        if self.local_tokens is not None and length <= self.local_tokens:
            return None
        if length not in self.masks:
            places = torch.arange(length, device=device)
            visible = self.mask_function(0, 0, places[:, None], places[None])
            self.masks[length] = visible.expand(length, length)
        return self.masks[length]


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Visible,
    *,
    documents: Documents | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within documents, as transformers calls it: [1, H, T, D] to [1, T, H, D].

    Args:
        module: The layer's attention, not looked at.
        query: [1, H, T, D].
        key: [1, K, T, D].
        value: [1, K, T, D].
        attention_mask: What `Visible` says.
        documents: Where the documents are.
        dropout: Share of attention weights to drop.
        scaling: Factor of scores; 1 / sqrt(D) if None.
        softcap: Scores s become softcap * tanh(s / softcap), as in Gemma 2.
        s_aux: Score of each head's sink [H], which takes weight and gives nothing, as in gpt-oss.

    Raises:
        TypeError: the model has not handed over its documents, or has a mask of its own.
    """
    if documents is None or not isinstance(attention_mask, Visible):
        raise TypeError(
            f"{type(module).__name__} does not pass on what keeps packed documents apart"
        )
    sizes = [num * longest for num, longest in documents.shapes]
    placed: list[Any] = [
        ToPlaces.apply(x[0], documents.tokens, documents.places).split(sizes, 1)
        for x in (query, key, value)
    ]
    plain = softcap is None and s_aux is None
    outputs = []
    for shape, *three in zip(documents.shapes, *placed, strict=True):
        q_NHLD, k_NKLD, v_NKLD = (x.unflatten(1, shape).transpose(0, 1) for x in three)
        # What follows a document's end needs no mask: causal attention never looks at it.
        mask_LL = attention_mask.mask(shape[1], query.device)
        if plain:
            y_NHLD = scaled_dot_product_attention(
                q_NHLD,
                k_NKLD,
                v_NKLD,
                attn_mask=mask_LL,
                dropout_p=dropout,
                is_causal=mask_LL is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        else:
            y_NHLD = _written_out(q_NHLD, k_NKLD, v_NKLD, mask_LL, dropout, scaling, softcap, s_aux)
        outputs.append(y_NHLD.transpose(1, 2).flatten(0, 1))
    back: Any = ToTokens.apply(
        torch.cat(outputs), documents.tokens, documents.empty, documents.places
    )
    return back[None], None


def _written_out(
    q_NHLD: Tensor,
    k_NKLD: Tensor,
    v_NKLD: Tensor,
    mask_LL: Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
    sinks_H: Tensor | None,
) -> Tensor:
    """Attention whose scores torch's kernels do not offer; memory grows with L * L."""
    num_docs, num_heads, length, head_dim = q_NHLD.shape
    k_NHLD, v_NHLD = (x.repeat_interleave(num_heads // x.shape[1], 1) for x in (k_NKLD, v_NKLD))
    scores = q_NHLD @ k_NHLD.transpose(2, 3) * (head_dim**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask_LL is None:
        mask_LL = torch.ones(length, length, dtype=torch.bool, device=scores.device).tril()
    scores = scores.masked_fill(~mask_LL, float("-inf"))
    if sinks_H is not None:
        sink = sinks_H.to(scores.dtype).view(1, -1, 1, 1).expand(num_docs, -1, length, 1)
        scores = torch.cat([scores, sink], -1)
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=wide)[..., :length].to(v_NHLD.dtype)
    return drop(weights, dropout, training=dropout > 0) @ v_NHLD


def unpad(batch: dict[str, Tensor]) -> dict[str, Any]:
    """Inputs [1, T] of a model for a batch of `lvf.data.loader.collate`."""
    input_ids = batch["input_ids"]
    real = torch.arange(input_ids.shape[1], device=input_ids.device) < batch["num_tokens"][:, None]
    kept = {name: batch[name][real] for name in ("input_ids", "labels", "position_ids")}
    documents = find_documents(kept["position_ids"])
    inputs = {name: tokens[None] for name, tokens in kept.items()}
    # With a mask given, transformers' mask functions count places from a document's start; without
    # it they would look for documents in the positions of the row themselves.
    return inputs | {"attention_mask": torch.ones_like(inputs["input_ids"]), "documents": documents}


def document_rows(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The documents of a batch of `lvf.data.loader.collate`, each in a row of its own.

    For architectures that cannot be packed: a causal model never looks at what follows a document.

    Returns:
        For each group of like lengths `input_ids`, `attention_mask` and `labels`, each [N, L].
    """
    inputs = unpad(batch)
    documents: Documents = inputs["documents"]
    real = torch.ones_like(documents.tokens).index_fill_(0, documents.empty, 0)
    labels = inputs["labels"][0][documents.tokens].masked_fill(real == 0, IGNORED_LABEL)
    placed = {
        "input_ids": inputs["input_ids"][0][documents.tokens],
        "attention_mask": real,
        "labels": labels,
    }
    sizes = [num * longest for num, longest in documents.shapes]
    groups = [dict(zip(placed, parts)) for parts in zip(*(x.split(sizes) for x in placed.values()))]  # noqa: B905
    return [
        {name: part.view(shape) for name, part in group.items()}
        for group, shape in zip(groups, documents.shapes, strict=True)
    ]


def _visible(
    *, mask_function: Callable[..., Tensor], local_size: int | None = None, **_others: Any
) -> Visible:
    return Visible(mask_function, local_size)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _visible)
