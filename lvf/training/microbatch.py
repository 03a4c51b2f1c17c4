"""Choose microbatch size and activation checkpointing from a memory estimate.

Activations are what is left of memory beside weights, gradients and the optimiser's state. A row of
4,096 tokens of Llama-2-7B keeps 20 GB, or 2 GB where each layer's forward pass is made again. How
much is asked of the model itself: two of its layers see a few tokens, and what autograd keeps is
counted. So every architecture and method is counted as it is, on the device that it is on.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from composer.utils import dist
from torch import Tensor

from lvf.config.schema import RunConfig
from lvf.errors import UserError
from lvf.models.layers import decoder_layers
from lvf.models.load import load_model_config
from lvf.models.packed import Layout
from lvf.models.token_loss import mean_loss
from lvf.planning.memory import STATE_BYTES, STATE_OF
from lvf.runs.run_folder import is_rank_zero
from lvf.training.build_model import few_layer_model, in_bf16
from lvf.training.packed_model import PackedModel
from lvf.training.sharding import uses_fsdp

USABLE = 0.9
"""Share of a device's memory: kernels, communication and fragments take the rest."""
PROBED_TOKENS = (32, 64)
LOGIT_BYTES = 10
"""Of each logit of a chunk: in bf16 as the product gives it, and two tensors in fp32."""


@dataclass(frozen=True)
class MicrobatchPlan:
    """What a training does with a device's memory."""

    device_microbatch_size: int
    """At once."""
    activation_checkpointing: bool
    """Whether each layer's forward pass is made again for its gradients."""


@dataclass(frozen=True)
class ActivationBytes:
    """Bytes that a forward pass keeps until gradients are taken: for each token, and once."""

    layer: float
    outside: float
    between: int
    """Of the hidden state between two layers."""
    once: float
    """In all layers: copies of weights in bf16, and what DoRA makes of its matrices."""
    num_layers: int

    def row_bytes(self, tokens: int, recompute: bool) -> float:
        """Of a row, and of the layer in which the backward pass works."""
        layers = self.num_layers * (self.between if recompute else self.layer)
        working = (2 if recompute else 1) * self.layer
        return tokens * (layers + working + self.outside)


def choose_microbatch(cfg: RunConfig, model: PackedModel) -> MicrobatchPlan:
    """What the configuration says or, where it leaves that open, what fits; the same on all ranks.

    Every rank calls this, before the model is sharded.

    Raises:
        UserError: not even one row fits.
    """
    wanted = _wanted_rows(cfg)
    if cfg.runtime.activation_checkpointing is not None:
        return MicrobatchPlan(wanted, cfg.runtime.activation_checkpointing)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kept = activation_bytes(cfg, model.layout, device)
    found = choose(cfg, kept, fixed_bytes(cfg, model, kept.once), _device_bytes(cfg))
    rows = found.device_microbatch_size
    if cfg.training.average_loss_over == "microbatches" and rows != wanted:
        raise UserError(
            f"memory for {rows} of {wanted} rows at once, and with training.average_loss_over="
            f"microbatches the result depends on that: set runtime.device_microbatch_size={rows}, "
            "or training.average_loss_over=tokens"
        )
    if is_rank_zero() and found != MicrobatchPlan(wanted, activation_checkpointing=False):
        again = ", each layer's forward pass twice" if found.activation_checkpointing else ""
        print(
            f"memory for {found.device_microbatch_size} of {wanted} rows at once{again}", flush=True
        )
    return found


def choose(cfg: RunConfig, kept: ActivationBytes, fixed: float, device: float) -> MicrobatchPlan:
    """What fits in the bytes of a device beside those that are fixed.

    Activations are kept before they are computed twice. A replicated model takes fewer rows at once
    for that; a sharded one, which travels once for each time it takes some, does not.

    Raises:
        UserError: not even one row fits.
    """
    free, wanted = USABLE * device - fixed, _wanted_rows(cfg)
    least_kept = wanted if uses_fsdp(cfg) else 1
    for least, recompute in ((least_kept, False), (1, True)):
        row = kept.row_bytes(cfg.training.seq_len, recompute)
        most = math.floor(free / row)
        if most >= wanted:
            return MicrobatchPlan(wanted, recompute)
        if most >= least:  # in as few parts as that allows, and equal ones
            share = _share_rows(cfg)
            return MicrobatchPlan(math.ceil(share / math.ceil(share / most)), recompute)
    raise UserError(
        f"training needs about {(fixed + row) / 1e9:.0f} GB on each device, which has "
        f"{device / 1e9:.0f} GB: take more devices (runtime.nproc_per_node, and "
        "runtime.fsdp_base=true for LoRA), shorter rows (training.seq_len), or set "
        "runtime.activation_checkpointing=true to try it all the same"
    )


def _share_rows(cfg: RunConfig) -> int:
    """Rows of a batch that a rank takes, however many at once."""
    return cfg.training.global_batch_size // cfg.runtime.world_size


def _wanted_rows(cfg: RunConfig) -> int:
    share = _share_rows(cfg)
    return min(cfg.runtime.device_microbatch_size or share, share)


def _device_bytes(cfg: RunConfig) -> float:
    """Memory of a device; of a CPU this rank's part. Of the smallest of all ranks."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        own = float(torch.cuda.mem_get_info()[1])
    else:
        own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / cfg.runtime.nproc_per_node
    if cfg.runtime.world_size > 1:
        smallest = torch.tensor(own, dtype=torch.float64, device="cuda" if on_gpu else "cpu")
        dist.all_reduce(smallest, reduce_operation="MIN")
        own = float(smallest)
    return own


def fixed_bytes(cfg: RunConfig, model: PackedModel, kept_once: float) -> float:
    """What a rank holds whatever the rows: weights, gradients, the optimiser's state, logits.

    A model that is sharded has two layers whole at a time instead of `kept_once`, what is outside
    of layers, and the gradients on their way. DDP keeps a copy of all gradients in its buckets.
    """
    state = STATE_OF.get(cfg.optimizer["_target_"], max(STATE_BYTES.values()))
    full, sharded = cfg.method.kind == "full", uses_fsdp(cfg)
    inner: Any = model.model
    held = 0.0
    for one in inner.parameters():
        size = one.nbytes + (one.nbytes + state * one.numel() if one.requires_grad else 0)
        held += size / (cfg.runtime.world_size if sharded and one.requires_grad == full else 1)
    head = inner.get_output_embeddings().weight
    held += LOGIT_BYTES * head.shape[0] * cfg.runtime.loss_chunk_tokens
    if not sharded:
        trained = sum(p.nbytes for p in inner.parameters() if p.requires_grad)
        return held + kept_once + (trained if cfg.runtime.world_size > 1 else 0)
    travelling = 2 if cfg.training.precision == "amp_bf16" else 4
    layers = decoder_layers(inner)
    layer = sum(p.numel() for p in layers[0].parameters())
    outside = sum(p.numel() for p in inner.parameters()) - layer * len(layers)
    gradients = (travelling + 4) * max(layer, outside) + 4 * head.numel() if full else 0
    return held + travelling * 2 * layer + 4 * outside + gradients


def activation_bytes(cfg: RunConfig, layout: Layout, device: torch.device) -> ActivationBytes:
    """Count what autograd keeps of few layers and of twice as many, for few and for more tokens.

    Each kind of layer that the model has is among them. The differences separate what grows with
    tokens or layers from what does not.
    """
    num_layers = load_model_config(cfg.model).num_hidden_layers
    counts, slopes, starts = [], [], []
    for repeats in (1, 2):
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            model = few_layer_model(cfg, layout, repeats).to(device).train()
            few, more = (_kept(cfg, model, layout, tokens) for tokens in PROBED_TOKENS)
        counts.append(model.config.num_hidden_layers)
        slopes.append((more - few) / (PROBED_TOKENS[1] - PROBED_TOKENS[0]))
        starts.append(few - slopes[-1] * PROBED_TOKENS[0])
        hidden_size = model.config.hidden_size
    added = counts[1] - counts[0]
    if not added:  # so few that all are counted already; what is outside counts as theirs
        return ActivationBytes(slopes[0] / num_layers, 0.0, 4 * hidden_size, starts[0], num_layers)
    layer = (slopes[1] - slopes[0]) / added
    return ActivationBytes(
        layer=layer,
        outside=max(slopes[0] - counts[0] * layer, 0.0),
        between=4 * hidden_size,
        once=starts[0] + (num_layers - counts[0]) * (starts[1] - starts[0]) / added,
        num_layers=num_layers,
    )


def _kept(cfg: RunConfig, model: Any, layout: Layout, num_tokens: int) -> int:
    """Bytes of all storages that a forward pass of one row keeps; parameters' own are not new."""
    device = next(model.parameters()).device
    ids = torch.zeros(1, num_tokens, dtype=torch.long, device=device)
    batch = {
        "input_ids": ids,
        "labels": ids,
        "position_ids": torch.arange(num_tokens, device=device)[None],
        "num_tokens": torch.tensor([num_tokens], device=device),
    }
    saved: WeakSet[_Saved] = WeakSet()  # forgets what was for a part without use, as DoRA has

    def note(tensor: Tensor) -> _Saved:
        saved.add(entry := _Saved(tensor))
        return entry

    autocast = torch.autocast(device.type, torch.bfloat16, enabled=in_bf16(cfg))
    with autocast, torch.autograd.graph.saved_tensors_hooks(note, lambda entry: entry.tensor):
        loss = mean_loss(model, batch, layout)
    storages = [part.untyped_storage() for entry in saved for part in _dense(entry.tensor)]
    del loss
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for address, size in sizes.items() if address not in own)


def _dense(tensor: Tensor) -> list[Tensor]:
    """The tensor, or what a sparse one (SHiRA's) consists of."""
    if tensor.layout is not torch.sparse_coo:
        return [tensor]
    tensor = tensor.coalesce()
    return [tensor.indices(), tensor.values()]


@dataclass(frozen=True, eq=False)
class _Saved:
    """What autograd holds in place of a tensor."""

    tensor: Tensor
