"""Parameters and training FLOPs, computed from shapes alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lvf.config.schema import MethodConfig
from lvf.models.lora import (
    linear_maps,
    matrix_shape,
    meta_model,
    num_adapter_parameters,
    target_linears,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def num_parameters(config: PretrainedConfig) -> int:
    """All parameters of a model; tied weights count once."""
    return sum(p.numel() for p in meta_model(config).parameters())


def num_lora_parameters(config: PretrainedConfig, rank: int, targets: list[str]) -> int:
    """Trainable parameters of LoRA: rank * (d_in + d_out) for each target matrix."""
    linears = target_linears(meta_model(config), targets).values()
    return sum(rank * sum(matrix_shape(linear)) for linear in linears)


def num_trainable_parameters(config: PretrainedConfig, method: MethodConfig) -> int:
    """What the method trains: everything, or adapters and modules that are trained whole."""
    if method.kind == "full":
        return num_parameters(config)
    if method.peft:
        return num_adapter_parameters(config, method)
    assert method.rank is not None and method.target_modules is not None
    adapters = num_lora_parameters(config, method.rank, method.target_modules)
    model = meta_model(config)
    if method.dora:  # one magnitude for each output
        adapters += sum(
            matrix_shape(linear)[0]
            for linear in target_linears(model, method.target_modules).values()
        )
    whole = [m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in method.modules_to_save]
    return adapters + sum(p.numel() for module in whole for p in module.parameters())


def train_flops_per_token(config: PretrainedConfig, method: MethodConfig) -> int:
    """Matrix-product FLOPs of one training token, attention scores apart."""
    linears = linear_maps(meta_model(config))
    sizes = {name.rsplit(".", 1)[-1]: 0 for name in linears}
    for name, linear in linears.items():
        sizes[name.rsplit(".", 1)[-1]] += math.prod(matrix_shape(linear))
    adapters = 0
    if method.kind == "lora":
        assert method.rank is not None and method.target_modules is not None
        adapters = num_lora_parameters(config, method.rank, method.target_modules)
    return product_flops_per_token(sizes, adapters, method)


def product_flops_per_token(sizes: dict[str, int], adapters: int, method: MethodConfig) -> int:
    """FLOPs of one training token from the sizes of the linear maps (by name) and of the adapters.

    With N parameters in matrix products: full 6N (forward 2N, gradients of inputs 2N and of weights
    2N); LoRA 4N, since frozen weights need no gradient, 6 for each adapter parameter, and 2 for
    each of a map that is trained whole.
    """
    in_products = sum(sizes.values())
    if method.kind == "full":
        return 6 * in_products
    whole = sum(sizes.get(name, 0) for name in method.modules_to_save)
    return 4 * in_products + 6 * adapters + 2 * whole


def attention_flops_per_pair(config: PretrainedConfig) -> int:
    """FLOPs of training for one pair of a token and one that it sees, in all layers and heads.

    A score and its part of the sum are 2 FLOPs each for every place of a head; each is
    differentiated by both of its factors. A token sees itself and those before it in its segment:
    there are sum(position + 1) pairs. What a kernel computes again in the backward pass, or for
    pairs that are masked, does not count.
    """
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 3 * 2 * 2 * config.num_hidden_layers * config.num_attention_heads * head_dim
