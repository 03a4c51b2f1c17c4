"""What fits: predicted bytes against those of whole models, and the choices that follow."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.errors import UserError
from lvf.models.layers import recompute_layers
from lvf.models.packed import Layout
from lvf.training.build_model import make_model
from lvf.training.microbatch import (
    ActivationBytes,
    MicrobatchPlan,
    activation_bytes,
    choose,
    choose_microbatch,
    fixed_bytes,
)
from lvf.training.packed_model import PackedModel

CPU = torch.device("cpu")
SHAPE = [
    "model.random_weights=true", "model.shape.hidden_size=128",
    "model.shape.intermediate_size=352", "model.shape.num_hidden_layers=5",
    "model.shape.num_attention_heads=4", "model.shape.num_key_value_heads=4",
    "model.shape.vocab_size=1280",
]  # fmt: skip
GB = 10**9


def paper(*words: str) -> RunConfig:
    return compose("+experiment=code_ift", "scale=paper", *SHAPE, *words)


def one_batch(rows: int, tokens: int) -> dict[str, Tensor]:
    ids = torch.ones(rows, tokens, dtype=torch.long)
    lengths = torch.full((rows,), tokens)
    positions = torch.arange(tokens).expand(rows, -1)
    return {"input_ids": ids, "labels": ids, "position_ids": positions, "num_tokens": lengths}


def counted(model: PackedModel, rows: int, tokens: int) -> int:
    """Brute force: the bytes that the nodes of a whole batch's graph keep."""
    batch = one_batch(rows, tokens)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    loss = model.train()(batch)["loss"]
    nodes: list[Any] = [loss.grad_fn]
    seen, kept = set(), {}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [earlier for earlier, _ in node.next_functions]
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        for one in [*saved, *getattr(node, "saved_tensors", ())]:
            for tensor in one if isinstance(one, tuple) else (one,):
                if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in own:
                    storage = tensor.untyped_storage()
                    kept[storage.data_ptr()] = storage.nbytes()
    return sum(kept.values())


@pytest.mark.parametrize(
    "words",
    [
        ["method=full"],
        ["method=full", "training.precision=fp32"],
        ["method=lora", "method.rank=8"],
        ["method=lora_attention", "method.rank=8"],
        ["method=dora", "method.rank=8"],
        ["method=full", "model=qwen3_8b", "model.shape.head_dim=32"],
        ["method=full", "model=olmo2_7b"],
    ],
    ids=lambda words: " ".join(words),
)
def test_a_few_tokens_and_two_layers_tell_what_a_whole_batch_keeps(words: list[str]) -> None:
    model = make_model(paper(*words))
    kept = activation_bytes(paper(*words), model.layout, CPU)
    whole = 300 * 2 * (kept.layer * 5 + kept.outside) + kept.once
    assert counted(model, rows=2, tokens=300) == pytest.approx(whole, rel=0.02)


def test_counting_draws_no_random_number_of_the_run() -> None:
    cfg = paper("method=lora", "method.rank=8")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    activation_bytes(cfg, Layout.PACKED, CPU)
    assert torch.equal(torch.rand(3), expected)


def test_recomputing_keeps_the_hidden_states_between_layers_and_two_layers_worth() -> None:
    kept = ActivationBytes(layer=1000, outside=50, between=64, once=0, num_layers=10)
    assert kept.row_bytes(7, recompute=True) == 7 * (10 * 64 + 2 * 1000 + 50)
    assert kept.row_bytes(7, recompute=False) == 7 * (10 * 1000 + 1000 + 50)


@pytest.mark.parametrize("method, state", [("full", 12), ("lora", 2)])
def test_weights_gradients_and_state_are_those_of_the_papers_table(method: str, state: int) -> None:
    """Table S14's Lion: 84 GB of 7 B parameters, or 2 bytes each where they are frozen."""
    cfg = paper(f"method={method}", "model.shape.num_hidden_layers=40", "runtime.nproc_per_node=1",
                "runtime.nodes=1", "runtime.loss_chunk_tokens=1",
                *(["method.rank=1"] if method == "lora" else []))  # fmt: skip
    model = make_model(cfg)
    layers = sum(p.numel() for name, p in model.named_parameters() if "layers" in name)
    # Adapters of rank 1 are 2 per cent of these layers; embeddings and logits are beside them.
    assert fixed_bytes(cfg, model, 0) == pytest.approx(layers * state, rel=0.15)


def test_on_several_ranks_lora_holds_its_gradients_again_in_the_buckets_of_ddp(
    tmp_path: Path,
) -> None:
    cfg = paper("method=lora", "method.rank=8", "runtime.nproc_per_node=1", "runtime.nodes=1")
    model = make_model(cfg)
    alone = fixed_bytes(cfg, model, 0)
    cfg.runtime.nodes = 2
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        replica = torch.nn.parallel.DistributedDataParallel(model)
        buckets = replica._get_ddp_logging_data()["bucket_sizes"]
    finally:
        torch.distributed.destroy_process_group()
    assert fixed_bytes(cfg, model, 0) - alone == sum(map(int, buckets.split(",")))


def choice(gigabytes: float, *words: str) -> MicrobatchPlan:
    """What is chosen where rows keep 1 GB, or 0.1 GB when recomputed, and all else is 2 GB."""
    cfg = paper("training.global_batch_size=192", *words)
    token = GB / cfg.training.seq_len
    kept = ActivationBytes(
        token / 40, outside=0, between=round(token * 0.05 / 39), once=0, num_layers=39
    )
    return choose(cfg, kept, 2 * GB, gigabytes * GB)


FULL = ("method=full", "runtime.device_microbatch_size=6")
LORA = ("method=lora", "runtime.device_microbatch_size=6")


@pytest.mark.parametrize(
    "words, gigabytes, expected",
    [
        (
            FULL,
            9.0,
            MicrobatchPlan(6, activation_checkpointing=False),
        ),  # 0.9 of 9 are 8.1: 2, and 6 rows
        (
            FULL,
            8.8,
            MicrobatchPlan(6, activation_checkpointing=True),
        ),  # sharded: rather twice than in more parts
        (
            LORA,
            8.8,
            MicrobatchPlan(3, activation_checkpointing=False),
        ),  # five fit; six are two equal parts
        (LORA, 3.4, MicrobatchPlan(1, activation_checkpointing=False)),
        (LORA, 3.3, MicrobatchPlan(6, activation_checkpointing=True)),
        ((*LORA, "runtime.fsdp_base=true"), 8.8, MicrobatchPlan(6, activation_checkpointing=True)),
        (FULL, 2.6, MicrobatchPlan(3, activation_checkpointing=True)),  # 0.34 GB: three
        (
            ("method=lora", "runtime.device_microbatch_size=null"),
            99.0,
            MicrobatchPlan(6, activation_checkpointing=False),
        ),
        (
            ("method=lora", "runtime.device_microbatch_size=4"),
            99.0,
            MicrobatchPlan(4, activation_checkpointing=False),
        ),  # as asked
    ],
)
def test_activations_are_kept_where_memory_allows_and_else_by_how_the_model_lies(
    words: tuple[str, ...], gigabytes: float, expected: MicrobatchPlan
) -> None:
    assert choice(gigabytes, *words) == expected


@pytest.mark.parametrize("recompute", [False, True])
def test_what_the_configuration_says_is_done_whatever_would_fit(recompute: bool) -> None:
    cfg = paper(*FULL, f"runtime.activation_checkpointing={recompute}", "runtime.nproc_per_node=1")
    cfg.runtime.nodes, cfg.training.seq_len = 1, 1 << 40
    assert choose_microbatch(cfg, make_model(cfg)) == MicrobatchPlan(6, recompute)
    cfg.runtime.activation_checkpointing = None
    with pytest.raises(UserError, match="take more devices"):
        choose_microbatch(cfg, make_model(cfg))


def test_what_cannot_fit_is_refused_with_what_would_help() -> None:
    with pytest.raises(UserError, match="about 2 GB on each device, which has 2 GB: take more dev"):
        choice(2.2, *FULL)


@pytest.mark.parametrize("way", ["full", "lora"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_never_holds_more_than_was_foreseen(way: str, recompute: bool) -> None:
    cfg = paper(f"method={way}", *(["method.rank=8"] if way == "lora" else []))
    cfg.runtime.nodes = cfg.runtime.nproc_per_node = 1
    cfg.runtime.loss_chunk_tokens = 64
    model = make_model(cfg)
    kept = activation_bytes(cfg, model.layout, CPU)
    # Parameters and the optimiser's state are there before; what a step adds is the rest.
    standing = sum(p.nbytes + 4 * p.numel() * p.requires_grad for p in model.parameters())
    foreseen = fixed_bytes(cfg, model, kept.once) - standing + 4 * kept.row_bytes(256, recompute)
    if recompute:
        recompute_layers(model.model)
    batch = one_batch(rows=4, tokens=256)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model.train()(batch)["loss"].backward()
    events = sorted(
        (e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"),
        key=lambda e: e.start_ns(),
    )
    held = max(itertools.accumulate(e.nbytes() for e in events))
    assert 0.5 * foreseen < held < foreseen
