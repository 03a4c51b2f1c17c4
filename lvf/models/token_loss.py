"""The loss without whole logits: of predicted tokens only, and of a few of them at a time.

transformers computes logits for every token, prompts among them, and holds them with their softmax
and its gradient: for 24,576 tokens of Llama-2's vocabulary that is 3 GB each. Here the output layer
itself gives the loss, chunk by chunk, and takes each chunk's gradient while its logits are there.

Sizes: P predicted tokens, H hidden size, V vocabulary, C tokens of a chunk.
"""
# ruff: noqa: N803, N806 - names of tensors end in the letters of their axes

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lvf.config.schema import IGNORED_LABEL
from lvf.models.packed import Layout, document_rows, unpad

PLAIN_HEADS = ("llama", "mistral", "olmo2", "qwen2", "qwen3")
"""Architectures whose logits are the output layer's product, neither scaled nor capped."""


class LossHead(nn.Linear):
    """An output layer that gives the loss instead of logits while it has `targets`."""

    targets: Tensor | None = None

    def __init__(self, head: nn.Linear, chunk_tokens: int) -> None:
        """Take the weight of a head without bias."""
        super().__init__(head.in_features, head.out_features, bias=False, device="meta")
        self.weight = head.weight
        self.chunk_tokens = chunk_tokens

    def forward(self, x: Tensor) -> Tensor:
        """Logits [..., V] of x [..., H]; with targets the mean loss of x [1, P, H]."""
        if self.targets is None:
            return super().forward(x)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return MeanCrossEntropy.apply(x[0], self.weight, self.targets, self.chunk_tokens)


def give_loss_in_chunks(model: Any, chunk_tokens: int) -> None:
    """Replace the output layer of a causal model, with or without adapters, by a `LossHead`.

    A head that has a bias or an adapter of its own stays as it is, and so does that of an
    architecture outside of `PLAIN_HEADS`.
    """
    if model.config.model_type not in PLAIN_HEADS:
        return
    head = model.get_output_embeddings()
    if hasattr(head, "lora_A"):
        return
    heads = set(head.modules())  # PEFT keeps a head that is trained whole beside the frozen one
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in heads and type(child) is nn.Linear and child.bias is None:
                setattr(parent, name, LossHead(child, chunk_tokens))


def mean_loss(model: nn.Module, batch: dict[str, Tensor], layout: Layout) -> Tensor:
    """Mean cross-entropy of the predicted tokens of a batch of `lvf.data.loader.collate`."""
    if layout is Layout.ROWS:
        groups = document_rows(batch)
        num_tokens = sum((group["labels"][:, 1:] != IGNORED_LABEL).sum() for group in groups)
        return sum(_total_loss(model, **group) for group in groups) / num_tokens  # type: ignore[return-value]
    inputs = unpad(batch)
    labels_T = inputs.pop("labels")[0]
    # Each place predicts the token after it.
    places_P = torch.nonzero(labels_T[1:] != IGNORED_LABEL).squeeze(1)
    targets_P = labels_T[places_P + 1]
    heads = [one for one in model.modules() if isinstance(one, LossHead)]
    for head in heads:
        head.targets = targets_P
    output: Tensor = model(**inputs, use_cache=False, logits_to_keep=places_P).logits
    for head in heads:
        head.targets = None
    return output if heads else cross_entropy(output[0].float(), targets_P)


def _total_loss(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> Tensor:
    """Sum of the losses of rows [N, L]."""
    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    kept = labels[:, 1:] != IGNORED_LABEL
    return cross_entropy(logits[:, :-1][kept].float(), labels[:, 1:][kept], reduction="sum")


class MeanCrossEntropy(torch.autograd.Function):
    """Mean of -log softmax(x_PH W_VH^T)[target]: products in x's data type, the rest in fp32.

    Gradients are computed in the forward pass, while the logits of a chunk are there.
    """

    @staticmethod
    def forward(
        ctx: Any, x_PH: Tensor, weight_VH: Tensor, targets_P: Tensor, chunk_tokens: int
    ) -> Tensor:
        """The loss; keeps what its gradients are before their division by P."""
        cast_VH, wide = weight_VH.to(x_PH.dtype), torch.promote_types(x_PH.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=x_PH.device)
        dx_PH = torch.empty_like(x_PH)
        dw_VH = torch.zeros_like(weight_VH, dtype=wide) if ctx.needs_input_grad[1] else None
        chunks = (one.split(chunk_tokens) for one in (x_PH, targets_P[:, None], dx_PH))
        for x_CH, target_C1, dx_CH in zip(*chunks, strict=True):
            logits_CV = (x_CH @ cast_VH.T).to(wide)
            right_C1, largest_C1 = logits_CV.gather(1, target_C1), logits_CV.amax(1, keepdim=True)
            p_CV = logits_CV.sub_(largest_C1).exp_()
            sum_C1 = p_CV.sum(1, keepdim=True)
            total += (sum_C1.log() + largest_C1 - right_C1).sum()
            d_CV = p_CV.div_(sum_C1).scatter_add_(1, target_C1, -torch.ones_like(sum_C1))
            d_CV = d_CV.to(x_PH.dtype)
            torch.mm(d_CV, cast_VH, out=dx_CH)
            if dw_VH is not None:
                dw_VH += d_CV.T @ x_CH
        ctx.save_for_backward(dx_PH, dw_VH)
        ctx.num_tokens, ctx.weight_dtype = len(targets_P), weight_VH.dtype
        return total / len(targets_P)

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and, unless it is frozen, of W."""
        dx_PH, dw_VH = ctx.saved_tensors
        scale = d_loss / ctx.num_tokens
        d_weight = None if dw_VH is None else (dw_VH * scale).to(ctx.weight_dtype)
        return (dx_PH * scale).to(dx_PH.dtype), d_weight, None, None
