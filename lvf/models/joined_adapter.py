"""LoRA on LoRA: an adapter that is trained further, and two adapters exported as a single one.

An adapter (A2, B2) that was trained on a base W + s B1 A1 fits no other base. The whole update of W
is s (B1 A1 + B2 A2): the plain adapter of [A2; A1] and [B2, B1] on W itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel

WEIGHTS = "adapter_model.safetensors"


def load_adapter(model: PeftModel, export: Path) -> None:
    """Give a model's adapter the values of an exported one of the same shape.

    Raises:
        RuntimeError: the export holds other tensors than the model's adapter.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(export / WEIGHTS)
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    if different := weights.keys() ^ own.keys():
        raise RuntimeError(f"{export} holds another adapter: {min(different)}")
    set_peft_model_state_dict(model, weights)


def join_adapter(export: Path, earlier: Path) -> None:
    """Add an earlier adapter, which is merged into the base of `export`'s, to it.

    Args:
        export: Folder of a LoRA adapter; rewritten.
        earlier: Folder of one with the same maps and the same scale s.
    """
    import torch
    from safetensors.torch import load_file, save_file

    later_weights, earlier_weights = load_file(export / WEIGHTS), load_file(earlier / WEIGHTS)
    joined = {
        # lora_A [rank, d_in], lora_B [d_out, rank]
        name: torch.cat([tensor, earlier_weights[name]], dim=0 if "lora_A" in name else 1)
        for name, tensor in later_weights.items()
    }
    save_file(joined, export / WEIGHTS, metadata={"format": "pt"})
    file = export / "adapter_config.json"
    config: dict[str, Any] = json.loads(file.read_text())
    rank = config["r"] + json.loads((earlier / file.name).read_text())["r"]
    power = 0.5 if config["use_rslora"] else 1.0  # the scale is alpha / rank^power
    alpha = config["lora_alpha"] * (rank / config["r"]) ** power
    changed = {"r": rank, "lora_alpha": int(alpha) if alpha.is_integer() else alpha}
    file.write_text(json.dumps(config | changed, indent=2))
