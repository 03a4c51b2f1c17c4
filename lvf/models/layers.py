"""The decoder layers of a causal model, by which it is sharded, compiled, recomputed, measured."""

from functools import partial
from typing import Any

from torch.nn import ModuleList
from torch.utils.checkpoint import checkpoint


def decoder_layers(model: Any) -> ModuleList:
    """The list that a model of transformers, with or without adapters, runs through: its largest.

    Lists of experts lie within a layer, so they are smaller.
    """
    lists = (module for module in model.modules() if isinstance(module, ModuleList))
    return max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()))


def recompute_layers(model: Any) -> None:
    """Keep only the input of each decoder layer and compute the rest again for its gradients.

    Compile the layers before. transformers' own `gradient_checkpointing_enable` lies outside of
    `forward` in version 4 and inside in version 5, where torch.compile then gives up the layer.
    """
    for layer in decoder_layers(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
