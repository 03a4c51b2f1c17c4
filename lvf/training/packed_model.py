"""The model in Composer's terms, given the real tokens of a batch end to end."""

from __future__ import annotations

from typing import Any

import torch
from composer.models import ComposerModel

from lvf.models.packed import Layout
from lvf.models.token_loss import mean_loss


class PackedModel(ComposerModel):
    """A model of transformers or PEFT, for batches of `lvf.data.loader.collate`.

    Not Composer's `HuggingFaceModel`: it takes no method of PEFT but LoRA, and imports every causal
    model of transformers to see whether this is one (a quarter of a start).
    """

    in_bf16 = False
    """Whether products are of bf16 (autocast); Composer's `amp_bf16` does so on a GPU only."""
    layout = Layout.PACKED
    """How documents are handed over."""
    recomputes = False
    """Whether the layers compute their activations again for the gradients."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.config = model.config
        self.tokenizer = tokenizer
        self.register_state_dict_post_hook(_drop_frozen)  # what checkpoints hold

    def forward(self, batch: dict[str, Any]) -> Any:
        """The loss, as Composer looks for it, without a thought for padding."""
        kind = batch["input_ids"].device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.in_bf16):
            return {"loss": mean_loss(self.model, batch, self.layout)}

    def loss(self, outputs: dict[str, Any], batch: Any) -> Any:  # type: ignore[override]
        """What `forward` computed."""
        return outputs["loss"]


def _drop_frozen(module: Any, weights: dict[str, Any], prefix: str, _: Any) -> None:
    """Leave out what no step changes, which is the base of adapters."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            weights.pop(prefix + name, None)
