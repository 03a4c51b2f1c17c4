"""The loss in chunks is the loss of whole logits: same value, same gradients, less memory."""

import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Olmo2Config,
    PretrainedConfig,
    Qwen3Config,
)

from lvf.config.schema import IGNORED_LABEL
from lvf.models.packed import NAME, Layout
from lvf.models.token_loss import LossHead, MeanCrossEntropy, give_loss_in_chunks, mean_loss

VOCABULARY, TOKENS = 61, 40
PREDICTED = torch.randperm(TOKENS - 1, generator=torch.Generator().manual_seed(0))[:23] + 1


def inputs() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    labels = torch.full_like(ids, IGNORED_LABEL)
    labels[0, PREDICTED] = ids[0, PREDICTED]
    labels[0, 0] = 5  # the first token is nobody's next one
    positions, lengths = torch.arange(TOKENS)[None], torch.tensor([TOKENS])
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "num_tokens": lengths}


def packed_loss(model: Any) -> torch.Tensor:
    model.set_attn_implementation(NAME)
    return mean_loss(model, inputs(), Layout.PACKED)


def model_of(config: type[PretrainedConfig], adapted: tuple[str, ...] = (), **options: Any) -> Any:
    """A small model in double precision; the same one at every call."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    settings = {"num_hidden_layers": 1, "num_key_value_heads": 2, "use_cache": False, **shape}
    model = AutoModelForCausalLM.from_config(config(vocab_size=VOCABULARY, **settings, **options))
    model = model.double()
    if not adapted:
        return model
    whole = ["lm_head"] if "lm_head" not in adapted else None
    return get_peft_model(model, LoraConfig(target_modules=adapted, modules_to_save=whole))


def gradients(loss: torch.Tensor, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk_tokens", [1, 7, 1000])
@pytest.mark.parametrize(
    ("settings", "in_chunks"),
    [
        ((LlamaConfig,), True),
        ((Qwen3Config,), True),
        ((Olmo2Config,), True),
        ((LlamaConfig, ("q_proj",)), True),  # with a head that is trained whole
        ((LlamaConfig, ("q_proj", "lm_head")), False),
    ],
    ids=["llama", "qwen3", "olmo2", "trained_head", "adapted_head"],
)
def test_loss_and_gradients_are_those_that_transformers_computes(
    settings: tuple[Any, ...], in_chunks: bool, chunk_tokens: int
) -> None:
    plain, ours = model_of(*settings), model_of(*settings)
    give_loss_in_chunks(ours, chunk_tokens)
    assert any(isinstance(one, LossHead) for one in ours.modules()) == in_chunks
    expected = cross_entropy(
        plain(input_ids=inputs()["input_ids"]).logits[0, :-1], inputs()["labels"][0, 1:]
    )
    loss = packed_loss(ours)
    rel = 1e-12 if in_chunks else 1e-6  # whole logits are taken in fp32
    assert float(loss) == pytest.approx(float(expected), rel=rel)
    found, wanted = gradients(loss, ours), gradients(expected, plain)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e3 * rel, atol=1e-3 * rel)


def test_tied_embeddings_get_both_their_gradients() -> None:
    plain = model_of(LlamaConfig, tie_word_embeddings=True)
    ours = model_of(LlamaConfig, tie_word_embeddings=True)
    give_loss_in_chunks(ours, 4)
    logits = plain(input_ids=inputs()["input_ids"]).logits[0, :-1]
    wanted = gradients(cross_entropy(logits, inputs()["labels"][0, 1:]), plain)
    for name, gradient in gradients(packed_loss(ours), ours).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_finite_differences_and_scale_with_the_loss() -> None:
    torch.manual_seed(0)
    x, w = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 4))
    targets = torch.tensor([0, 3, 3, 1, 2])

    def scaled(*tensors: torch.Tensor) -> torch.Tensor:
        return 0.3 * MeanCrossEntropy.apply(*tensors, targets, 2)

    assert torch.autograd.gradcheck(scaled, (x, w))


def test_bf16_products_change_the_loss_and_gradients_by_their_rounding_only() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(300, 64, requires_grad=True), torch.randn(500, 64, requires_grad=True)
    targets = torch.randint(0, 500, (300,))
    expected = cross_entropy(x @ w.T, targets)
    wanted = torch.autograd.grad(expected, (x, w))
    loss = MeanCrossEntropy.apply(x.bfloat16(), w, targets, 64)
    found = torch.autograd.grad(loss, (x, w))
    assert float(loss) == pytest.approx(float(expected), rel=2e-3)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32 and (one - other).norm() < 0.03 * other.norm()


def test_large_logits_neither_overflow_nor_lose_the_loss() -> None:
    x = torch.tensor([[1e4], [-1e4]])
    loss = MeanCrossEntropy.apply(x, torch.tensor([[1.0], [0.0]]), torch.tensor([1, 1]), 1)
    assert float(loss) == pytest.approx((1e4 + 0) / 2)  # -log p of the far one is the distance


def largest_allocation(chunk_tokens: int) -> int:
    torch.manual_seed(0)
    x = torch.randn(512, 8, requires_grad=True)
    w = torch.randn(3000, 8)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        loss = MeanCrossEntropy.apply(x, w, torch.zeros(512, dtype=torch.long), chunk_tokens)
        loss.backward()
    return max(event.cpu_memory_usage for event in trace.events())


def test_no_more_logits_are_held_than_those_of_a_chunk() -> None:
    bytes_of_logits = 3000 * 4
    assert 512 * bytes_of_logits <= largest_allocation(512) < 2 * 512 * bytes_of_logits
    assert largest_allocation(16) < 2 * 16 * bytes_of_logits


def test_a_frozen_head_gets_no_gradient_and_no_product_for_one() -> None:
    def products(frozen: bool) -> int:
        x, w = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4)
        w.requires_grad_(not frozen)
        targets = torch.zeros(6, dtype=torch.long)
        with profile(activities=[ProfilerActivity.CPU]) as trace:
            MeanCrossEntropy.apply(x, w, targets, 3).backward()
        assert (w.grad is None) == frozen
        return [event.name for event in trace.events()].count("aten::mm")

    assert products(frozen=True) == 2 * 2  # logits and the gradient of x, of two chunks
    assert products(frozen=False) == 2 * 3


def test_without_targets_the_head_gives_logits() -> None:
    plain, ours = model_of(LlamaConfig), model_of(LlamaConfig)
    give_loss_in_chunks(ours, 4)
    packed_loss(ours)
    ids = inputs()["input_ids"]
    ours.set_attn_implementation("sdpa")
    assert torch.equal(ours(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert math.isfinite(float(packed_loss(ours)))
