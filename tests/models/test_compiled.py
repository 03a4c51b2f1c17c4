"""A compiled model is the same model: its loss, gradients, masks and names, for any batch."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._dynamo.utils import counters
from transformers import AutoConfig, AutoModelForCausalLM

import lvf.bench
import lvf.train
from lvf.config.compose import compose
from lvf.config.validate import require_compiler
from lvf.errors import UserError
from lvf.models.compiled import compile_layers
from lvf.models.fused_lora import register_fused_lora, use_fused_lora
from lvf.models.layers import recompute_layers
from lvf.models.memory_efficient import use_memory_efficient_layers
from lvf.models.packed import NAME, Layout
from lvf.models.token_loss import give_loss_in_chunks, mean_loss
from tests.conftest import compiles_rightly, needs_compiler

LAYERS = 3
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BATCHES = [[9, 1, 5], [24], [3, 3, 3, 30], [2, 17], [64, 5, 1], [7, 7, 40]]
"""Lengths of the segments of each batch: as many tokens, segments and sizes of them as occur."""


def model_of(architecture: str, **lora: Any) -> Any:
    """A small model, the same one at every call, with adapters that already do something."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture, hidden_size=32, intermediate_size=48, vocab_size=64, use_cache=False,
        num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config)
    model.set_attn_implementation(NAME)
    use_memory_efficient_layers(model)
    if lora:
        fast = lora.pop("fast", True)
        options = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.2, "target_modules": TARGETS} | lora
        peft_config = LoraConfig(**options)
        if fast:
            register_fused_lora(peft_config)
        model = get_peft_model(model, peft_config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        if fast:
            use_fused_lora(model)
    give_loss_in_chunks(model, 16)
    return model.train()


def losses_and_gradients(model: Any) -> tuple[list[torch.Tensor], list[int]]:
    """Of each batch the loss and every gradient; and how many graphs there were after it."""
    found, graphs = [], []
    for seed, lengths in enumerate(BATCHES):
        torch.manual_seed(seed)
        ids = torch.randint(64, (1, sum(lengths)))
        positions = torch.cat([torch.arange(length) for length in lengths])
        batch = {"input_ids": ids, "labels": ids, "position_ids": positions[None]}
        batch["num_tokens"] = torch.tensor([sum(lengths)])
        loss = mean_loss(model, batch, Layout.PACKED)
        loss.backward()
        found += [loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]
        model.zero_grad()
        graphs.append(counters["stats"]["unique_graphs"])
    return found, graphs


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("olmo2", {}),
    "lora": ("llama", {"fast": True}),
    "peft": ("qwen3", {"fast": False, "use_dora": True, "target_modules": ["q_proj", "down_proj"]}),
}


@compiles_rightly
@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    "way, recompute",
    [
        ("full", True),
        pytest.param("lora", False, marks=pytest.mark.long),
        pytest.param("peft", False, marks=pytest.mark.long),
    ],
    ids=lambda value: {False: "kept", True: "recomputed"}.get(value, value),
)
def test_losses_masks_and_gradients_are_those_without_compilation_and_no_batch_needs_its_own(
    way: str, recompute: bool
) -> None:
    architecture, lora = WAYS[way]
    expected, _ = losses_and_gradients(model_of(architecture, **lora))
    model = model_of(architecture, **lora)
    names = list(model.state_dict())
    compile_layers(model)
    if recompute:
        recompute_layers(model)
    counters.clear()
    found, graphs = losses_and_gradients(model)
    assert list(model.state_dict()) == names
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    # Of LoRA's first layer the input needs no gradient: it has graphs of its own.
    assert 0 < graphs[1] <= (8 if lora else 4)
    assert len(set(graphs[1:])) == 1


@pytest.mark.parametrize("version", ["2.6.0", "2.11.0+cu130", "2.14.1", "2.16.0"])
def test_compilation_is_refused_on_a_torch_whose_gradients_were_not_compared(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda package: version)
    require_compiler(compose())
    refused = r"runtime.compile=true: .*on torch 2.7 and 2.15;"
    with pytest.raises(UserError, match=refused):
        require_compiler(compose("runtime.compile=true"))
    for entry in (lvf.train.run, lvf.bench.run, lvf.bench.benchmark):
        with pytest.raises(UserError, match=refused):
            entry(compose("+experiment=throughput", "runtime.compile=true"))


@compiles_rightly
def test_a_missing_compiler_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    require_compiler(compose())
    with pytest.raises(UserError, match="C\\+\\+ compiler no-such-compiler, which is not"):
        require_compiler(compose("runtime.compile=true"))
