"""Replay: a share of the training rows is source text, so that the model forgets less of it."""

from __future__ import annotations

import math
from dataclasses import replace

from lvf.config.data_schema import DataConfig, SourceConfig
from lvf.config.schema import RegimeConfig, RunConfig, TrunkConfig
from lvf.data.recipe import num_token_batches
from lvf.errors import UserError

EMBEDDED_SOURCE = "embedded:train/source"
"""Text of the world that the packaged base was trained on."""


def replay_source(cfg: RunConfig) -> SourceConfig:
    """Where the replayed text comes from: `data.source`, or the packaged base's own.

    Raises:
        UserError: neither is known.
    """
    if cfg.data.source is not None:
        return cfg.data.source
    if cfg.model.path == "embedded":
        return SourceConfig(path=EMBEDDED_SOURCE)
    raise UserError(
        f"data.replay={cfg.data.replay:g} needs text like that of the base's pre-training: set "
        "data.source.path=... (a file, folder or hub id; its column is data.source_column), "
        "or data.replay=0"
    )


def replayed_rows(cfg: RunConfig, rows_per_epoch: int) -> int:
    """Source rows among the rows of an epoch, at least one; the others are of the data set."""
    return max(1, round(cfg.data.replay * rows_per_epoch))


def source_run(cfg: RunConfig, num_rows: int) -> RunConfig:
    """The run whose shards hold the source text, as of continued pre-training on it.

    Of a hub corpus no more is prepared than the run can use; a local one is prepared whole.

    Args:
        cfg: a run with `data.replay`.
        num_rows: rows of its own data.
    """
    batch = cfg.training.global_batch_size
    if cfg.regime.duration_unit == "tokens":
        rows = num_token_batches(cfg, cfg.trunk.duration or cfg.duration) * batch
    else:
        rows = math.ceil(cfg.duration * num_rows)
    batches = math.ceil(cfg.data.replay * rows / batch) + 1
    data = DataConfig(
        name=f"{cfg.data.name}_replay",
        train=replay_source(cfg),
        text_column=cfg.data.source_column,
        split_documents=1,  # a preparation holds out; nothing is measured on these
    )
    return replace(
        cfg,
        data=data,
        regime=RegimeConfig(name="cpt", duration_unit="tokens"),
        duration=float(batches * batch * cfg.training.seq_len),
        trunk=TrunkConfig(),
        runtime=replace(cfg.runtime, prepare_part="0/1"),
    )
