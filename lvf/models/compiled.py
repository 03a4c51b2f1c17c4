"""torch.compile for training: a decoder layer's small operations become few kernels.

Layers are compiled one by one, as torchtitan does, and in place: names in checkpoints and exports,
and what shards or replicates the model, stay as they are. Attention, whose shapes follow from the
segments of a batch, stays outside and divides a layer into at most four graphs. All layers share
them, for any number of tokens. Random draws are those of the uncompiled model, so dropout drops
the same. Composer's `compile_config` would compile the whole model, attention and loss included.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.flash_attention import flash_attention_forward

from lvf.models.layers import decoder_layers
from lvf.models.packed import NAME, attend

OPTIONS: dict[str, Any] = {"fallback_random": True}
"""Of inductor, which else draws dropout's masks by a generator of its own."""
OUTSIDE = {NAME: attend, "flash_attention_2": flash_attention_forward}
"""Attention of `lvf.models.packed`, by the name under which transformers knows it."""


def compile_layers(model: Any) -> None:
    """Compile the decoder layers of a causal model, with or without adapters, in place.

    Only `forward` is: hooks, such as FSDP2's, and activation checkpointing stay around it. Kernels
    are made when a batch first needs them.
    """
    torch.compiler.reset()  # how often code may be compiled again is counted over a process
    torch._dynamo.config.optimize_ddp = False  # it divides what is larger than a layer
    for name, function in OUTSIDE.items():
        AttentionInterface.register(name, torch.compiler.disable(function))
    for layer in decoder_layers(model):
        layer.forward = torch.compile(layer.forward, dynamic=True, options=OPTIONS)
