"""Memory and collectives of one training step of a large model on 32 ranks, without its weights.

    python benchmarks/fake_step.py

This process plays rank 0 of a process group that sends nothing, with tensors that have a shape and
no content (torch's own fake process group and fake tensors). lvf's own model, sharding, loss and
optimiser run on them: forward and backward passes, and the update. What is allocated is counted, at
its peak, and so is what each collective moves. Beside it stands what lvf foresees:
`lvf.training.microbatch` for memory, `lvf.planning.scaling` for the collectives.

There is no GPU: a dropout mask is drawn as on a GPU, the kernels' own workspaces and the
allocator's fragments are not seen. Every row is one document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, distributed
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed import device_mesh
from torch.distributed._tools.fake_collectives import CollectiveOp, collective_ops, sync_ops
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.models import fused_lora, packed, token_loss
from lvf.models.load import load_model_config
from lvf.models.packed import Layout
from lvf.models.token_loss import packed_inputs
from lvf.planning.scaling import SHARDED, SHARDED_BASE, WHOLE, traffic
from lvf.planning.shapes import shape_of
from lvf.training.build_model import few_layer_model, in_bf16
from lvf.training.microbatch import MicrobatchPlan, activation_bytes, choose, fixed_bytes
from lvf.training.packed_model import PackedModel
from lvf.training.sharding import AverageAdapterGradients, uses_fsdp
from lvf.training.trainer import make_optimizer, spread_out

DEVICE_BYTES = 80e9
"""Memory of each GPU."""
LLAMA2_70B = (
    "model.name=llama2_70b", "model.path=meta-llama/Llama-2-70b-hf", "model.shape.hidden_size=8192",
    "model.shape.intermediate_size=28672", "model.shape.num_hidden_layers=80",
    "model.shape.num_attention_heads=64", "model.shape.num_key_value_heads=8",
)  # fmt: skip
METHODS = {
    "full": ("method=full",),
    "LoRA r = 16": ("method=lora", "method.rank=16"),
    "LoRA r = 256": ("method=lora", "method.rank=256"),
}
RANKS = ("runtime.nodes=4", "runtime.nproc_per_node=8")


@dataclass(frozen=True)
class Measured:
    """What a step took, and what lvf foresaw."""

    plan: MicrobatchPlan
    microbatches: int
    peak: int
    """Bytes that a rank holds at once, at most."""
    foreseen: float
    calls: Counter[str]
    """How often each collective is called in a step."""
    moved: Counter[str]
    """Bytes of the whole tensors that each gathers, scatters or sums in a step."""
    foreseen_moved: dict[str, float]


class Watch(TorchDispatchMode):
    """Counts the bytes of all storages that live, and what collectives move."""

    def __init__(self) -> None:
        """Nothing is allocated yet."""
        super().__init__()
        self.live = 0
        self._sizes = WeakIdKeyDictionary()
        self.start()

    def start(self) -> None:
        """Forget what was, but not what lives."""
        self.peak = self.live
        self.calls: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and look at what it returns."""
        if any(issubclass(one, DTensor) for one in types):
            return NotImplemented  # its local tensor comes next
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.note, result)
        if func in collective_ops - sync_ops:
            name = func.__name__.split(".")[0].strip("_")
            self.calls[name] += 1
            self.moved[name] += CollectiveOp.get_comm_tensor_size(func, result, args, kwargs)
        return result

    def note(self, tensor: Tensor) -> None:
        """Count a tensor's storage as it now is."""
        self.note_storage(getattr(tensor, "_local_tensor", tensor).untyped_storage())

    def note_storage(self, storage: torch.UntypedStorage) -> None:
        """Count the difference to the size that a storage had."""
        counted = self._sizes.get(storage)
        if counted is None:
            counted = self._sizes[storage] = _Counted(self)
        self.live += storage.nbytes() - counted.size
        counted.size = storage.nbytes()
        self.peak = max(self.peak, self.live)


class _Counted:
    """Bytes of a storage, given back when it dies."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.size = watch, 0

    def __del__(self) -> None:
        self.watch.live -= self.size


@contextmanager
def pretended(num_ranks: int) -> Iterator[FakeTensorMode]:
    """A process group and tensors that are none; where kernels differ, those of a GPU.

    What depends on the content of tensors (where documents end, how many tokens predict) is
    computed from content that is made up: every row is one document whose tokens all predict.
    """

    def mask(x: Tensor, p: float) -> Tensor:
        return torch.empty_like(x, dtype=torch.bool).bernoulli_(p)

    def flash(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, **_others: Any) -> Tensor:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
        q, k, v = (one.to(kind) for one in (q, k, v))
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]

    def filled(batch: dict[str, Tensor]) -> Any:
        shape = batch["input_ids"].shape
        with unset_fake_temporarily():
            known = packed_inputs(full_rows(*shape))
        return tree_map_only(Tensor, mode.from_tensor, known)

    def real_mesh(*words: Any) -> Any:  # it holds the numbers of ranks
        with unset_fake_temporarily():
            return init_device_mesh(*words)

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    try:
        with (
            patch.object(fused_lora, "draw_dropped", mask),
            patch.object(packed, "scaled_dot_product_attention", flash),
            patch.object(token_loss, "packed_inputs", filled),
            patch.object(device_mesh, "init_device_mesh", real_mesh),
            mode,
        ):
            yield mode
    finally:
        distributed.destroy_process_group()


def full_rows(num_rows: int, num_tokens: int) -> dict[str, Tensor]:
    """A batch without padding whose rows are a document each."""
    ids = torch.zeros(num_rows, num_tokens, dtype=torch.long)
    return {
        "input_ids": ids,
        "labels": ids,
        "position_ids": torch.arange(num_tokens).expand(num_rows, -1),
        "num_tokens": torch.full((num_rows,), num_tokens),
    }


def measure(cfg: RunConfig, plan: MicrobatchPlan | None = None) -> Measured:
    """A step of rank 0 of the run's ranks; its plan is what lvf chooses unless it is given."""
    with pretended(cfg.runtime.world_size):
        kept = activation_bytes(cfg, Layout.PACKED, torch.device("cpu"))
        model = whole_model(cfg)
        fixed = fixed_bytes(cfg, model, kept.once)
        plan = plan or choose(cfg, kept, fixed, DEVICE_BYTES)
        rows = plan.device_microbatch_size
        microbatches = cfg.training.global_batch_size // cfg.runtime.world_size // rows
        watch = run_step(cfg, model, plan, microbatches)
    return Measured(
        plan=plan,
        microbatches=microbatches,
        peak=watch.peak,
        foreseen=fixed + rows * kept.row_bytes(cfg.training.seq_len, plan.activation_checkpointing),
        calls=watch.calls,
        moved=watch.moved,
        foreseen_moved=foreseen_traffic(cfg, microbatches),
    )


def whole_model(cfg: RunConfig) -> PackedModel:
    """What the run trains."""
    model = few_layer_model(cfg, Layout.PACKED, load_model_config(cfg.model).num_hidden_layers)
    wrapped = PackedModel(model, None)
    wrapped.in_bf16, wrapped.layout = in_bf16(cfg), Layout.PACKED
    return wrapped


def run_step(cfg: RunConfig, model: PackedModel, plan: MicrobatchPlan, microbatches: int) -> Watch:
    """Two optimiser steps; the optimiser has its state from the second on, which is counted."""
    spread_out(model, cfg, plan.activation_checkpointing)
    optimizer = make_optimizer(cfg, model)
    trained: Any = model
    if not uses_fsdp(cfg):  # as Composer does
        trained = DistributedDataParallel(model)
    watch = Watch()

    def resize(storage: torch.UntypedStorage, size: int) -> None:
        own_resize(storage, size)
        watch.note_storage(storage)

    own_resize = torch.UntypedStorage.resize_
    with patch.object(torch.UntypedStorage, "resize_", resize), watch:
        for one in (*model.parameters(), *model.buffers()):
            watch.note(one)
        average: Any = AverageAdapterGradients()
        state = SimpleNamespace(model=model)
        batch = full_rows(plan.device_microbatch_size, cfg.training.seq_len)
        for _ in range(2):
            watch.start()
            for _ in range(microbatches):
                (trained(batch)["loss"] / microbatches).backward()
                if uses_fsdp(cfg) and cfg.method.kind == "lora":
                    average.after_backward(state, None)
            optimizer.step()
            optimizer.zero_grad()
    return watch


def foreseen_traffic(cfg: RunConfig, microbatches: int) -> dict[str, float]:
    """Bytes that the planner thinks are moved in a step."""
    shape = shape_of(cfg.model)
    assert shape is not None
    full, sharded = cfg.method.kind == "full", uses_fsdp(cfg)
    what = traffic(cfg, shape, SHARDED if full else SHARDED_BASE if sharded else WHOLE)
    return {
        "allgather": microbatches * (what.gathered_forward + what.gathered_backward),
        "reduce_scatter": microbatches * what.scattered,
        "allreduce": (microbatches if sharded else 1) * what.summed,
    }


def main() -> None:
    """Print the table."""
    print(
        "| model | method | rows at once, microbatches | held, GB | foreseen | all-gather, GB "
        "(calls) | foreseen | reduce-scatter | foreseen | all-reduce | foreseen |\n"
        + "|---" * 11
        + "|"
    )
    for name, shape, sharded in (("7B", (), False), ("70B", LLAMA2_70B, True)):
        for method, words in METHODS.items():
            base = ("runtime.fsdp_base=true",) if sharded and method != "full" else ()
            cfg = compose("+experiment=code_cpt", "scale=paper", *RANKS, *shape, *words, *base,
                          "model.random_weights=true")  # fmt: skip
            print_row(name, method, measure(cfg))


def print_row(name: str, method: str, found: Measured) -> None:
    """Print a row of the table."""
    again = ", recomputed" if found.plan.activation_checkpointing else ""
    cells = [name, method]
    cells.append(f"{found.plan.device_microbatch_size}, {found.microbatches}{again}")
    cells += [f"{found.peak / 1e9:.1f}", f"{found.foreseen / 1e9:.1f}"]
    for key, foreseen in found.foreseen_moved.items():
        keys = [one for one in found.moved if key in one]
        moved, calls = (sum(one[k] for k in keys) for one in (found.moved, found.calls))
        cells += [f"{moved / 1e9:.1f} ({calls})" if calls else "0", f"{foreseen / 1e9:.1f}"]
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
