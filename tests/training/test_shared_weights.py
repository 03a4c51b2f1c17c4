"""Rank 0 reads the base; the other ranks get its weights, and need no memory for a second copy."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from composer.devices import DeviceCPU
from composer.utils import dist
from torch import nn

from benchmarks.forked_ranks import start_ranks
from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.training.build_model import make_model
from lvf.training.memory import PeakMemory
from lvf.training.shared_weights import check_same_structure, receive
from lvf.training.trainer import spread_out

MB = 1 << 20


def on_two_ranks(work: Any) -> None:
    def joined() -> None:
        dist.initialize_dist("cpu")
        work()

    start_ranks(2, joined).end_with([0, 0])


@pytest.fixture(scope="module")
def of_200_mb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 50 million parameters, 8 layers of 24 MB and little else."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from lvf.models.load import load_tokenizer

    folder = tmp_path_factory.mktemp("model") / "base"
    tokenizer = load_tokenizer(compose().model)
    config = LlamaConfig(
        hidden_size=768, intermediate_size=1792, num_hidden_layers=8, num_attention_heads=12,
        num_key_value_heads=12, vocab_size=len(tokenizer), max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config_of(folder: Path, *words: str) -> RunConfig:
    return compose(
        "+experiment=math_ift", f"model.path={folder}", "runtime.nproc_per_node=2", *words
    )


@pytest.mark.parametrize(
    ("words", "most_copies"),
    [
        (["method=full"], 0.7),  # its half, and a layer
        (["method=lora", "runtime.fsdp_base=true"], 0.7),
        (["method=lora"], 1.15),  # its own replica
    ],
)
def test_a_rank_that_receives_a_model_holds_what_it_keeps_and_one_layer(
    of_200_mb: Path, tmp_path: Path, words: list[str], most_copies: float
) -> None:
    small = compose("+experiment=math_ift", "runtime.nproc_per_node=2", *words)
    cfg = config_of(of_200_mb, *words)

    def build() -> None:
        spread_out(make_model(small), small, False, DeviceCPU())  # loads what libraries need
        memory = PeakMemory()
        model = make_model(cfg)
        spread_out(model, cfg, False, DeviceCPU())
        (tmp_path / os.environ["RANK"]).write_text(str(memory.bytes()))

    on_two_ranks(build)
    size = (of_200_mb / "model.safetensors").stat().st_size
    of_first, of_second = (int((tmp_path / rank).read_text()) for rank in "01")
    print(words, size / MB, of_first / MB, of_second / MB)
    assert of_second < most_copies * size + 30 * MB  # modules of transformers, buffers of gloo


WAYS = {
    "full": ["method=full"],
    "lora": ["method=lora"],
    "lora on a sharded base": ["method=lora", "runtime.fsdp_base=true"],
    "lora in bf16 on a sharded base": [
        "method=lora", "runtime.fsdp_base=true", "training.precision=amp_bf16"
    ],
    "dora": ["method=dora"],
    "pissa": ["method=pissa"],
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_rank_has_the_weights_and_buffers_of_rank_0(way: str, tmp_path: Path) -> None:
    cfg = compose("+experiment=math_ift", *WAYS[way], "runtime.nproc_per_node=2")
    torch.manual_seed(cfg.seed)
    alone = make_model(cfg)

    def build() -> None:
        torch.manual_seed(cfg.seed)
        model = make_model(cfg)
        spread_out(model, cfg, False, DeviceCPU())
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        whole = {name: getattr(t, "full_tensor", lambda t=t: t)() for name, t in tensors.items()}
        torch.save(whole, tmp_path / os.environ["RANK"])

    on_two_ranks(build)
    expected = dict(alone.named_parameters()) | dict(alone.named_buffers())
    for rank in "01":
        found = torch.load(tmp_path / rank)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), (rank, name)


class Tied(nn.Module):
    """Two names for one parameter, a buffer that is not saved, and a type of two bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, dtype=torch.bfloat16)
        self.second = nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
        self.second.weight = self.first.weight
        self.register_buffer("steps", torch.rand(3, 2).T, persistent=False)


def test_what_is_tied_stays_tied_and_frozen_stays_frozen(tmp_path: Path) -> None:
    def share() -> None:
        is_first = os.environ["RANK"] == "0"
        with torch.device("cpu" if is_first else "meta"):
            module = Tied()
        module.first.bias.requires_grad_(False)
        weight = module.first.weight
        receive(module, DeviceCPU())
        assert module.first.weight is weight is module.second.weight
        assert weight.requires_grad and not module.first.bias.requires_grad
        told = [one.tolist() for one in (*module.parameters(), module.steps)]
        (tmp_path / os.environ["RANK"]).write_text(json.dumps(told))

    on_two_ranks(share)
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text()


def test_ranks_that_have_built_different_models_say_so() -> None:
    def build() -> None:
        module = nn.Linear(2, 2 + int(os.environ["RANK"]))
        if os.environ["RANK"] == "0":
            check_same_structure(module)
            return
        with pytest.raises(RuntimeError, match="rank 1 has built another model than rank 0"):
            check_same_structure(module)

    on_two_ranks(build)


def test_rank_0_alone_reads_the_weights(of_200_mb: Path) -> None:
    cfg = config_of(of_200_mb, "method=full")

    def build() -> None:
        if os.environ["RANK"] == "1":
            cfg.model.path = str(of_200_mb.parent / "without weights")
        spread_out(make_model(cfg), cfg, False, DeviceCPU())

    bare = of_200_mb.parent / "without weights"
    bare.mkdir()
    for file in of_200_mb.iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).write_bytes(file.read_bytes())
    on_two_ranks(build)
