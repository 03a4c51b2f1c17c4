"""Which parameters learn at which rate: LoRA+ and trained embeddings have rates of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lvf.config.schema import MethodConfig

if TYPE_CHECKING:
    from torch import nn


def parameter_groups(
    model: nn.Module, method: MethodConfig, lr_peak: float
) -> list[dict[str, Any]]:
    """Trained parameters as an optimiser's groups, one for each ratio to the run's rate.

    B of LoRA+ takes `lr_ratio_b` times the rate (as PEFT's create_loraplus_optimizer), modules that
    are trained whole `modules_to_save_lr_ratio` times. A decay follows its group's rate.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(_lr_ratio(name, method), []).append(parameter)
    return [{"params": group, "lr": lr_peak * ratio} for ratio, group in groups.items()]


def _lr_ratio(name: str, method: MethodConfig) -> float:
    if "lora_B" in name:
        return method.lr_ratio_b
    return method.modules_to_save_lr_ratio if "modules_to_save" in name else 1.0
