"""Shards of random tokens, whose rows have as many documents and as much padding as is asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lvf.config.runtime_schema import BenchConfig
from lvf.config.schema import RunConfig
from lvf.data.packing import Row
from lvf.data.part import write_rows
from lvf.data.shards import FILES, RECIPE, Prepared, load_prepared


@contextmanager
def synthetic_shards(cfg: RunConfig, folder: Path, num_batches: int) -> Iterator[Prepared]:
    """Shards of so many batches in a folder that is removed afterwards."""
    from lvf.models.load import load_model_config

    shutil.rmtree(folder, ignore_errors=True)  # of a benchmark that was killed
    vocab_size = load_model_config(cfg.model).vocab_size
    rows = random_rows(
        cfg.bench,
        num_batches * cfg.training.global_batch_size,
        cfg.training.seq_len,
        vocab_size,
        cfg.seed,
    )
    try:
        counts = write_rows(folder / "train", rows, cfg.training.seq_len, vocab_size - 1)
        num_tokens, num_loss_tokens = counts.sum(0, np.int64).tolist()
        stats = {
            "num_rows": len(counts),
            "num_tokens": num_tokens,
            "num_loss_tokens": num_loss_tokens,
        }
        for name in FILES:
            (folder / name).touch()
        (folder / RECIPE).write_text(json.dumps({"stats": stats}))
        yield load_prepared(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def random_rows(
    bench: BenchConfig, num_rows: int, seq_len: int, vocab_size: int, seed: int
) -> Iterator[Row]:
    """Rows of `documents_per_row` documents of random lengths, of at least two tokens each.

    Ids are uniform, lengths uniform over all ways to cut the real tokens of a row.
    """
    rng = np.random.default_rng(seed)
    documents, tokens = bench.documents_per_row, bench.row_tokens(seq_len)
    for _ in range(num_rows):
        # Stars and bars: a document has two tokens, and those between two of the bars.
        bars = np.sort(rng.choice(tokens - documents - 1, documents - 1, replace=False))
        ends = [*(bars + np.arange(2, documents + 1)), tokens]
        row, start = Row(seq_len), 0
        for end in ends:
            ids = rng.integers(vocab_size, size=end - start)
            row.place(ids, np.ones(end - start, bool))
            start = end
        yield row
