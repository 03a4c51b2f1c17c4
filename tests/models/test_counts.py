"""Parameter counts against the published ones, computed without any weights."""

import pytest
from transformers import LlamaConfig

from lvf.config.compose import compose
from lvf.config.schema import MethodConfig
from lvf.models.counts import num_lora_parameters, num_parameters, train_flops_per_token

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
