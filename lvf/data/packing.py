"""Fills training rows of a fixed length with whole examples, or cuts running text into them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from lvf.data.corpus_stats import ALL_PROMPT, TOO_LONG, CorpusStats

Example = tuple[np.ndarray, np.ndarray]
"""Token ids and loss mask of one example, each [num_tokens]."""

OPEN_ROWS = 64
"""Rows that wait for a fitting example at the same time, which bounds memory. Measured on 7473
GSM8K pairs: 4.1 % more rows of 1024 than tokens need (1.2 % of 4096), and as many without bound."""
RATIO_ROWS = 6
"""Rows that `pack_by_ratio` fills together: the paper's device batch (192 rows on 32 GPUs)."""


class Row:
    """One training sequence: arrays of [seq_len], filled from the left.

    `segment_ids` number the examples of the row from 1; 0 is padding. `loss_mask` marks the
    tokens to be predicted: never padding, and never the first of a segment, before which
    nothing stands that could predict it.
    """

    def __init__(self, seq_len: int) -> None:
        """Make an empty row."""
        self.input_ids = np.zeros(seq_len, np.int64)
        self.loss_mask = np.zeros(seq_len, bool)
        self.segment_ids = np.zeros(seq_len, np.int64)
        self.num_tokens = 0
        self.num_segments = 0

    @property
    def room(self) -> int:
        """Tokens that still fit."""
        return len(self.input_ids) - self.num_tokens

    def place(self, ids: np.ndarray, loss_mask: np.ndarray) -> None:
        """Append a segment; it must fit."""
        start, end = self.num_tokens, self.num_tokens + len(ids)
        self.num_segments += 1
        self.num_tokens = end
        self.input_ids[start:end] = ids
        self.loss_mask[start + 1 : end] = loss_mask[1:]
        self.segment_ids[start:end] = self.num_segments


def fit(example: Example, seq_len: int, place: str, stats: CorpusStats) -> Example | None:
    """Cut off what exceeds a row; None if the prompt alone fills it. Both are counted."""
    ids, loss_mask = example
    stats.lengths[len(ids)] += 1
    if not loss_mask[1:seq_len].any():
        stats.note(ALL_PROMPT, f"{place}: {len(ids)} tokens")
        stats.dropped_tokens += len(ids)
        return None
    stats.documents += 1
    if len(ids) > seq_len:
        stats.note(TOO_LONG, f"{place}: {len(ids)} tokens")
        stats.truncated_tokens += len(ids) - seq_len
    return ids[:seq_len], loss_mask[:seq_len]


def pack_examples(examples: Iterable[Example], seq_len: int) -> Iterator[Row]:
    """Pack whole examples into rows, each into the fullest open row that has room for it.

    No example may be longer than `seq_len`; none is split over rows.
    """
    open_rows: list[Row] = []
    for ids, loss_mask in examples:
        fitting = [row for row in open_rows if row.room >= len(ids)]
        if fitting:
            row = min(fitting, key=lambda one: one.room)
        else:
            if len(open_rows) == OPEN_ROWS:
                fullest = min(open_rows, key=lambda one: one.room)
                open_rows.remove(fullest)
                yield fullest
            row = Row(seq_len)
            open_rows.append(row)
        row.place(ids, loss_mask)
        if not row.room:
            open_rows.remove(row)
            yield row
    yield from open_rows


def pack_by_ratio(
    examples: Iterable[Example], seq_len: int, ratio: int, rows_at_once: int = RATIO_ROWS
) -> Iterator[Row]:
    """Pack `ratio` examples a row on average, as llm-foundry's `packing_ratio` does (PAPER 1.5).

    `ratio` x `rows_at_once` examples at a time, the longest first, go each into the first row
    that has room, and the last ones into rows of their own where otherwise fewer than
    `rows_at_once` rows would be filled; the fullest of these are given out and the others stay
    open. It is llm-foundry's packer (llmfoundry/data/packing.py) but for two things: it packs
    once, in the order of the corpus, where llm-foundry packs anew in each epoch what the shuffle
    brings together; and rows that stay open are never dropped, but given out at the end.
    """
    rows: list[Row] = []
    source = iter(examples)
    while some := list(islice(source, ratio * rows_at_once)):
        num_rows = -(-len(some) // ratio)
        some.sort(key=lambda example: len(example[0]), reverse=True)
        for left, (ids, loss_mask) in zip(range(len(some), 0, -1), some, strict=True):
            fitting = (row for row in rows if row.room >= len(ids))
            row = next(fitting, None) if left > num_rows - len(rows) else None
            if row is None:
                row = Row(seq_len)
            else:
                rows.remove(row)  # to the end of the queue
            rows.append(row)
            row.place(ids, loss_mask)
        rows.sort(key=lambda row: row.room)
        yield from rows[:num_rows]
        del rows[:num_rows]
    yield from rows


def chunk_stream(documents: Iterable[np.ndarray], seq_len: int) -> Iterator[Row]:
    """Lay documents (token ids that end with EOS) end to end and cut them into full rows.

    A document is its own segment, and so is what continues it in the next row. The last row is
    padded, so that no token is lost; it is left out only if not one of its tokens has a
    predecessor.
    """
    row = Row(seq_len)
    for ids in documents:
        while len(ids):
            piece, ids = ids[: row.room], ids[row.room :]
            row.place(piece, np.ones(len(piece), bool))
            if not row.room:
                yield row
                row = Row(seq_len)
    if row.loss_mask.any():
        yield row
