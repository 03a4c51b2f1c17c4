"""Parts of a sharded model on disk, and back on any number of ranks: tied and tiny tensors, too."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from benchmarks.forked_ranks import start_ranks
from lvf.training.sharded_checkpoint import load_sharded, save_sharded
from tests.training.test_ranks import whole


class Tied(nn.Module):
    """Its head is its embedding; with three ranks one has nothing of `short`, and less of all."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.short = nn.Linear(8, 2, bias=False)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids)).square().sum() + self.short.weight.square().sum()


def state_of(world_size: int, seed: int) -> Any:
    """What of Composer's state the parts are made of."""
    torch.manual_seed(seed)
    model = Tied()
    if world_size > 1:
        torch.distributed.init_process_group("gloo")
        fully_shard(model)
    return SimpleNamespace(model=model, optimizers=(torch.optim.AdamW(model.parameters()),))


def step(state: Any) -> None:
    state.model(torch.arange(10)).backward()
    state.optimizers[0].step()
    state.optimizers[0].zero_grad()


def tensors(state: Any) -> list[torch.Tensor]:
    """Whole weights and moments, in the order of the parameters."""
    model, moments = state.model, state.optimizers[0].state
    return [
        whole(tensor)
        for weight in model.parameters()
        for tensor in (weight, moments[weight]["exp_avg"], moments[weight]["exp_avg_sq"])
    ]


@pytest.mark.parametrize(("first", "then"), [(3, 3), (3, 1), (3, 2), (1, 3)])
def test_every_tensor_comes_back_and_a_tied_one_stays_tied(
    tmp_path: Path, first: int, then: int
) -> None:
    def write() -> None:
        state = state_of(first, seed=0)
        step(state)
        save_sharded(state, tmp_path)
        torch.save(tensors(state), tmp_path / "whole.pt")

    def read() -> None:
        state = state_of(then, seed=1)
        load_sharded(state, tmp_path)
        expected, found = torch.load(tmp_path / "whole.pt"), tensors(state)
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
        assert state.model.head.weight is state.model.embedding.weight
        assert state.optimizers[0].state[state.model.head.weight]["step"] == 1

    start_ranks(first, write).end_with([0] * first)
    start_ranks(then, read).end_with([0] * then)
