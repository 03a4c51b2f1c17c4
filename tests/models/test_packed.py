"""Packed batches without padding: each token sees what it sees in its example alone."""

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lvf.data.loader import collate
from lvf.data.packing import Row
from lvf.models.packed import NAME, find_documents, unpad

SEQ_LEN = 24


def row(lengths: list[int], seed: int) -> dict[str, np.ndarray]:
    """A packed row of random examples whose second half is to be learnt."""
    random = np.random.default_rng(seed)
    packed = Row(SEQ_LEN)
    for length in lengths:
        packed.place(random.integers(1, 50, length), np.arange(length) >= length // 2)
    names = ("input_ids", "loss_mask", "segment_ids")
    return {name: np.array(getattr(packed, name)) for name in names}


ROWS = [row([9, 1, 5], 0), row([SEQ_LEN], 1), row([3], 2), row([2, 2, 17], 3)]


def llama(key_heads: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        vocab_size=50,
        use_cache=False,
    )
    return LlamaForCausalLM(config).double()


def alone(rows: list[dict[str, np.ndarray]], across: bool) -> list[tuple[torch.Tensor, ...]]:
    """Ids and labels of each example (of each row, if examples see each other) by itself."""
    found = []
    for one in rows:
        segments = one["segment_ids"]
        masks = [segments > 0] if across else [segments == i for i in range(1, segments.max() + 1)]
        for mask in masks:
            ids = torch.from_numpy(one["input_ids"][mask].astype(np.int64))
            labels = torch.where(torch.from_numpy(one["loss_mask"][mask]), ids, -100)
            found.append((ids[None], labels[None]))
    return found


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_logits_and_gradients_are_those_of_the_examples_alone(across: bool, key_heads: int) -> None:
    packed, plain = llama(key_heads), llama(key_heads)
    packed.set_attn_implementation(NAME)
    output = packed(**unpad(collate(ROWS, attend_across=across)))
    output.loss.backward()

    examples = alone(ROWS, across)
    expected = [plain(ids).logits[0] for ids, _ in examples]
    torch.testing.assert_close(output.logits[0], torch.cat(expected), rtol=1e-10, atol=1e-12)
    losses = [
        torch.nn.functional.cross_entropy(logits[:-1], labels[0, 1:], reduction="sum")
        for logits, (_, labels) in zip(expected, examples, strict=True)
    ]
    num_predicted = sum(int((labels[:, 1:] != -100).sum()) for _, labels in examples)
    loss = sum(losses) / num_predicted
    assert float(output.loss) == pytest.approx(float(loss), rel=1e-6)  # transformers: in fp32
    loss.backward()
    for one, other in zip(packed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)


def test_no_place_of_a_batch_is_padding_and_few_are_repeated() -> None:
    lengths = [1, 2, 3, 4, 5, 8, 9, 100]
    positions = torch.cat([torch.arange(length) for length in lengths])
    segments = find_documents(positions)
    place = 0
    ends_at = torch.tensor(lengths).cumsum(0)
    found = []
    for num, longest in segments.shapes:
        for _ in range(num):
            row = segments.tokens[place : place + longest]
            end = int(row[-1])
            length = lengths[int((ends_at == end + 1).nonzero())]
            assert longest < 2 * length or num == 1
            first = list(range(end + 1 - length, end + 1))
            assert row.tolist() == first + [end] * (longest - length)
            assert segments.places[first].tolist() == list(range(place, place + length))
            empty = set(range(place, place + longest)) & set(segments.empty.tolist())
            assert empty == set(range(place + length, place + longest))
            place += longest
            found.append(length)
    assert place == len(segments.tokens) and sorted(found) == lengths
    batch = unpad(collate(ROWS))
    assert batch["input_ids"].shape == (1, 9 + 1 + 5 + SEQ_LEN + 3 + 2 + 2 + 17)


def test_attention_dropout_drops_its_share_of_weights() -> None:
    model = llama(4).train()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.set_attn_implementation(NAME)
    batch = unpad(collate([row([SEQ_LEN], 1)]))
    outputs = torch.stack([model(**batch).logits[0, 0] for _ in range(64)])
    # The first token sees itself alone: its one weight is dropped or doubled, in each layer.
    distinct = {tuple(output.tolist()) for output in outputs}
    assert 2 <= len(distinct) <= (2**4) ** 2
    assert math.isfinite(float(outputs.sum()))
