"""Real small models on disk: a base, a full finetune in bf16 and PEFT adapters."""

from pathlib import Path
from typing import Any

import pytest
import torch

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def save_adapter(base: Path, folder: Path, seed: int = 0, size: float = 0.3, **config: Any) -> Path:
    """A LoRA adapter as PEFT writes it, with B drawn at random instead of zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    settings = {"r": 3, "lora_alpha": 6, "target_modules": TARGETS} | config
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
    for name, weight in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=size)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random bf16 Llama with more key-value width than is square, and two shards."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture(scope="session")
def full_dir(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base after small steps in bf16: many weights did not move, the others by one rounding."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.bfloat16)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight, dtype=torch.float32).mul(1e-3).to(weight.dtype))
    folder = tmp_path_factory.mktemp("full")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter_dir(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain adapter of the base."""
    return save_adapter(base_dir, tmp_path_factory.mktemp("adapter"))
