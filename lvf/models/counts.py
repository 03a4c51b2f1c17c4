"""Parameters and training FLOPs, computed from shapes alone."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from lvf.config.schema import MethodConfig
from lvf.models.lora import (
    linear_maps,
    matrix_shape,
    meta_model,
    num_adapter_parameters,
    target_linears,
)
from lvf.models.relatives import num_parameters as num_of_adapter
from lvf.models.relatives import train_flops

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

EXPERT = re.compile(r"\.experts\.(\d+)\.")
"""In the name of a linear map that lies in a list of experts."""


def num_parameters(config: PretrainedConfig) -> int:
    """All parameters of a model; tied weights count once."""
    return sum(p.numel() for p in meta_model(config).parameters())


def num_lora_parameters(config: PretrainedConfig, rank: int, targets: list[str]) -> int:
    """Trainable parameters of LoRA: rank * (d_in + d_out) for each target matrix."""
    return _over_targets(config, MethodConfig(rank=rank, target_modules=targets), num_of_adapter)


def _over_targets(
    config: PretrainedConfig, method: MethodConfig, of_map: Callable[..., int]
) -> int:
    """Sum over the maps with adapters of a function of method, name, outputs and inputs."""
    assert method.target_modules is not None
    linears = target_linears(meta_model(config), method.target_modules).items()
    return sum(of_map(method, name, *matrix_shape(linear)) for name, linear in linears)


def num_trainable_parameters(config: PretrainedConfig, method: MethodConfig) -> int:
    """What the method trains: everything, or adapters and modules that are trained whole."""
    if method.kind == "full":
        return num_parameters(config)
    if method.peft and method.adapter != "shira":  # PEFT builds it with memory only
        return num_adapter_parameters(config, method)
    assert method.target_modules is not None
    adapters = _over_targets(config, method, num_of_adapter)
    model = meta_model(config)
    if method.dora:  # one magnitude for each output
        adapters += sum(
            matrix_shape(linear)[0]
            for linear in target_linears(model, method.target_modules).values()
        )
    whole = [m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in method.modules_to_save]
    return adapters + sum(p.numel() for module in whole for p in module.parameters())


def train_flops_per_token(config: PretrainedConfig, method: MethodConfig) -> int:
    """Matrix-product FLOPs of one training token, attention scores apart.

    Of the experts only those count that a token passes through.
    """
    share = share_of_tokens(meta_model(config))

    def of_map(method: MethodConfig, name: str, d_out: int, d_in: int) -> int:
        return round(share(name) * train_flops(method, name, d_out, d_in))

    adapters = _over_targets(config, method, of_map) if method.kind == "lora" else 0
    return product_flops_per_token(product_sizes(config), adapters, method)


def product_sizes(config: PretrainedConfig) -> dict[str, int]:
    """Numbers that a token is multiplied with on average, by the last part of their names.

    transformers 5 holds experts in tensors of three dimensions, experts first, and their router's
    matrix in a module of its own; version 4 holds lists of linear maps.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    model = meta_model(config)
    share, sizes = share_of_tokens(model), Counter[str]()
    for name, linear in linear_maps(model).items():
        sizes[name.rsplit(".", 1)[-1]] += round(share(name) * math.prod(matrix_shape(linear)))
    active = experts_of_a_token(model)
    if active is None:
        return dict(sizes)
    others = (torch.nn.Linear, torch.nn.Embedding, torch.nn.modules.conv._ConvNd, Conv1D)
    held = [
        (name, parameter)
        for module in model.modules()
        if not isinstance(module, others)
        for name, parameter in module.named_parameters(recurse=False)
    ]
    num_experts = {len(parameter) for _, parameter in held if parameter.dim() == 3}
    for name, parameter in held:
        if parameter.dim() == 3:
            sizes[name] += active * parameter[0].numel()
        elif name == "weight" and parameter.dim() == 2 and len(parameter) in num_experts:
            sizes["router"] += parameter.numel()
    return dict(sizes)


def experts_of_a_token(model: PreTrainedModel) -> int | None:
    """To how many experts the routers of a model send each token; None where it has none."""
    names = ("top_k", "num_experts_per_tok")
    values = (getattr(module, name, None) for module in model.modules() for name in names)
    return next((value for value in values if isinstance(value, int)), None)


def share_of_tokens(model: PreTrainedModel) -> Callable[[str], float]:
    """The mean share of tokens that pass through a linear map, from its name."""
    active = experts_of_a_token(model)
    in_list = [EXPERT.search(name) for name in linear_maps(model)]
    num_experts = 1 + max((int(found[1]) for found in in_list if found), default=0)

    def share(name: str) -> float:
        return active / num_experts if active and EXPERT.search(name) else 1.0

    return share


def product_flops_per_token(sizes: dict[str, int], adapters: int, method: MethodConfig) -> int:
    """FLOPs of one training token from the sizes of the linear maps, by name.

    With N parameters in matrix products: full 6N (forward 2N, gradients of inputs 2N and of weights
    2N); LoRA 4N, since frozen weights need no gradient, 2 for each of a map that is trained whole,
    and the FLOPs of the `adapters` themselves.
    """
    in_products = sum(sizes.values())
    if method.kind == "full":
        return 6 * in_products
    whole = sum(sizes.get(name, 0) for name in method.modules_to_save)
    return 4 * in_products + adapters + 2 * whole


def attention_flops_per_pair(config: PretrainedConfig) -> int:
    """FLOPs of training for one pair of a token and one that it sees, in all layers and heads.

    A score and its part of the sum are 2 FLOPs each for every place of a head; each is
    differentiated by both of its factors. A token sees itself and those before it in its segment:
    there are sum(position + 1) pairs. What a kernel computes again in the backward pass, or for
    pairs that are masked, does not count.
    """
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 3 * 2 * 2 * config.num_hidden_layers * config.num_attention_heads * head_dim
