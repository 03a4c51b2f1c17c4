"""Feeds packed rows to the trainer: deterministic, elastic and resumable within an epoch."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lvf.config.schema import IGNORED_LABEL, RunConfig
from lvf.data.recipe import num_token_batches
from lvf.data.remote import ATTEMPTS
from lvf.data.replay import replayed_rows
from lvf.data.shards import Prepared
from lvf.data.shared_memory import open_dataset
from lvf.errors import UserError

if TYPE_CHECKING:
    from streaming import Stream, StreamingDataLoader
    from torch import Tensor

SHUFFLED_ROWS = 1 << 18
"""Rows among which one may move: 5 GB of shards of 4096 tokens, which a cache should hold twice."""
STALLED_SECONDS = 900
"""After which a worker that gives no batch ends the training."""


def make_loader(prepared: Prepared, cfg: RunConfig, run_id: str) -> StreamingDataLoader:
    """Loader of this rank's share of each batch; `collate` says what a batch holds.

    An epoch is `batches_per_epoch` whole batches, of rows drawn without repetition in an order
    that `cfg.seed` decides. The order of the global batches does not depend on the number of
    ranks. Every rank of a distributed run must call this.

    Raises:
        UserError: the batch cannot be shared evenly among the ranks, or a remote cannot be reached;
            going through the loader raises that as well.
    """
    from streaming import StreamingDataset

    from lvf.data.streamed import RemoteRows, RowLoader

    rows_per_device = _rows_per_device(cfg.training.global_batch_size)
    dataset = open_dataset(
        RemoteRows if prepared.remote else StreamingDataset,
        streams=_streams(prepared, cfg, run_id),
        download_retry=ATTEMPTS,
        cache_limit=cfg.paths.shards_cache_limit if prepared.remote else None,
        validate_hash="sha1" if prepared.remote else None,
        shuffle=True,
        shuffle_seed=cfg.seed,
        # A larger corpus is shuffled block by block, so that a bounded cache need not hold it
        # all at once; a smaller one as streaming does by default.
        shuffle_block_size=SHUFFLED_ROWS if prepared.num_rows > SHUFFLED_ROWS else None,
        num_canonical_nodes=1,
        batch_size=rows_per_device,
    )
    return RowLoader(
        dataset,
        batch_size=rows_per_device,
        drop_last=True,
        num_workers=cfg.runtime.num_workers,
        # A worker waits without end for a shard that another has failed to get.
        timeout=STALLED_SECONDS if cfg.runtime.num_workers else 0,
        worker_init_fn=_leave_signals_to_the_run,
        collate_fn=partial(
            collate,
            attend_across=cfg.training.attend_across_examples,
            loss_on_prompt=cfg.training.loss_on_prompt,
        ),
    )


def _streams(prepared: Prepared, cfg: RunConfig, run_id: str) -> list[Stream]:
    """The run's rows, and those of source text: how many of each an epoch takes.

    Without these numbers, streaming repeats rows to fill the last batch of an epoch.
    """
    from streaming import Stream

    rows = batches_per_epoch(prepared, cfg) * cfg.training.global_batch_size
    counts = [(prepared, rows)]
    if prepared.replay is not None:
        replayed = replayed_rows(cfg, rows)
        counts = [(prepared, rows - replayed), (prepared.replay, replayed)]
    return [
        Stream(local=str(_local_rows(one, run_id)), remote=one.remote, choose=count)
        for one, count in counts
    ]


def _leave_signals_to_the_run(_worker: int) -> None:
    """Slurm sends a request to stop to every process; a worker that obeyed would break its run."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _local_rows(prepared: Prepared, run_id: str) -> Path:
    """Folder of the rows; those of a remote come into one of the run's own, as streaming wants."""
    return prepared.train / run_id if prepared.remote else prepared.train


def _rows_per_device(global_batch_size: int) -> int:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if global_batch_size % world_size:
        raise UserError(
            f"training.global_batch_size={global_batch_size} cannot be shared evenly among "
            f"{world_size} devices. Start as many processes as divide it."
        )
    return global_batch_size // world_size


def collate(
    rows: Sequence[Mapping[str, np.ndarray]],
    attend_across: bool = False,
    loss_on_prompt: bool = False,
) -> dict[str, Tensor]:
    """Make a batch for a Hugging Face causal model.

    Returns int64 tensors: `input_ids`, `labels` (-100 outside of the loss; the model itself
    shifts them) and `position_ids`, each [batch, seq_len], and `num_tokens` without padding,
    [batch]. There is no attention mask: transformers keeps packed examples apart exactly if
    positions restart at each of them, no mask is given and no cache is used. With
    `attend_across` the positions run on instead, and each example sees those before it; the
    first token of an example stays out of the loss even then. With `loss_on_prompt` every
    other token is in it.
    """
    import torch

    input_ids = np.stack([row["input_ids"] for row in rows]).astype(np.int64)
    loss_mask = np.stack([row["loss_mask"] for row in rows]).astype(bool)
    segment_ids = np.stack([row["segment_ids"] for row in rows])
    places = np.broadcast_to(np.arange(input_ids.shape[1]), input_ids.shape)
    in_segment = places - _segment_starts(segment_ids)
    positions = places if attend_across else in_segment
    if loss_on_prompt:
        loss_mask = (segment_ids > 0) & (in_segment > 0)
    return {
        "input_ids": torch.from_numpy(input_ids),
        "labels": torch.from_numpy(np.where(loss_mask, input_ids, IGNORED_LABEL)),
        "position_ids": torch.from_numpy(positions.astype(np.int64)),
        "num_tokens": torch.from_numpy((segment_ids > 0).sum(axis=1)),
    }


def _segment_starts(segment_ids: np.ndarray) -> np.ndarray:
    """Place where the segment of each token starts, [batch, seq_len]; padding is a segment too."""
    is_start = np.ones_like(segment_ids, bool)
    is_start[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return np.maximum.accumulate(np.where(is_start, np.arange(segment_ids.shape[1]), 0), axis=1)


def batches_per_epoch(prepared: Prepared, cfg: RunConfig) -> int:
    """Whole batches in the data; the rows beyond are other ones in each epoch."""
    return prepared.num_rows // cfg.training.global_batch_size


def total_batches(prepared: Prepared, cfg: RunConfig, duration: float) -> int:
    """Optimiser steps of a run of `duration` epochs or tokens, at least 1 (paper App. A)."""
    if cfg.regime.duration_unit == "tokens":
        return num_token_batches(cfg, duration)
    return max(1, round(duration * batches_per_epoch(prepared, cfg)))
