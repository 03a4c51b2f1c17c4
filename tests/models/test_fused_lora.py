"""The fast forward of LoRA is PEFT's: same outputs, gradients and files, with fewer operations."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from lvf.models import fused_lora
from lvf.models.fused_lora import (
    FusedLoRA,
    FusedLoraLinear,
    draw_dropped,
    register_fused_lora,
    use_fused_lora,
)
from lvf.models.layers import recompute_layers

LAYERS = 2
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.arange(24).reshape(2, 12) % 50


def llama(dtype: torch.dtype = torch.float64, fused: bool = False, **settings: Any) -> PeftModel:
    """A small Llama with adapters that already do something; the same one at every call."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True}
    base = LlamaForCausalLM(
        LlamaConfig(num_hidden_layers=LAYERS, use_cache=False, **shape, **heads)
    )
    options = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": TARGETS} | settings
    config = LoraConfig(**options)
    if fused:
        register_fused_lora(config)
    model = get_peft_model(base.to(dtype), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def fast(
    dtype: torch.dtype = torch.float64, mask_per_map: bool = False, **settings: Any
) -> PeftModel:
    model = llama(dtype, fused=True, **settings)
    use_fused_lora(model, mask_per_map)
    return model


def loss_and_gradients(model: PeftModel) -> tuple[float, dict[str, torch.Tensor]]:
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return float(loss), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": ["q_proj", "v_proj", "down_proj"]},
        {"use_rslora": True},
        {"rank_pattern": {"k_proj": 2, "up_proj": 6}},
    ],
    ids=["all", "some_targets", "rslora", "several_ranks"],
)
def test_loss_and_every_gradient_equal_those_of_peft(settings: dict[str, Any]) -> None:
    expected_loss, expected = loss_and_gradients(llama(**settings))
    loss, gradients = loss_and_gradients(fast(**settings))
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert gradients.keys() == expected.keys() and all("lora_" in name for name in gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


def test_gradients_with_dropout_are_those_of_finite_differences() -> None:
    torch.manual_seed(1)
    x_TI = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    dropped = draw_dropped(x_TI, 0.3)
    assert dropped is not None and len(dropped)

    def one_map(outputs: int, rank: int) -> list[torch.Tensor]:
        shapes = [(outputs, 6), (outputs,), (rank, 6), (outputs, rank)]
        tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
        return [*tensors[:2], *(tensor.requires_grad_() for tensor in tensors[2:])]

    maps = [*one_map(4, 2), *one_map(3, 1)]
    scales = [0.7, 2.0]
    assert torch.autograd.gradcheck(FusedLoRA.apply, (x_TI, 1, scales, dropped, *maps))
    other = draw_dropped(x_TI, 0.3)
    assert torch.autograd.gradcheck(FusedLoRA.apply, (x_TI, 2, scales, dropped, other, *maps))


class GivenMask(torch.nn.Module):
    """PEFT's dropout with a mask that is known."""

    def __init__(self, kept: torch.Tensor, p: float) -> None:
        super().__init__()
        self.kept, self.p = kept, p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.kept / (1 - self.p)


def test_with_a_mask_for_each_map_loss_and_gradients_are_those_of_peft_with_these_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p, plain, masks = 0.3, llama(lora_dropout=0.3), []
    torch.manual_seed(5)
    for name, module in plain.named_modules():  # in the order in which they are called
        if name.rsplit(".", 1)[-1] in TARGETS:
            masks.append(torch.rand(*IDS.shape, module.in_features) >= p)
            module.lora_dropout["default"] = GivenMask(masks[-1], p)
    assert len(masks) == 7 * LAYERS

    def given(x_TI: torch.Tensor, _p: float) -> torch.Tensor:
        return torch.nonzero(~masks.pop(0).reshape(-1)).squeeze(1)

    monkeypatch.setattr(fused_lora, "draw_dropped", given)
    expected_loss, expected = loss_and_gradients(plain)
    loss, gradients = loss_and_gradients(fast(lora_dropout=p, mask_per_map=True))
    assert not masks
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mask_per_map", [False, True])
def test_recomputed_activations_give_the_same_gradients_under_dropout(mask_per_map: bool) -> None:
    def gradients(recompute: bool) -> dict[str, torch.Tensor]:
        model = fast(lora_dropout=0.2, mask_per_map=mask_per_map)
        if recompute:
            recompute_layers(model)
        torch.manual_seed(3)
        return loss_and_gradients(model)[1]

    expected, found = gradients(False), gradients(True)
    for name, gradient in found.items():  # the order of sums differs, the masks must not
        torch.testing.assert_close(gradient, expected[name], rtol=1e-12, atol=1e-15)


def test_autocast_gives_the_gradients_of_peft_to_the_rounding_of_bf16() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        expected_loss, expected = loss_and_gradients(llama(torch.float32))
        loss, gradients = loss_and_gradients(fast(torch.float32))
    assert loss == pytest.approx(expected_loss, rel=1e-2)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert (gradient - expected[name]).norm() <= 0.03 * expected[name].norm()


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 0.9])
def test_each_element_is_dropped_with_its_probability_whatever_happened_to_its_neighbour(
    p: float,
) -> None:
    torch.manual_seed(0)
    n, rounds = 400_001, 5
    for _ in range(rounds):
        places = draw_dropped(torch.empty(n), p)
        assert places is not None
        mask = torch.zeros(n, dtype=torch.bool)
        mask[places] = True
        for share in (
            mask.float().mean(),
            mask[: n // 9].float().mean(),
            mask[-n // 9 :].float().mean(),
        ):
            assert abs(float(share) - p) < 5 * math.sqrt(
                p * (1 - p) / (n // 9)
            )  # 5 sigma of a binomial
        for distance in (1, 2, 7):
            pairs = int((mask[distance:] & mask[:-distance]).sum())
            assert abs(pairs - n * p * p) < 6 * math.sqrt(n * p * p) + 6 * n * p * math.sqrt(p / n)


def test_elements_of_a_small_input_are_dropped_equally_often_and_independently() -> None:
    torch.manual_seed(0)
    n, p, draws = 7, 0.3, 20_000
    hits_DN = torch.zeros(draws, n)
    for hit_N in hits_DN:
        hit_N[draw_dropped(torch.empty(n), p)] = 1
    variance = p * (1 - p)
    mean_error = (variance / draws) ** 0.5
    assert float((hits_DN.mean(0) - p).abs().max()) < 5 * mean_error
    covariance_NN = (hits_DN - p).T @ (hits_DN - p) / draws
    unequal = ~torch.eye(n, dtype=torch.bool)
    assert float(covariance_NN[unequal].abs().max()) < 5 * variance / draws**0.5
    assert draw_dropped(torch.empty(n), 0.0) is None


def test_dropout_keeps_the_mean_of_the_adapters_update() -> None:
    """Against PEFT in evaluation: the mean of many masked updates is the update without a mask."""
    model = fast(lora_dropout=0.4)
    layer: Any = model.get_submodule("base_model.model.model.layers.0.mlp.down_proj")
    torch.manual_seed(0)
    x_TI = torch.randn(6, 48, dtype=torch.float64)
    with torch.no_grad():
        updates = torch.stack([layer(x_TI) - layer.base_layer(x_TI) for _ in range(20_000)])
        expected = layer.eval()(x_TI) - layer.base_layer(x_TI)
    error = (updates.mean(0) - expected).abs() / (updates.std(0) / math.sqrt(len(updates)))
    assert float(error.max()) < 5


def count_products(model: PeftModel) -> dict[str, int]:
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as trace:
        loss_and_gradients(model)
    names = [event.name for event in trace.events()]
    return {name: names.count(name) for name in ("aten::mm", "aten::addmm_", "FusedLoRA")}


def test_a_block_has_one_node_for_each_input_and_no_product_for_a_frozen_weights_gradient() -> None:
    model = fast(torch.float32)
    for module in model.modules():  # biases would hide in other operations
        if isinstance(module, FusedLoraLinear):
            module.base_layer.bias = None
    counts = count_products(model)
    assert counts["FusedLoRA"] == 4 * LAYERS  # inputs of q k v, of o, of gate and up, of down
    # In a block: forward 7 base, 4 with A; backward 7 with B, 4 for A, 7 for B, 4 with A. Of the
    # input's gradient, 7 with W, the first block has but 4: nothing before it is trained. The
    # model's head adds its output and its input's gradient.
    assert counts["aten::mm"] == 33 * LAYERS - 1 + 2
    assert counts["aten::addmm_"] == (7 + 7) * LAYERS - 3


def test_evaluation_merging_and_disabled_adapters_are_left_to_peft() -> None:
    torch.manual_seed(0)
    model, plain = fast(lora_dropout=0.5).eval(), llama(lora_dropout=0.5).eval()
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, plain(IDS).logits)
        with model.disable_adapter(), plain.disable_adapter():
            assert torch.equal(model.train()(IDS).logits, plain.train()(IDS).logits)
        merged, expected = model.merge_and_unload(), plain.merge_and_unload()
        assert torch.equal(merged.eval()(IDS).logits, expected.eval()(IDS).logits)


def test_variants_such_as_dora_keep_their_own_forward() -> None:
    model = fast(use_dora=True)
    maps = [module for module in model.modules() if isinstance(module, FusedLoraLinear)]
    assert maps and all(module.group is None for module in maps)


def test_an_adapter_is_saved_as_peft_saves_it(tmp_path: Path) -> None:
    fast().save_pretrained(tmp_path / "fast")
    llama().save_pretrained(tmp_path / "plain")
    found, expected = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("fast", "plain")
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    config = (tmp_path / "fast" / "adapter_config.json").read_text()
    assert config == (tmp_path / "plain" / "adapter_config.json").read_text()
