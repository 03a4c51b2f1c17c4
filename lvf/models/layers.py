"""The decoder layers of a causal model, by which it is sharded, compiled and measured."""

from typing import Any

from torch.nn import ModuleList


def decoder_layers(model: Any) -> ModuleList:
    """The list that a model of transformers, with or without adapters, runs through."""
    kinds = set(model._no_split_modules)
    lists = (one for one in model.modules() if isinstance(one, ModuleList))
    return next(one for one in lists if type(one[0]).__name__ in kinds)
