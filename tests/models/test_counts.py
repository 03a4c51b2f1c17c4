"""Parameters against the published numbers, FLOPs against what torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from lvf.config.compose import compose
from lvf.config.schema import MethodConfig
from lvf.models.counts import (
    attention_flops_per_pair,
    num_lora_parameters,
    num_parameters,
    train_flops_per_token,
)
from lvf.models.lora import add_adapters
from tests.models.architectures import tiny_model

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLAMA2_7B = LlamaConfig(
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    vocab_size=32000,
    tie_word_embeddings=False,
)
ATTENTION, MLP = ALL_LINEAR[:4], ALL_LINEAR[4:]

# PAPER facts, section 1.6: rank -> (all, attention only, MLP only, all without gate)
PUBLISHED = {
    8: (19_988_480, 8_388_608, 11_599_872, 16_121_856),
    16: (39_976_960, 16_777_216, 23_199_744, 32_243_712),
    64: (159_907_840, 67_108_864, 92_798_976, 128_974_848),
    256: (639_631_360, 268_435_456, 371_195_904, 515_899_392),
}


def test_llama2_7b_has_its_published_number_of_parameters() -> None:
    assert num_parameters(LLAMA2_7B) == 6_738_415_616


@pytest.mark.parametrize("rank", PUBLISHED)
def test_lora_on_llama2_7b_trains_the_published_number_of_parameters(rank: int) -> None:
    without_gate = [name for name in ALL_LINEAR if name != "gate_proj"]
    sets = (ALL_LINEAR, ATTENTION, MLP, without_gate)
    assert tuple(num_lora_parameters(LLAMA2_7B, rank, one) for one in sets) == PUBLISHED[rank]


def test_the_arithmetic_of_lora_is_two_thirds_of_that_of_full_finetuning() -> None:
    full = train_flops_per_token(LLAMA2_7B, MethodConfig(name="full", kind="full"))
    lora = compose("method=lora_r16").method
    in_products = 6_738_415_616 - 32000 * 4096 - 65 * 4096  # but for the embedding and the norms
    assert full == 6 * in_products
    assert train_flops_per_token(LLAMA2_7B, lora) == 4 * in_products + 6 * 39_976_960


def counted_flops(model: torch.nn.Module, num_tokens: int) -> int:
    """What torch counts in a training step on one row, of which eager attention masks nothing."""
    ids = torch.randint(3, 64, (1, num_tokens), generator=torch.Generator().manual_seed(0))
    model.train().zero_grad()
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("model_type", ["olmoe", "mixtral", "qwen3_moe", "gpt_oss", "granitemoe"])
def test_of_experts_those_count_that_a_token_passes_through(model_type: str) -> None:
    torch.manual_seed(0)
    model = tiny_model(model_type)
    model.config._experts_implementation = "eager"
    config, full = model.config, MethodConfig(name="full", kind="full")
    expected = 16 * train_flops_per_token(config, full)
    expected += 16 * 16 * attention_flops_per_pair(config)
    angles = 2 * 16 * 16  # of rotary embeddings, which some versions make by a product
    assert counted_flops(model, 16) == pytest.approx(expected, abs=angles)
    one = train_flops_per_token(tiny_model(model_type, num_experts_per_tok=1).config, full)
    assert one < train_flops_per_token(config, full) < 6 * num_parameters(config)


SMALL = LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    vocab_size=64, tie_word_embeddings=False, attn_implementation="eager",
)  # fmt: skip


@pytest.mark.parametrize("name", ["lora", "oft", "vera", "miss", "shira", "ia3"])
def test_the_flops_of_adapters_are_those_that_torch_counts(name: str) -> None:
    method = compose(f"method={name}").method
    torch.manual_seed(0)
    model = add_adapters(LlamaForCausalLM(SMALL), method)
    model.get_input_embeddings().weight.requires_grad_()  # so that the first layer is as the others
    few, many = (counted_flops(model, num_tokens) for num_tokens in (16, 48))
    pairs = (48 * 48 - 16 * 16) * attention_flops_per_pair(SMALL)  # eager attention, masked too
    per_token = (many - few - pairs) / (48 - 16)
    assert per_token == pytest.approx(train_flops_per_token(SMALL, method), rel=1e-3)
