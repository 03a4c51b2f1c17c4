"""Does the work of preparing: documents to tokens to packed rows on disk, and their counts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lvf.config import RunConfig, SourceConfig
from lvf.data.packing import Example, Row, Tally, chunk_stream, pack_examples
from lvf.data.prompts import Pair, encode_examples, encode_texts, example_text, text_columns
from lvf.data.recipe import largest_token_id
from lvf.data.sources import read_documents
from lvf.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLIT_EVERY = 8
"""Where a data set has no held-out files of its own, every 8th document is taken out until there
are enough: in the order of the corpus, so that it works on a stream."""
ENCODE_AT_ONCE = 256
"""Documents that the tokenizer gets together; it works on them in parallel."""

Item = TypeVar("Item")


def build(
    folder: Path, cfg: RunConfig, tokenizer: PreTrainedTokenizerBase, max_rows: int | None
) -> dict[str, Any]:
    """Write train/, validation.jsonl and heldout.jsonl below `folder`; return the statistics.

    Raises:
        UserError: bad documents, or too few of them.
        OSError: the disk refuses.
    """
    taken: dict[str, list[Pair]] = {}
    counts: dict[str, int] = {"copies_of_held_out": 0}
    for name, source in (("validation", cfg.data.validation), ("heldout", cfg.data.heldout)):
        if source is None:
            taken[name] = []
        else:  # before the long work on `train`, so that a fault here shows at once
            counts[f"{name}_documents"] = _write_pairs(folder, name, read_pairs(source, cfg))
    tally = Tally()
    documents = read_pairs(cfg.data.train, cfg, cfg.data.max_documents)
    to_train = split_off(_with_progress(documents, cfg), taken, cfg.data.split_documents, counts)
    rows = islice(_packed(to_train, cfg, tokenizer, tally), max_rows)
    dtype = "uint16" if largest_token_id(tokenizer) < 1 << 16 else "uint32"
    written = _write_rows(folder / "train", rows, cfg.training.seq_len, dtype)
    quota = cfg.data.split_documents
    while any(len(pairs) < quota for pairs in taken.values()) and next(to_train, None):
        pass  # there were enough rows before there were enough held-out documents
    if tally.dropped_examples == tally.lengths.total() > 0:
        raise UserError(
            f"data {cfg.data.name}: the prompts of all {tally.dropped_examples} documents fill a "
            f"row alone. Raise training.seq_len={cfg.training.seq_len}."
        )
    for name, pairs in taken.items():
        if not pairs:
            raise UserError(
                f"data {cfg.data.name}: of so few documents none is left for {name}. Set "
                f"data.{name}.path=..., give more data, or raise data.split_documents="
                f"{cfg.data.split_documents}."
            )
        counts[f"{name}_documents"] = _write_pairs(folder, name, pairs)
    return written | _lengths(tally) | counts


def read_pairs(
    source: SourceConfig, cfg: RunConfig, max_documents: int | None = None
) -> Iterator[Pair]:
    """Yield (prompt, response) of a source after templating; running text has no prompt."""
    for row in read_documents(source, text_columns(cfg.data), max_documents):
        yield example_text(row, cfg.data)


def split_off(
    pairs: Iterable[Pair], taken: dict[str, list[Pair]], quota: int, counts: dict[str, int]
) -> Iterator[Pair]:
    """Yield the pairs to train on; the others end in the lists of `taken`, `quota` in each.

    Every `SPLIT_EVERY`-th pair is taken, for each list in turn. A prompt (a text, where there is
    none) never stands on both sides: one that was trained on is not taken, and later copies of
    one that was taken are left out and counted.
    """
    trained: set[bytes] = set()
    held: set[bytes] = set()
    for index, pair in enumerate(pairs):
        key = hashlib.sha256((pair[0] or pair[1]).encode()).digest()
        if key in held:
            counts["copies_of_held_out"] += 1
            continue
        wanting = [name for name, pairs in taken.items() if len(pairs) < quota]
        if wanting and index % SPLIT_EVERY == 0 and key not in trained:
            name = wanting[index // SPLIT_EVERY % len(wanting)]
            taken[name].append(pair)
            held.add(key)
            continue
        if wanting:
            trained.add(key)
        yield pair


def _with_progress(pairs: Iterator[Pair], cfg: RunConfig) -> Iterator[Pair]:
    from tqdm import tqdm

    yield from tqdm(
        pairs,
        desc=f"preparing {cfg.data.name}",
        total=cfg.data.max_documents,
        unit=" documents",
        mininterval=1.0,
    )


def _packed(
    pairs: Iterator[Pair], cfg: RunConfig, tokenizer: PreTrainedTokenizerBase, tally: Tally
) -> Iterator[Row]:
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int)  # load_tokenizer saw to it
    if cfg.data.text_column:
        texts = (encode_texts(tokenizer, [text for _, text in some], eos) for some in _some(pairs))
        documents: Iterator[np.ndarray] = (ids for group in texts for ids in group)
        return chunk_stream(documents, cfg.training.seq_len, tally)
    groups = (encode_examples(tokenizer, some, eos) for some in _some(pairs))
    examples: Iterator[Example] = (example for group in groups for example in group)
    return pack_examples(examples, cfg.training.seq_len, tally)


def _some(items: Iterator[Item]) -> Iterator[list[Item]]:
    while group := list(islice(items, ENCODE_AT_ONCE)):
        yield group


def _write_rows(folder: Path, rows: Iterator[Row], seq_len: int, dtype: str) -> dict[str, Any]:
    """Write rows as MDS; count rows and tokens as they are written."""
    from streaming import MDSWriter

    dtypes = {"input_ids": dtype, "loss_mask": "uint8", "segment_ids": "uint16"}
    columns = {name: f"ndarray:{one}:{seq_len}" for name, one in dtypes.items()}
    num_rows = num_tokens = num_loss_tokens = 0
    with MDSWriter(out=str(folder), columns=columns, hashes=["sha1"]) as writer:
        for row in rows:
            writer.write({name: getattr(row, name).astype(one) for name, one in dtypes.items()})
            num_rows += 1
            num_tokens += row.num_tokens
            num_loss_tokens += int(row.loss_mask.sum())
    return {
        "num_rows": num_rows,
        "num_tokens": num_tokens,
        "num_loss_tokens": num_loss_tokens,
        "padding_share": 1 - num_tokens / max(1, num_rows * seq_len),
    }


def _write_pairs(folder: Path, name: str, pairs: Iterable[Pair]) -> int:
    """Write `<name>.jsonl` and return the number of its lines."""
    num_pairs = 0
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for prompt, response in pairs:
            file.write(json.dumps({"prompt": prompt, "response": response}) + "\n")
            num_pairs += 1
    return num_pairs


def _lengths(tally: Tally) -> dict[str, Any]:
    return {
        "documents": tally.lengths.total(),
        "tokens_before_cuts": sum(length * n for length, n in tally.lengths.items()),
        "length_p50": percentile(tally.lengths, 0.5),
        "length_p90": percentile(tally.lengths, 0.9),
        "length_max": max(tally.lengths, default=0),
        "truncated_examples": tally.truncated_examples,
        "truncated_tokens": tally.truncated_tokens,
        "dropped_examples": tally.dropped_examples,
        "dropped_tokens": tally.dropped_tokens,
    }


def percentile(lengths: Counter[int], share: float) -> int:
    """Smallest length that at least `share` of the documents do not exceed; 0 of none."""
    seen = 0
    for length, count in sorted(lengths.items()):
        seen += count
        if seen >= share * lengths.total():
            return length
    return 0
