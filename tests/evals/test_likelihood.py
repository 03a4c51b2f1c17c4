"""Likelihoods agree with a model that is asked for one token at a time."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from lvf.evals.likelihood import cka_with_base, kl_from_base, nll, ratio_metrics

PAIRS = [
    ("Question: the red cup\nAnswer:", " the old lamp"),
    ("Question: a tall tower costs 7\nAnswer:", " 7 + 11 = 18\n#### 18"),
    ("Q:", " x"),
    ("the blue river\n", "the cold stone and the warm garden and the small box " * 3),
]


def brute_force(model: Any, tokenizer: Any, pair: tuple[str, str], seq_len: int) -> list[float]:
    """Nats of each response token and the end, the context restarting every seq_len inputs."""
    prompt, response = (tokenizer(text)["input_ids"] for text in pair)
    ids = prompt + response + [tokenizer.eos_token_id]
    assert tokenizer("".join(pair))["input_ids"] == prompt + response  # no token spans the seam
    nats = []
    for target in range(max(1, len(prompt)), len(ids)):
        start = (target - 1) // seq_len * seq_len
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:target]])).logits[0, -1]
        nats.append(-logits.double().log_softmax(0)[ids[target]].item())
    return nats


@pytest.mark.parametrize("seq_len", [8, 1024])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_nats_and_token_counts_agree_with_brute_force(
    model: Any, tokenizer: Any, seq_len: int, batch_size: int
) -> None:
    metrics = nll(model, tokenizer, PAIRS, seq_len, batch_size)
    truth = [brute_force(model, tokenizer, pair, seq_len) for pair in PAIRS]
    assert metrics["tokens"].items == [len(nats) for nats in truth]
    assert metrics["nll_per_token"].items == pytest.approx(
        [sum(nats) / len(nats) for nats in truth], rel=1e-5
    )
    everything = sum(truth, [])
    assert metrics["nll_per_token"].value == pytest.approx(np.mean(everything), rel=1e-5)
    assert metrics["nll_per_token"].n == len(PAIRS)


def test_running_text_is_scored_from_its_second_token_on(model: Any, tokenizer: Any) -> None:
    pair = ("", "the red cup and the blue lamp")
    metrics = nll(model, tokenizer, [pair], 1024, 1)
    truth = brute_force(model, tokenizer, pair, 1024)
    assert metrics["tokens"].value == len(truth) == len(tokenizer(pair[1])["input_ids"])
    assert metrics["nll_per_token"].value == pytest.approx(np.mean(truth), rel=1e-5)


def test_stderr_of_documents_of_one_length_is_that_of_their_mean() -> None:
    nats = np.array([3.0, 5.0, 4.0, 9.0])
    metrics = ratio_metrics("nll_per_token", "tokens", nats, np.full(4, 2))
    assert metrics["nll_per_token"].stderr == pytest.approx(np.std(nats / 2, ddof=1) / math.sqrt(4))


def test_stderr_of_documents_of_many_lengths_is_near_the_jackknife() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 200, size=400)
    nats = tokens * rng.normal(1.5, 0.3, size=400)
    left_out = (nats.sum() - nats) / (tokens.sum() - tokens)
    jackknife = math.sqrt(399 / 400 * ((left_out - left_out.mean()) ** 2).sum())
    stderr = ratio_metrics("nll_per_token", "tokens", nats, tokens)["nll_per_token"].stderr
    assert stderr == pytest.approx(jackknife, rel=0.02)


def test_one_document_has_no_stderr() -> None:
    assert ratio_metrics("x", "tokens", np.array([3.0]), np.array([2]))["x"].stderr is None


@pytest.fixture(scope="module")
def other(model: Any) -> Any:
    """The model with other weights."""
    changed = copy.deepcopy(model)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in changed.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return changed


@pytest.mark.parametrize(("seq_len", "batch_size"), [(1024, 3), (8, 2)])
def test_the_divergence_is_the_expected_log_ratio_under_the_base(
    model: Any, other: Any, tokenizer: Any, seq_len: int, batch_size: int
) -> None:
    metrics = kl_from_base(other, model, tokenizer, PAIRS, seq_len, batch_size)
    whole, responses = [], []
    for pair in PAIRS:
        prompt, response = (tokenizer(text)["input_ids"] for text in pair)
        ids = [*prompt, *response, tokenizer.eos_token_id]
        nats = []
        for target in range(1, len(ids)):
            start = (target - 1) // seq_len * seq_len
            with torch.no_grad():
                p, q = (one(torch.tensor([ids[start:target]])).logits[0, -1].double().softmax(0)
                        for one in (model, other))  # fmt: skip
            nats.append(sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q)))  # noqa: B905
        whole.append(nats)
        responses.append(nats[len(prompt) - 1 :])
    for name, count, truth in (
        ("kl_per_token", "tokens", whole),
        ("kl_response_per_token", "response_tokens", responses),
    ):
        assert metrics[count].items == [len(nats) for nats in truth]
        assert metrics[name].items == pytest.approx([np.mean(nats) for nats in truth], rel=1e-4)
        assert metrics[name].value == pytest.approx(np.mean(sum(truth, [])), rel=1e-4)
    assert metrics["kl_per_token"].value > 0.001


def test_a_model_does_not_diverge_from_itself(model: Any, tokenizer: Any) -> None:
    metrics = kl_from_base(model, model, tokenizer, PAIRS, 1024, 2)
    assert metrics["kl_per_token"].items == [0.0] * len(PAIRS)


def test_bits_per_byte_are_the_nats_over_the_bytes_of_the_responses(
    model: Any, tokenizer: Any
) -> None:
    metrics = nll(model, tokenizer, [("What?", " 15 £ é"), ("", "the red cup")], 1024, 2)
    nats = metrics["nll_per_token"].value * metrics["tokens"].value
    assert metrics["bytes"].value == 9 + 11  # £ and é take two bytes
    assert metrics["bits_per_byte"].value == pytest.approx(nats / math.log(2) / 20)


def test_without_the_end_of_text_only_the_text_is_scored(model: Any, tokenizer: Any) -> None:
    text = "the red cup and the blue river"
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        log_p = model(ids).logits[0, :-1].log_softmax(-1)
    expected = -log_p.gather(1, ids[0, 1:, None]).sum()
    metrics = nll(model, tokenizer, [("", text)], 1024, 1, with_end=False)
    assert metrics["tokens"].value == ids.shape[1] - 1
    assert metrics["nll_per_token"].value == pytest.approx(float(expected) / (ids.shape[1] - 1))


@pytest.mark.parametrize(("seq_len", "batch_size"), [(1024, 3), (8, 2)])
def test_cka_is_the_alignment_of_the_centred_kernels(
    model: Any, other: Any, tokenizer: Any, seq_len: int, batch_size: int
) -> None:
    metrics = cka_with_base(other, model, tokenizer, PAIRS, seq_len, batch_size)
    states: list[list[Any]] = [[], []]
    for pair in PAIRS:
        prompt, response = (tokenizer(text)["input_ids"] for text in pair)
        inputs = [*prompt, *response]  # the end of the text is only predicted
        for start in range(0, len(inputs), seq_len):
            window = torch.tensor([inputs[start : start + seq_len]])
            for one, found in zip((model, other), states, strict=True):
                with torch.no_grad():
                    found.append(one(window, output_hidden_states=True).hidden_states[-1][0])
    kernels = []
    for found in states:
        rows = torch.cat(found).double()
        centring = torch.eye(len(rows), dtype=torch.float64) - 1 / len(rows)
        kernels.append(centring @ (rows @ rows.T) @ centring)
    k, m = kernels
    truth = float((k * m).sum() / (k.norm() * m.norm()))
    assert metrics["cka"].value == pytest.approx(truth, rel=1e-5)
    assert metrics["cka"].n == len(k)
    assert 0 < truth < 0.999


def test_cka_with_itself_is_1(model: Any, tokenizer: Any) -> None:
    metrics = cka_with_base(model, model, tokenizer, PAIRS, 1024, 2)
    assert metrics["cka"].value == pytest.approx(1.0, abs=1e-12)
