"""What a run will take: batches, tokens, FLOPs, hours and disk, before anything is prepared."""

from __future__ import annotations

from dataclasses import dataclass

from lvf.cells import Cell
from lvf.config import RunConfig
from lvf.data.recipe import batch_tokens, num_token_batches
from lvf.planning.shapes import (
    num_parameters,
    num_trainable_parameters,
    shape_of,
    train_flops_per_token,
)
from lvf.training.branching import branch_batch, kept_batches, trunk_of
from lvf.training.run_folder import RunFolder

FILL = 0.95
"""Share of a row's places that packing fills, where as many examples as fit are packed: measured
between 0.93 (rows of 256 tokens) and 0.99 (of 4096)."""
STATE_BYTES = {"lion_pytorch.Lion": 4, "torch.optim.AdamW": 8}
"""Of an optimiser, for each trained fp32 parameter: one momentum, or two."""
BASIS = (
    "batches and tokens: of the whole model; FLOPs, hours and disk: what the run itself adds (a "
    "branch has its trunk's 80 % for nothing). FLOPs: matrix products of real tokens, attention "
    "scores apart. Hours: FLOPs at scale.sustained_flops; of full rows where tokens are unknown. "
    "Disk: exports, and the checkpoints that are kept. Epochs: from the corpus' published size, "
    "until a run has begun and counted."
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
    """Of one device."""
    disk_bytes: float | None


def plan(cell: Cell, fresh: bool = False) -> Plan:
    """Estimate a cell; the batches of a run that has begun are those that it counted itself.

    With `fresh` a run that has begun counts as if it had not.
    """
    cfg = cell.cfg
    begun = None if fresh else RunFolder(cell.folder).status().get("total_batches")
    batches = begun if begun is not None else total_batches(cfg)
    shared = branch_batch(cfg, cfg.duration) if trunk_of(cfg) else 0
    new = None if batches is None else batches - shared
    tokens = cfg.duration if cfg.regime.duration_unit == "tokens" else _epoch_tokens(cfg)
    shape = shape_of(cfg.model)
    flops = hours = None
    if shape and new is not None and batches is not None:
        per_token = train_flops_per_token(shape, cfg.method)
        flops = tokens and tokens * per_token * new / batches
        at_most = new * batch_tokens(cfg) * per_token  # as if there were no padding
        hours = (flops or at_most) / cfg.scale.sustained_flops[cfg.method.kind] / 3600
    return Plan(
        batches=batches,
        new_batches=new,
        tokens=tokens,
        flops=flops,
        hours=hours,
        disk_bytes=disk_bytes(cfg),
    )


def total_batches(cfg: RunConfig) -> int | None:
    """Optimiser steps of a run; epochs are counted by the corpus' published size."""
    if cfg.regime.duration_unit == "tokens":
        return num_token_batches(cfg, cfg.duration)
    rows = epoch_rows(cfg)
    if rows is None:
        return None
    return max(1, round(cfg.duration * (rows // cfg.training.global_batch_rows)))


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
    """Exports in fp32, and the kept checkpoints with the optimiser's state."""
    shape = shape_of(cfg.model)
    state = STATE_BYTES.get(cfg.optimizer["_target_"])
    if shape is None or state is None:
        return None
    trained = num_trainable_parameters(shape, cfg.method)
    doubled = (
        2 if cfg.method.init == "pissa" else 1
    )  # exported as a plain adapter of twice the rank
    exports = (1 + len(cfg.measure_at)) * 4 * trained * doubled
    # Composer keeps the frozen base, too, where modules are trained whole.
    weights = num_parameters(shape) + trained if cfg.method.trained_modules else trained
    checkpoints = cfg.runtime.keep_checkpoints + len(kept_batches(cfg))
    return exports + checkpoints * (4 * weights + state * trained)


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
