"""What a step takes on several devices: who computes, what travels, and what of it shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lvf.config.schema import RunConfig, ShapeConfig
from lvf.planning.cluster import Cluster
from lvf.planning.memory import STATE_OF, device_bytes
from lvf.planning.shapes import (
    forward_share,
    num_block_parameters,
    num_parameters,
    num_trainable_parameters,
)

WHOLE, SHARDED, SHARDED_BASE = "whole", "sharded", "sharded base"
"""How a model lies on devices: whole on each, sharded by FSDP2, or LoRA's adapters whole on each
and its base sharded."""
SUM_BYTES = 4
"""A gradient that travels: `lvf.training.sharding` sums in fp32."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of the tensors that each collective gathers, scatters or sums over the devices."""

    gathered_forward: float = 0
    """Of a microbatch, as are the following two."""
    gathered_backward: float = 0
    scattered: float = 0
    summed: float = 0
    """Of a step; of each microbatch where the base is sharded."""

    def of_step(self, num_devices: int, microbatches: int) -> float:
        """Bytes that a device sends in a step, and receives, with rings."""
        gathered = self.gathered_forward + self.gathered_backward + self.scattered
        sums = microbatches if gathered else 1
        passed = microbatches * gathered + 2 * sums * self.summed
        return passed * (num_devices - 1) / num_devices


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimiser step of a run on several devices."""

    layout: str
    busy: int
    """Devices that have rows: the most that can share the batch evenly, as training demands."""
    microbatches: int
    """Of each device."""
    compute_seconds: float
    """Of each busy device."""
    exposed_seconds: float
    """Communication that computing does not hide."""

    @property
    def seconds(self) -> float:
        """From one step to the next."""
        return self.compute_seconds + self.exposed_seconds


def layout(cfg: RunConfig, shape: ShapeConfig, num_devices: int, memory_bytes: float) -> str | None:
    """How the run would lie on the devices; None where it does not fit, even sharded.

    Counts weights, gradients and the optimiser's state as the paper does (App. H), activations not.
    LoRA is replicated where it fits, as it is in training unless `runtime.fsdp_base` is set.
    """
    total, trained = num_parameters(shape), num_trainable_parameters(shape, cfg.method)
    state = STATE_OF.get(cfg.optimizer["_target_"], max(STATE_OF.values()))
    if cfg.method.kind == "full":
        held = device_bytes(trained, 0, state)
        if held / num_devices > memory_bytes:
            return None
        return WHOLE if num_devices == 1 else SHARDED
    adapters, base = device_bytes(trained, 0, state), _frozen_bytes(cfg) * total
    if adapters + base <= memory_bytes and not cfg.runtime.fsdp_base:
        return WHOLE
    can_shard = cfg.method.adapter == "lora"
    fits = can_shard and adapters + base / num_devices <= memory_bytes
    return SHARDED_BASE if fits and num_devices > 1 else None


def _frozen_bytes(cfg: RunConfig) -> int:
    """Of a frozen parameter; embeddings, which stay in fp32, count as the matrices do."""
    in_bf16 = cfg.runtime.bf16_base and cfg.training.precision == "amp_bf16"
    return 2 if in_bf16 and not cfg.method.needs_fp32_base else 4


def traffic(cfg: RunConfig, shape: ShapeConfig, how: str) -> Traffic:
    """What travels, as `lvf.training.sharding` has it.

    FSDP2 gathers every parameter for the forward pass, and those of the blocks again for the
    backward pass (it keeps the rest, which is needed at once). Those of the blocks travel in the
    arithmetic's precision, the rest in fp32. It scatters the gradients of each microbatch, since
    Composer does not put that off. Whole models sum their gradients once a step (DDP).
    """
    in_bf16 = cfg.training.precision == "amp_bf16" and not cfg.method.needs_fp32_base
    low = 2 if in_bf16 else 4
    total, blocks = num_parameters(shape), num_block_parameters(shape)
    summed = SUM_BYTES * num_trainable_parameters(shape, cfg.method)
    if how == WHOLE:
        return Traffic(summed=summed)
    in_blocks, outside = low * blocks, 4 * (total - blocks)
    gathered = {"gathered_forward": in_blocks + outside, "gathered_backward": in_blocks}
    if how == SHARDED:
        return Traffic(**gathered, scattered=SUM_BYTES * total)
    return Traffic(**gathered, summed=summed)


def step(
    cfg: RunConfig,
    shape: ShapeConfig,
    compute_seconds: float,
    num_devices: int,
    cluster: Cluster | None,
) -> Step | None:
    """A step on so many devices, from what one device would compute at it; None: does not fit.

    Without a cluster, devices have memory and links without end.
    """
    rows = cfg.training.global_batch_size
    busy = max(n for n in range(1, min(rows, num_devices) + 1) if rows % n == 0)
    how = layout(cfg, shape, busy, cluster.memory_bytes if cluster else math.inf)
    if how is None:
        return None
    own_rows = rows // busy
    microbatches = math.ceil(own_rows / (cfg.runtime.device_microbatch_size or own_rows))
    compute = compute_seconds / busy
    exposed = 0.0
    if cluster and busy > 1:
        forward = forward_share(shape, cfg.method) * compute / microbatches
        backward = compute / microbatches - forward
        units = shape.num_hidden_layers + 1
        what = traffic(cfg, shape, how)
        exposed = exposed_seconds(what, forward, backward, microbatches, units, busy, cluster)
    return Step(
        layout=how,
        busy=busy,
        microbatches=microbatches,
        compute_seconds=compute,
        exposed_seconds=exposed,
    )


def exposed_seconds(
    what: Traffic,
    forward_seconds: float,
    backward_seconds: float,
    microbatches: int,
    units: int,
    num_devices: int,
    cluster: Cluster,
) -> float:
    """Communication of a step that is not hidden, given what a microbatch computes.

    Each pass hides what travels in it, up to its own length: parameters are fetched one unit ahead,
    gradients leave one unit behind (a unit is a block, or all that is outside them). So the first
    gather and the last scatter always show. DDP's sum hides behind the last backward pass; that
    over a sharded base waits for its end.
    """

    def seconds(size: float, collectives: int = units, passes: int = 1) -> float:
        moved = passes * size * (num_devices - 1) / num_devices
        latency = cluster.latency_seconds(num_devices, passes) if size else 0.0
        return moved / cluster.bus_bytes_per_second(num_devices) + collectives * latency

    summing = seconds(what.summed, 1, passes=2)
    if not what.gathered_forward:
        return max(0.0, summing - backward_seconds)
    fetching, leaving = seconds(what.gathered_forward), seconds(what.scattered)
    in_backward = seconds(what.gathered_backward) + leaving
    beyond = max(0.0, fetching - forward_seconds) + max(0.0, in_backward - backward_seconds)
    return microbatches * (beyond + (fetching + leaving) / units + summing)
