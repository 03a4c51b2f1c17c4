"""Which matrices get adapters, which ranks they can have, and what a fresh adapter changes."""

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from lvf.config.compose import compose
from lvf.config.schema import MethodConfig
from lvf.errors import UserError
from lvf.models.lora import add_adapters, check_rank, hold_base_in_bf16

CONFIG = LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,  # k_proj and v_proj are 16 x 32: the narrowest
    vocab_size=64,
)


def lora(**settings: object) -> MethodConfig:
    return compose(
        "method=lora", *(f"method.{key}={value}" for key, value in settings.items())
    ).method


def test_a_rank_beyond_the_narrowest_target_is_refused_and_the_largest_possible_is_named() -> None:
    check_rank(CONFIG, lora(rank=16))
    with pytest.raises(UserError, match=r"method.rank=17.*k_proj.*at most 16"):
        check_rank(CONFIG, lora(rank=17))
    check_rank(CONFIG, lora(rank=17, target_modules="[q_proj,up_proj]"))


def test_an_unknown_target_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UserError, match=r"c_attn.*q_proj"):
        check_rank(CONFIG, lora(target_modules="[c_attn]"))


def test_adapters_stand_on_exactly_the_targets_and_all_else_is_frozen() -> None:
    model = add_adapters(
        LlamaForCausalLM(CONFIG), lora(rank=4, target_modules="[q_proj,down_proj]")
    )
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 2  # layers x target_modules x (A, B)
    assert all("lora_" in name for name in trained)
    assert all(any(t in name for t in ("q_proj", "down_proj")) for name in trained)
    assert all(4 in p.shape for p in trained.values())


def test_a_fresh_adapter_changes_nothing_and_alpha_over_rank_scales_its_update() -> None:
    torch.manual_seed(0)
    base = LlamaForCausalLM(CONFIG).eval()
    ids = torch.randint(0, 64, (2, 8))
    with torch.no_grad():
        before = base(ids).logits
        method = lora(rank=4)
        model = add_adapters(base, method).eval()
        assert torch.equal(model(ids).logits, before)
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        layer.lora_B["default"].weight.normal_()
        b, a = layer.lora_B["default"].weight, layer.lora_A["default"].weight
        expected = layer.base_layer.weight + 2.0 * b @ a  # the paper's alpha = 2 rank
        merged = model.merge_and_unload().model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(merged, expected)


def step_under_autocast(name: str, in_bf16: bool) -> tuple[PeftModel, dict[str, torch.Tensor]]:
    """A model of the method of that name with the loss and its adapters' gradients."""
    torch.manual_seed(0)
    method = compose(f"method={name}", "method.rank=4", "method.dropout=0.0").method
    model = add_adapters(LlamaForCausalLM(CONFIG), method)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.1)
    if in_bf16:
        hold_base_in_bf16(model)
    ids = torch.arange(24).reshape(2, 12)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train()(input_ids=ids, labels=ids).loss
    loss.backward()
    found = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    return model, found | {"loss": loss.detach()}


@pytest.mark.parametrize("name", ["lora", "pissa", "lora_embeddings", "dora"])
def test_a_base_in_bf16_changes_no_bit_of_a_loss_or_gradient_under_autocast(name: str) -> None:
    _, expected = step_under_autocast(name, in_bf16=False)
    model, found = step_under_autocast(name, in_bf16=True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    held = {key for key, p in model.named_parameters() if p.dtype == torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    if name == "lora":  # 7 matrices a block and the head
        assert len(held) == 7 * CONFIG.num_hidden_layers + 1
        assert all(key.endswith(("base_layer.weight", "lm_head.weight")) for key in held)
