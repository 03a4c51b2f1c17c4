"""LoRA with fewer, larger products: PEFT's own modules, names and files, another forward.

PEFT gives each of a block's seven linear maps a dropout and two small products of its own, and
keeps what all of them need for their gradients. Here maps with one input share its dropout and the
product with their stacked A; the products with B add into the base's output; and one autograd node
keeps the dropped input and the small hidden states. Without dropout the update is PEFT's to
rounding; with it q, k and v (gate and up) see one mask instead of independent ones, each with
PEFT's distribution.

Sizes: T tokens, I inputs, O outputs of a map, R its rank, S the sum of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import Tensor
from torch.nn.functional import linear

SHARED_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Maps of a block that transformers gives one and the same tensor, in the order of their calls."""
DRAW_BITS = 16
"""Random bits a mask element on CPU: the dropout probability is rounded to multiples of 2^-16."""


def speed_up(model: PeftModel) -> None:
    """Give every plain LoRA map of a model the fast forward.

    Variants such as DoRA, and maps that are merged, disabled or in evaluation, keep PEFT's own.
    """
    for module in list(model.modules()):
        children = {n: m for n, m in module.named_children() if type(m) is Linear}
        plain = {name: m for name, m in children.items() if not m.lora_variant}
        for names in (*SHARED_INPUTS, *((name,) for name in plain)):
            group = Group([plain.pop(name) for name in names if name in plain])
            for member in group.members:
                member.__class__ = FastLinear
                member.group = group  # type: ignore[assignment]


class FastLinear(Linear):
    """PEFT's LoRA map, trained as a member of a group."""

    group: Group

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base and adapter on x [..., in_features]."""
        if self.training and not (self.merged or self.disable_adapters or args or kwargs):
            return self.group.output(self, x)
        return super().forward(x, *args, **kwargs)


class Group:
    """Maps that see the same input: the first one called computes for all of them."""

    def __init__(self, members: list[Linear]) -> None:
        self.members = members
        self._input: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}

    def output(self, member: Linear, x: Tensor) -> Tensor:
        """What this member makes of x; the others' outputs wait for their own call with x."""
        place = next(i for i, one in enumerate(self.members) if one is member)
        if self._input is not x or place not in self._waiting:
            self._input, self._waiting = x, dict(enumerate(adapted(self.members, x)))
        found = self._waiting.pop(place)
        if not self._waiting:
            self._input = None
        return found


def adapted(members: list[Linear], x: Tensor) -> list[Tensor]:
    """Outputs [..., out_features] of maps that share the input x [..., in_features]."""
    (adapter,) = members[0].active_adapters
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    x_TI = x.reshape(-1, x.shape[-1]).to(dtype)
    maps = []
    for one in members:
        base, down, up = one.base_layer, one.lora_A[adapter], one.lora_B[adapter]
        maps += [base.weight, base.bias, down.weight, up.weight]
    casts = [None if parameter is None else parameter.to(dtype) for parameter in maps]
    noise_TI = draw_noise(x_TI, getattr(members[0].lora_dropout[adapter], "p", 0.0))
    outputs = Adapters.apply(x_TI, noise_TI, [one.scaling[adapter] for one in members], *casts)
    return [y_TO.view(*x.shape[:-1], -1) for y_TO in outputs]


@torch.no_grad()
def draw_noise(x: Tensor, p: float) -> Tensor | None:
    """Dropout's factors, shaped as x: 0 with probability p, else 1 / (1 - p); None for p = 0."""
    if not p:
        return None
    if x.is_cuda:
        return torch.empty_like(x).bernoulli_(1 - p).div_(1 - p)
    # torch's own Bernoulli draws take ten times as long on CPU as the product they go into.
    steps = 1 << DRAW_BITS
    num_dropped = round(p * steps)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    draws = words.view(torch.int16)[: x.numel()].view_as(x)
    return (draws >= num_dropped - steps // 2).to(x.dtype).mul_(steps / (steps - num_dropped))


class Adapters(torch.autograd.Function):
    """Outputs of linear maps with one input and an adapter each.

    y_TO = x_TI W_OI^T + bias_O + scale (x_TI * noise_TI) A_RI^T B_OR^T, all of one data type.
    Weights and biases are frozen: no gradient is computed for them.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, noise_TI: Tensor | None, scales: list[float], *maps: Tensor
    ) -> tuple[Tensor, ...]:
        """Outputs of each map; `maps` holds weight, bias or None, A_RI and B_OR of each in turn."""
        weights, biases, downs, ups = (maps[i::4] for i in range(4))
        ctx.scales, ctx.ranks = scales, [a_RI.shape[0] for a_RI in downs]
        dropped_TI = x_TI if noise_TI is None else x_TI * noise_TI
        stacked_SI = torch.cat(downs)
        hidden_ST = stacked_SI @ dropped_TI.T  # transposed: thin products are several times as fast
        outputs = [linear(x_TI, w_OI, bias) for w_OI, bias in zip(weights, biases, strict=True)]
        hidden = zip(outputs, hidden_ST.split(ctx.ranks), ups, scales, strict=True)
        for y_TO, h_RT, b_OR, scale in hidden:
            y_TO.addmm_(h_RT.T, b_OR.T, alpha=scale)
        ctx.save_for_backward(dropped_TI, noise_TI, hidden_ST, stacked_SI, *weights, *ups)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, and of each A and B."""
        dropped_TI, noise_TI, hidden_ST, stacked_SI, *rest = ctx.saved_tensors
        weights, ups = rest[: len(dys)], rest[len(dys) :]
        d_hidden, d_ups = [], []
        parts = zip(dys, ups, hidden_ST.split(ctx.ranks), ctx.scales, strict=True)
        for dy_TO, b_OR, h_RT, scale in parts:
            d_hidden.append((b_OR.T @ dy_TO.T).mul_(scale))
            d_ups.append((h_RT @ dy_TO).mul_(scale).T)
        d_hidden_ST = torch.cat(d_hidden)
        d_downs = (d_hidden_ST @ dropped_TI).split(ctx.ranks)
        dx_TI = None
        if ctx.needs_input_grad[0]:
            dx_TI = d_hidden_ST.T @ stacked_SI
            if noise_TI is not None:
                dx_TI.mul_(noise_TI)
            for dy_TO, w_OI in zip(dys, weights, strict=True):
                dx_TI.addmm_(dy_TO, w_OI)
        pairs = zip(d_downs, d_ups, strict=True)
        return dx_TI, None, None, *(one for pair in pairs for one in (None, None, *pair))
