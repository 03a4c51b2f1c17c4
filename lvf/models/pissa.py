"""PiSSA's exports: what training added to the adapters' start, as a plain adapter of rank 2 r.

PEFT's PiSSA changes the base weights W into W - s B0 A0, so that a trained adapter (A, B) fits no
other base. The whole update is s (B A - B0 A0): the adapter of [A; A0] and [B, -B0] on W itself.
PEFT's own conversion gives the same, but changes the configuration of the model in training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

START = "pissa_start"


def remember_start(model: PeftModel) -> None:
    """Keep the adapters' first values on the CPU, with the model that they belong to."""
    setattr(model, START, {name: one.cpu() for name, one in _adapters(model).items()})


def to_plain_lora(model: Any, export: Path) -> None:
    """Rewrite the adapter that a PiSSA model saved in `export`; leaves all others as they are."""
    start: dict[str, Tensor] | None = getattr(model, START, None)
    if start is None:
        return
    import torch
    from safetensors.torch import load_file, save_file

    weights = export / "adapter_model.safetensors"
    plain = {}
    for name, trained in load_file(weights).items():
        if "lora_A" in name:  # [rank, d_in]
            plain[name] = torch.cat([trained, start[name]], dim=0)
        else:  # lora_B [d_out, rank]
            plain[name] = torch.cat([trained, -start[name]], dim=1)
    save_file(plain, weights, metadata={"format": "pt"})
    file = export / "adapter_config.json"
    config = json.loads(file.read_text())
    doubled = {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]}
    file.write_text(json.dumps(config | doubled | {"init_lora_weights": True}, indent=2))


def _adapters(model: PeftModel) -> dict[str, Tensor]:
    """A and B of every target under the names in which PEFT saves them, as copies."""
    from peft import get_peft_model_state_dict

    return {name: one.detach().clone() for name, one in get_peft_model_state_dict(model).items()}
