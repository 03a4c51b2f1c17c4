"""Parameters and training FLOPs, computed from shapes alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lvf.config import MethodConfig
from lvf.models.lora import meta_model, target_linears

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def num_parameters(config: PretrainedConfig) -> int:
    """All parameters of a model; tied weights count once."""
    return sum(p.numel() for p in meta_model(config).parameters())


def num_lora_parameters(config: PretrainedConfig, rank: int, targets: list[str]) -> int:
    """Trainable parameters of LoRA: rank * (d_in + d_out) for each target matrix."""
    linears = target_linears(meta_model(config), targets).values()
    return sum(rank * (linear.in_features + linear.out_features) for linear in linears)


def num_trainable_parameters(config: PretrainedConfig, method: MethodConfig) -> int:
    """What the method trains: everything, or the adapters."""
    if method.kind == "full":
        return num_parameters(config)
    assert method.rank is not None and method.targets is not None
    return num_lora_parameters(config, method.rank, method.targets)


def train_flops_per_token(config: PretrainedConfig, method: MethodConfig) -> int:
    """Matrix-product FLOPs of one training token, attention scores apart.

    With N parameters in matrix products: full 6N (forward 2N, gradients of inputs 2N and of weights
    2N); LoRA 4N, since frozen weights need no gradient, and 6 for each adapter parameter.
    """
    import torch

    linears = [m for m in meta_model(config).modules() if isinstance(m, torch.nn.Linear)]
    in_products = sum(linear.weight.numel() for linear in linears)
    if method.kind == "full":
        return 6 * in_products
    return 4 * in_products + 6 * num_trainable_parameters(config, method)
