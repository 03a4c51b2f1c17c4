"""LoRA with fewer, larger products: PEFT's own modules, names and files, another forward.

PEFT gives each of a block's seven linear maps a dropout and two small products of its own, and
keeps what all of them need for their gradients. Here maps with one input share its dropout and the
product with their stacked A; the products with B add into the base's output; and one autograd node
keeps the thinned input, what was dropped and the small hidden states. Without dropout the update is
PEFT's to rounding; with it q, k and v (gate and up) see one mask instead of independent ones, each
with PEFT's distribution. With a mask for each map, as PEFT has it, each has a product with its own
A; the node keeps the input once and all masks, and thins the input again for the gradients.

Sizes: T tokens, I inputs, O outputs of a map, R its rank, S the sum of ranks, D draws of a place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear

SHARED_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Maps of a block that transformers gives one and the same tensor, in the order of their calls."""


def register_fused_lora(config: LoraConfig) -> None:
    """Let PEFT make its maps of nn.Linear of `FusedLoraLinear`: its interface for custom layers."""
    config._register_custom_module({nn.Linear: FusedLoraLinear})


def use_fused_lora(model: PeftModel, mask_per_map: bool = False) -> None:
    """Give the maps of a model that PEFT made of `FusedLoraLinear` the fused forward.

    Maps with one input share a dropout mask unless there is to be a `mask_per_map`.
    Variants such as DoRA, and maps that are merged, disabled or in evaluation, keep PEFT's own.
    """
    for module in list(model.modules()):
        plain = {
            name: child
            for name, child in module.named_children()
            if isinstance(child, FusedLoraLinear) and not child.lora_variant
        }
        for names in (*SHARED_INPUTS, *((name,) for name in plain)):
            members = [plain.pop(name) for name in names if name in plain]
            group = Group(members, mask_per_map)
            for member in members:
                member.group = group


class FusedLoraLinear(Linear):
    """PEFT's LoRA map of nn.Linear, trained as a member of a group where it has one."""

    group: Group | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base and adapter on x [..., in_features]."""
        off = self.merged or self.disable_adapters or args or kwargs
        if self.training and self.group is not None and not off:
            return self.group.output(self, x)
        return super().forward(x, *args, **kwargs)


class Group:
    """Maps that see the same input: the first one called computes for all of them."""

    def __init__(self, members: Sequence[Linear], mask_per_map: bool = False) -> None:
        self.members, self.mask_per_map = members, mask_per_map
        self._input: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}

    def output(self, member: Linear, x: Tensor) -> Tensor:
        """What this member makes of x; the others' outputs wait for their own call with x."""
        place = next(i for i, one in enumerate(self.members) if one is member)
        if self._input is not x or place not in self._waiting:
            outputs = adapted(self.members, x, self.mask_per_map)
            self._input, self._waiting = x, dict(enumerate(outputs))
        found = self._waiting.pop(place)
        if not self._waiting:
            self._input = None
        return found


def adapted(members: Sequence[Linear], x: Tensor, mask_per_map: bool = False) -> list[Tensor]:
    """Outputs [..., out_features] of maps that share the input x [..., in_features]."""
    (adapter,) = members[0].active_adapters
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    x_TI = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).to(dtype)
    maps = []
    for one in members:
        base, down, up = one.base_layer, one.lora_A[adapter], one.lora_B[adapter]
        maps += [base.weight, base.bias, down.weight, up.weight]
    casts = [None if parameter is None else parameter.to(dtype) for parameter in maps]
    p = getattr(members[0].lora_dropout[adapter], "p", 0.0)
    scales = [one.scaling[adapter] / (1 - p) for one in members]
    num_masks = len(members) if mask_per_map and p else 1
    dropped = [draw_dropped(x_TI, p) for _ in range(num_masks)]
    outputs = FusedLoRA.apply(x_TI, num_masks, scales, *dropped, *casts)
    return [y_TO.view(*x.shape[:-1], y_TO.shape[1]) for y_TO in outputs]


@torch.no_grad()
def draw_dropped(x: Tensor, p: float) -> Tensor | None:
    """The elements of x that dropout sets to 0, each with probability p; None for p = 0.

    On CPU their places [D] in x.flatten(), in no order, elsewhere a mask shaped as x.
    """
    if not p or not x.numel():  # an expert may get no token
        return None
    if torch.compiler.is_compiling():
        return draw_mask(x, p)
    if x.device.type != "cpu":
        return torch.empty_like(x, dtype=torch.bool).bernoulli_(p)
    # Some places several times, so that there is a draw for each dropped element instead of one for
    # each: of Poisson many throws into n places of mean hits -log(1 - p) each, every place is hit
    # with probability p, independently of the others.
    mean = torch.tensor(-math.log1p(-p) * x.numel(), dtype=torch.float64)
    return torch.randint(x.numel(), (int(torch.poisson(mean)),))


def drop(x: Tensor, dropped: Tensor | None) -> Tensor:
    """Set what `draw_dropped` drew to 0, in place; x is contiguous."""
    if dropped is None:
        return x
    if dropped.dtype == torch.bool:
        return x.masked_fill_(dropped, 0)
    x.view(-1).index_fill_(0, dropped, 0)
    return x


@torch.library.custom_op("lvf::draw_mask", mutates_args=())
def draw_mask(x: Tensor, p: float) -> Tensor:
    """The same as a mask on any device, in which torch.compile does not look: the draws stay."""
    dropped = draw_dropped(x, p)
    assert dropped is not None
    if dropped.dtype == torch.bool:
        return dropped
    return torch.zeros(x.numel(), dtype=torch.bool).index_fill_(0, dropped, 1).view_as(x)


@draw_mask.register_fake
def _(x: Tensor, p: float) -> Tensor:
    return torch.empty_like(x, dtype=torch.bool)


def thin(x: Tensor, dropped: Tensor | None) -> Tensor:
    """A copy of x without what is dropped; x itself where nothing is."""
    return x if dropped is None else drop(x.clone(), dropped)


class FusedLoRA(torch.autograd.Function):
    """Outputs of linear maps with one input and an adapter each.

    y_TO = x_TI W_OI^T + bias_O + thinned_TI (scale A_RI)^T B_OR^T, all of one data type, where
    thinned_TI is x_TI without what is dropped, for all maps or for each. Weights and biases are
    frozen: no gradient is computed for them.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, num_masks: int, scales: list[float], *rest: Any
    ) -> tuple[Tensor, ...]:
        """Outputs of each map.

        `rest` holds what each mask drops (of one mask for all maps, or of one for each), and then
        weight, bias or None, A_RI and B_OR of each map in turn.
        """
        masks, maps = rest[:num_masks], rest[num_masks:]
        weights, biases, downs, ups = (maps[i::4] for i in range(4))
        ranks = [a_RI.shape[0] for a_RI in downs]
        ctx.num_masks, ctx.scales, ctx.ranks = num_masks, scales, ranks
        ctx.sharing = [sum(ranks)] if num_masks == 1 else ranks  # of S, rows of each mask
        kept_TI = thin(x_TI, masks[0]) if num_masks == 1 else x_TI
        stacked_SI = torch.cat([a_RI * scale for a_RI, scale in zip(downs, scales, strict=True)])
        hidden = [  # transposed: thin products are several times as fast
            a_SI @ thinned_TI.T
            for a_SI, thinned_TI in zip(
                stacked_SI.split(ctx.sharing), _inputs(kept_TI, masks), strict=True
            )
        ]
        hidden_ST = torch.cat(hidden) if len(hidden) > 1 else hidden[0]
        outputs = [linear(x_TI, w_OI, bias) for w_OI, bias in zip(weights, biases, strict=True)]
        for y_TO, h_RT, b_OR in zip(outputs, hidden_ST.split(ranks), ups, strict=True):
            y_TO.addmm_(h_RT.T, b_OR.T)
        ctx.save_for_backward(kept_TI, hidden_ST, stacked_SI, *masks, *weights, *ups)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, and of each A and B."""
        kept_TI, hidden_ST, stacked_SI, *rest = ctx.saved_tensors
        masks, rest = rest[: ctx.num_masks], rest[ctx.num_masks :]
        weights, ups = rest[: len(dys)], rest[len(dys) :]
        d_hidden_ST = torch.empty_like(hidden_ST)
        parts = [whole.split(ctx.ranks) for whole in (hidden_ST, d_hidden_ST)]
        d_ups = []
        for dy_TO, b_OR, h_RT, d_hidden_RT in zip(dys, ups, *parts, strict=True):
            torch.mm(b_OR.T, dy_TO.T, out=d_hidden_RT)
            d_ups.append((h_RT @ dy_TO).T)
        shares = d_hidden_ST.split(ctx.sharing)
        d_stacked = [
            d_ST @ thinned_TI
            for d_ST, thinned_TI in zip(shares, _inputs(kept_TI, masks), strict=True)
        ]
        d_each = d_stacked[0].split(ctx.ranks) if ctx.num_masks == 1 else d_stacked
        d_downs = [d_RI.mul_(scale) for d_RI, scale in zip(d_each, ctx.scales, strict=True)]
        dx_TI: Any = None
        if ctx.needs_input_grad[0]:
            for d_ST, a_SI, dropped in zip(
                shares, stacked_SI.split(ctx.sharing), masks, strict=True
            ):
                through_TI = drop(d_ST.T @ a_SI, dropped)
                dx_TI = through_TI if dx_TI is None else dx_TI.add_(through_TI)
            for dy_TO, w_OI in zip(dys, weights, strict=True):
                dx_TI.addmm_(dy_TO, w_OI)
        pairs = zip(d_downs, d_ups, strict=True)
        d_maps = (one for pair in pairs for one in (None, None, *pair))
        return dx_TI, None, None, *(None for _ in masks), *d_maps


def _inputs(kept_TI: Tensor, masks: Sequence[Tensor | None]) -> Iterator[Tensor]:
    """What each mask leaves of the input; what is kept for a single one is thinned already."""
    return iter([kept_TI]) if len(masks) == 1 else (thin(kept_TI, one) for one in masks)
