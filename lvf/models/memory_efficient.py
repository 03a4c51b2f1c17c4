"""Norms and gated units that keep less for their gradients, and pass over memory fewer times.

transformers' RMSNorm keeps two tensors in fp32, and its output once more for each product that
takes it, since autocast rounds it each time anew; its gated unit keeps a product that two kept
tensors give. In full finetuning of Llama-2's shape in bf16 a token's layer keeps 58 bytes for each
of its hidden places, of which these modules leave 38 (LoRA: 49, and 44). Outputs are the same to
rounding. torch's own `rms_norm` keeps as much as transformers' and takes longer (torch 2.7).

Sizes: H hidden, F of the gated unit; `...` stands for all axes before.
"""
# ruff: noqa: N803, N806 - names of tensors end in the letters of their axes

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lvf.models.token_loss import PLAIN_HEADS


def use_memory_efficient_layers(model: PreTrainedModel) -> None:
    """Replace the norms and gated units of a causal model in place; names of weights stay.

    To be called before adapters are put on the model. Architectures outside of `PLAIN_HEADS` stay
    as they are.
    """
    if model.config.model_type not in PLAIN_HEADS:
        return
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            kind = type(module).__name__
            if kind.endswith("RMSNorm"):
                setattr(parent, name, MemoryEfficientNorm(module))
            elif kind.endswith("MLP") and model.config.hidden_act == "silu":
                setattr(parent, name, MemoryEfficientGatedUnit(module))


class MemoryEfficientNorm(nn.Module):
    """RMSNorm of transformers, by `Normalise` where data types allow it."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight: nn.Parameter = norm.weight
        self.variance_epsilon = norm.variance_epsilon
        self.plain: Any = type(norm)
        """Its classes differ in when they round."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., H] over its root mean square, times the weight [H].

        Under autocast the output of fp32 is rounded here: it goes into products, which would.
        """
        kind = x.device.type
        dtype = x.dtype
        if torch.is_autocast_enabled(kind) and dtype == torch.float32:
            dtype = torch.get_autocast_dtype(kind)
        elif dtype != self.weight.dtype:
            return self.plain.forward(self, x)
        return Normalise.apply(x, self.weight, self.variance_epsilon, dtype)


class MemoryEfficientGatedUnit(nn.Module):
    """Gated unit of transformers (SwiGLU), by `Gate`."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.gate_proj: nn.Module = unit.gate_proj
        self.up_proj: nn.Module = unit.up_proj
        self.down_proj: nn.Module = unit.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """down(silu(gate(x)) * up(x)) of x [..., H]."""
        return self.down_proj(Gate.apply(self.gate_proj(x), self.up_proj(x)))


class Normalise(torch.autograd.Function):
    """x / sqrt(mean(x^2) + epsilon) * weight, computed in fp32 (in fp64 of fp64)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_H: Tensor, epsilon: float, dtype: torch.dtype
    ) -> Tensor:
        """The result in `dtype`; keeps x and a number for each of its vectors."""
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, scale, weight_H)
        return (x * scale).mul_(weight_H).to(dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and, unless it is frozen, of the weight."""
        x, scale, weight_H = ctx.saved_tensors
        dx = d_weight = None
        unit = x * scale
        dy = dy.to(unit.dtype)
        if ctx.needs_input_grad[1]:
            d_weight = (unit * dy).flatten(0, -2).sum(0).to(weight_H.dtype)
        if ctx.needs_input_grad[0]:
            d_unit = dy * weight_H
            along = torch.linalg.vecdot(d_unit, unit)[..., None] / x.shape[-1]
            dx = d_unit.sub_(unit.mul_(along)).mul_(scale).to(x.dtype)
        return dx, d_weight, None, None


class Gate(torch.autograd.Function):
    """silu(gate) * up of two tensors [..., F]."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """The product; keeps its factors, and not the silu between."""
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of gate and up."""
        gate, up = ctx.saved_tensors
        d_up = nn.functional.silu(gate).mul_(dy)
        return torch.ops.aten.silu_backward(dy * up, gate), d_up
