"""Lean norms and units are those of transformers: outputs and gradients, and what they keep."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from lvf.models.memory_efficient import (
    Gate,
    MemoryEfficientGatedUnit,
    MemoryEfficientNorm,
    Normalise,
    use_memory_efficient_layers,
)

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "olmo2")
IDS = torch.randint(64, (2, 48), generator=torch.Generator().manual_seed(0))


def model_of(architecture: str, lean: bool, dtype: torch.dtype, **shape: int) -> Any:
    """The same small model at every call, whose norms have weights other than 1."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    settings: dict[str, Any] = sizes | heads | shape
    model: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(architecture, use_cache=False, **settings)
    )
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    if lean:
        use_memory_efficient_layers(model)
    return model.to(dtype).train()


def loss_and_gradients(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_every_gradient_are_those_of_transformers(architecture: str) -> None:
    expected_loss, expected = loss_and_gradients(model_of(architecture, False, torch.float32))
    model = model_of(architecture, True, torch.float32)
    kinds = (MemoryEfficientNorm, MemoryEfficientGatedUnit)
    lean = [module for module in model.modules() if isinstance(module, kinds)]
    assert len(lean) == sum("norm" in name for name in expected) + 2  # and a unit a layer
    loss, gradients = loss_and_gradients(model)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_under_autocast_the_loss_is_that_of_transformers_to_the_rounding_of_bf16(
    architecture: str,
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        expected_loss, expected = loss_and_gradients(model_of(architecture, False, torch.float32))
        loss, gradients = loss_and_gradients(model_of(architecture, True, torch.float32))
    exact, _ = loss_and_gradients(model_of(architecture, False, torch.float32))
    assert abs(loss - exact) < abs(expected_loss - exact) + 1e-3
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert (gradient - expected[name]).norm() <= 0.03 * expected[name].norm()


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    x, gate, up = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(3))
    weight = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Normalise.apply, (x, weight, 1e-2, torch.float64))
    assert torch.autograd.gradcheck(Gate.apply, (gate, up))


def test_an_architecture_whose_norms_are_other_stays_as_it_is() -> None:
    model = model_of("gemma", True, torch.float32)
    assert not any(type(one).__name__.startswith("Lean") for one in model.modules())


def test_a_layer_of_llama_keeps_two_thirds_of_what_transformers_does() -> None:
    """Of the closed form: bytes for each hidden place, with a unit of 2.75 times the width."""

    def kept(lean: bool, tokens: int) -> int:
        shape = {"hidden_size": 256, "intermediate_size": 704, "num_key_value_heads": 4}
        model = model_of("llama", lean, torch.float32, num_hidden_layers=1, head_dim=64, **shape)
        model.set_attn_implementation("sdpa")
        x = torch.zeros(1, tokens, 256, requires_grad=True)
        cos_sin = model.model.rotary_emb(x, torch.arange(tokens)[None])
        storages: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16):
            model.model.layers[0](x, position_embeddings=cos_sin)
        return sum(storages.values())

    by_place = {lean: (kept(lean, 128) - kept(lean, 64)) / 64 / 256 for lean in (False, True)}
    # Inputs of two norms (4 each); q, k, v and what attention gives (2); what their products, the
    # output product and the unit's take (2); gate, up and their product (2 x 2.75).
    lean = 2 * 4 + 4 * 2 + 3 * 2 + 3 * 2 * 2.75
    assert by_place[True] == pytest.approx(lean, rel=0.03)
    # A norm keeps another tensor in fp32 and rounds for each of its products (three, and two); the
    # unit keeps its silu.
    assert by_place[False] == pytest.approx(lean + 2 * 4 + (2 + 1) * 2 + 2 * 2.75, rel=0.03)
