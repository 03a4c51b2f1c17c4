"""What a run will take: batches, tokens, FLOPs, hours and disk, on any number of devices."""

from __future__ import annotations

from dataclasses import dataclass

from lvf.config.schema import RunConfig, ShapeConfig
from lvf.data.recipe import batch_tokens, num_token_batches
from lvf.planning.cluster import (
    CLUSTERS,
    DISK_BYTES_PER_SECOND,
    START_SECONDS,
    parts_bytes_per_second,
)
from lvf.planning.memory import STATE_OF
from lvf.planning.scaling import WHOLE, Step, step
from lvf.planning.shapes import (
    num_parameters,
    num_trainable_parameters,
    shape_of,
    train_flops_per_token,
)
from lvf.runs.run_folder import RunFolder
from lvf.runs.sweep import SweepRun
from lvf.runs.trunk import branch_batch, kept_batches, trunk_of

FILL = 0.95
"""Share of a row's places that packing fills, where as many examples as fit are packed: measured
between 0.93 (rows of 256 tokens) and 0.99 (of 4096)."""
BASIS = (
    "batches and tokens: of the whole model; FLOPs, hours and disk: what the run itself adds (a "
    "branch has its trunk's 80 % for nothing). FLOPs: matrix products of real tokens, attention "
    "scores apart. Hours: of all devices of the run (runtime.nodes times ranks); FLOPs at "
    "scale.sustained_flops (of full rows where tokens are unknown), communication, start and "
    "checkpoints as in docs/scaling.md, without measuring. Disk: exports, and a trunk's "
    "checkpoints for its branches; a run in training has runtime.keep_checkpoints more. Epochs: "
    "from the corpus' published size, until a run has begun and counted."
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Estimates for one run; None is unknown."""

    batches: int | None
    new_batches: int | None
    """Without those that a branch takes over from its trunk."""
    tokens: float | None
    flops: float | None
    hours: float | None
    """Of all devices together, idle ones too; None as well where the run does not fit on them."""
    compute_hours: float | None
    """Of one device that only computes: matrix products at `scale.sustained_flops`."""
    seconds: float | None
    """From the start to the end of training."""
    step: Step | None
    disk_bytes: float | None


def plan(cell: SweepRun, fresh: bool = False, num_devices: int | None = None) -> Plan:
    """Estimate a cell; the batches of a run that has begun are those that it counted itself.

    With `fresh` a run that has begun counts as if it had not. `num_devices` takes the place of the
    run's own, `runtime.nodes` times `runtime.nproc_per_node`.
    """
    cfg = cell.cfg
    begun = None if fresh else RunFolder(cell.folder).status().get("total_batches")
    batches = begun if begun is not None else total_batches(cfg)
    shared = branch_batch(cfg, cfg.duration) if trunk_of(cfg) else 0
    new = None if batches is None else batches - shared
    tokens = cfg.duration if cfg.regime.duration_unit == "tokens" else _epoch_tokens(cfg)
    shape = shape_of(cfg.model)
    devices = num_devices or cfg.runtime.world_size
    flops = compute = seconds = None
    one: Step | None = None
    if shape and new is not None and batches is not None:
        per_token = train_flops_per_token(shape, cfg.method)
        flops = tokens and tokens * per_token * new / batches
        at_most = new * batch_tokens(cfg) * per_token  # as if there were no padding
        compute = (flops or at_most) / cfg.scale.sustained_flops[cfg.method.kind]
        one = step(cfg, shape, compute / new, devices, CLUSTERS.get(cfg.scale.device))
        if one:
            seconds = new * one.seconds + _standing_seconds(cfg, shape, shared, batches, one)
    return Plan(
        batches=batches,
        new_batches=new,
        tokens=tokens,
        flops=flops,
        hours=seconds and devices * seconds / 3600,
        compute_hours=compute and compute / 3600,
        seconds=seconds,
        step=one,
        disk_bytes=disk_bytes(cfg),
    )


def _standing_seconds(
    cfg: RunConfig, shape: ShapeConfig, shared: int, batches: int, one: Step
) -> float:
    """The time in which all devices wait: start, reading, checkpoints, exports."""
    every = cfg.runtime.checkpoint_every_batches
    saves = {*range(every, batches, every), *kept_batches(cfg), batches}
    num_saves = sum(batch > shared for batch in saves)
    held = (num_saves + bool(shared)) * (checkpoint_bytes(cfg, shape) or 0.0)
    alone = 2 * num_parameters(shape) + export_bytes(cfg, shape)  # the base in bf16, on each node
    together = DISK_BYTES_PER_SECOND if one.layout == WHOLE else parts_bytes_per_second(one.busy)
    return START_SECONDS + alone / DISK_BYTES_PER_SECOND + held / together


def total_batches(cfg: RunConfig) -> int | None:
    """Optimiser steps of a run; epochs are counted by the corpus' published size."""
    if cfg.regime.duration_unit == "tokens":
        return num_token_batches(cfg, cfg.duration)
    rows = epoch_rows(cfg)
    if rows is None:
        return None
    return max(1, round(cfg.duration * (rows // cfg.training.global_batch_size)))


def epoch_rows(cfg: RunConfig) -> int | None:
    """Rows of one epoch; None where the corpus' size is not known."""
    documents = _documents(cfg)
    if documents is None:
        return None
    if cfg.training.packing_ratio:
        return documents // cfg.training.packing_ratio
    tokens = _corpus_tokens(cfg)
    return None if tokens is None else round(tokens / FILL / cfg.training.seq_len)


def disk_bytes(cfg: RunConfig) -> float | None:
    """What a trained run leaves: exports, and a trunk's checkpoints for its branches."""
    shape = shape_of(cfg.model)
    if shape is None or (held := checkpoint_bytes(cfg, shape)) is None:
        return None
    return export_bytes(cfg, shape) + len(kept_batches(cfg)) * held


def export_bytes(cfg: RunConfig, shape: ShapeConfig) -> float:
    """Exports in fp32; PiSSA's, and those that hold two runs' adapters, have twice the rank."""
    trained = num_trainable_parameters(shape, cfg.method)
    copies = 2 if cfg.method.init == "pissa" else 1
    if cfg.sequence.first and cfg.method.kind == "lora" and not cfg.sequence.keep_adapter:
        copies *= 2
    return (1 + len(cfg.measure_at)) * 4 * trained * copies


def checkpoint_bytes(cfg: RunConfig, shape: ShapeConfig) -> float | None:
    """One checkpoint with the optimiser's state; None for an optimiser that is not known."""
    state = STATE_OF.get(cfg.optimizer["_target_"])
    if state is None:
        return None
    trained = num_trainable_parameters(shape, cfg.method)
    # Composer keeps the frozen base, too, where more than LoRA's tensors is trained beside it.
    with_base = cfg.method.modules_to_save or cfg.method.adapter != "lora"
    weights = num_parameters(shape) + trained if with_base else trained
    return 4 * weights + state * trained


def _epoch_tokens(cfg: RunConfig) -> float | None:
    tokens = _corpus_tokens(cfg)
    return None if tokens is None else tokens * cfg.duration


def _documents(cfg: RunConfig) -> int | None:
    """Documents that are trained on: without those taken out for validation and held out."""
    if cfg.data.documents is None:
        return None
    used = min(cfg.data.max_documents or cfg.data.documents, cfg.data.documents)
    taken = sum(source is None for source in (cfg.data.validation, cfg.data.heldout))
    return used - taken * cfg.data.split_documents


def _corpus_tokens(cfg: RunConfig) -> float | None:
    documents = _documents(cfg)
    if cfg.data.tokens is None or documents is None or cfg.data.documents is None:
        return None
    return cfg.data.tokens * documents / cfg.data.documents
