"""The model in Composer's terms, given the real tokens of a batch end to end."""

from __future__ import annotations

from typing import Any

import composer.models.huggingface
import torch
from composer.models import HuggingFaceModel

from lvf.models.packed import Layout
from lvf.models.token_loss import mean_loss

# Composer finds out whether a model is causal by importing every causal model of transformers (130
# modules, and through them torch's compiler: a quarter of a start); load_base loads no other.
composer.models.huggingface._is_registered_causal_lm = lambda model: True


class PackedModel(HuggingFaceModel):
    """Composer's wrapper for batches of `lvf.data.loader.collate`."""

    in_bf16 = False
    """Whether products are of bf16 (autocast); Composer's `amp_bf16` does so on a GPU only."""
    layout = Layout.PACKED
    """How documents are handed over."""
    recomputes = False
    """Whether the layers compute their activations again for the gradients."""

    def forward(self, batch: dict[str, Any]) -> Any:
        """The loss, as Composer looks for it, without a thought for padding."""
        kind = batch["input_ids"].device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.in_bf16):
            return {"loss": mean_loss(self.model, batch, self.layout)}
