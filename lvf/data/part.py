"""Makes one part of the shards: documents to tokens to packed rows on disk, all of it counted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lvf.config.schema import RunConfig
from lvf.data.corpus_stats import COPY_OF_HELD_OUT, OVERLAP, OWN_BOS, CorpusStats
from lvf.data.overlap import OverlapIndex
from lvf.data.packing import Row, chunk_stream, fit, pack_by_ratio, pack_examples
from lvf.data.prompts import (
    Pair,
    check_embedded,
    encode_examples,
    encode_texts,
    example_text,
    has_own_bos,
    text_columns,
)
from lvf.data.recipe import largest_token_id
from lvf.data.remote import download, upload
from lvf.data.sources import Part, usable_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENCODE_AT_ONCE = 256
"""Documents that the tokenizer gets together."""
STATS = "stats.json"
OVERLAPS = "overlaps.jsonl"
ROW_TOKENS = "row_tokens.npy"
KEPT = ("index.json", ROW_TOKENS, OVERLAPS, STATS)
"""What joining needs of a part; the counts come last, so that on a remote it says: complete."""
UNFINISHED = ".part-"
PlacedPair = tuple[str, Pair]
Item = TypeVar("Item")
Encoded = TypeVar("Encoded")


@dataclass(frozen=True)
class Work:
    """What is the same for all parts."""

    folder: Path
    """Where parts end up, each a folder of its number."""
    cfg: RunConfig
    tokenizer: PreTrainedTokenizerBase
    held: frozenset[bytes]
    """Keys (`key_of`) of the documents that are held out."""
    overlap: OverlapIndex | None
    """The evaluation items that the text is compared with."""
    num_embeddings: int
    """Ids that the model knows."""
    remote: str | None
    """Where finished parts are sent, so that only what joining needs of them stays here."""


def part_folder(folder: Path, number: int) -> Path:
    """Where the part of this number is once it is finished."""
    return folder / f"{number:06}"


def read_stats(work: Work, number: int) -> CorpusStats | None:
    """The counts of a finished part; None if it is finished neither here nor on the remote."""
    target = part_folder(work.folder, number)
    if not target.is_dir() and not (work.remote and _fetch(work, target)):
        return None
    return CorpusStats.from_json(json.loads((target / STATS).read_text()))


def _fetch(work: Work, target: Path) -> bool:
    """Get from the remote what joining needs of a part that another machine has made."""
    partial = _partial_folder(target)
    try:
        found = download(f"{work.remote}/{target.name}", partial, KEPT)
        return found and _publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial_folder(target: Path) -> Path:
    return target.with_name(f"{UNFINISHED}{target.name}-{uuid.uuid4().hex}")


def _publish(partial: Path, target: Path) -> bool:
    """Give a finished part its name, unless another process has been faster with the same."""
    _sync(partial)
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    return True


def make_part(part: Part, work: Work) -> CorpusStats:
    """Prepare a part, which appears whole under its name, or not at all.

    Several processes may make the same part: one's is kept, and they do not differ.

    Raises:
        UserError: a file of the corpus cannot be read.
        OSError: the disk refuses.
    """
    target = part_folder(work.folder, part.number)
    partial = _partial_folder(target)
    stats = CorpusStats()
    try:
        hits: list[Any] = []
        pairs = _to_train(part, work, stats, hits)
        seq_len, largest_id = work.cfg.training.seq_len, largest_token_id(work.tokenizer)
        row_tokens = write_rows(partial, _packed(pairs, work, stats), seq_len, largest_id)
        np.save(partial / ROW_TOKENS, row_tokens)
        stats.num_rows = len(row_tokens)
        stats.num_tokens, stats.num_loss_tokens = map(int, row_tokens.sum(0, np.int64))
        write_jsonl(partial / OVERLAPS, hits)
        (partial / STATS).write_text(json.dumps(stats.to_json()))
        if work.remote:
            shards = sorted(path.name for path in partial.glob("*.mds"))
            upload(partial, f"{work.remote}/{target.name}", [*shards, *KEPT])
            for name in shards:
                (partial / name).unlink()
        _publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return stats


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write rows as lines of JSON; return their number."""
    num_rows = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            num_rows += 1
    return num_rows


def key_of(pair: Pair) -> bytes:
    """What tells documents apart: the prompt, or the text where there is none."""
    return hashlib.sha256((pair[0] or pair[1]).encode()).digest()


def _to_train(part: Part, work: Work, stats: CorpusStats, hits: list[Any]) -> Iterator[PlacedPair]:
    """Yield the usable documents but for those held out and, on request, those that overlap."""
    for some in _some(_not_held(part, work, stats)):
        texts = ["\n".join(pair) for _, pair in some]
        found = work.overlap.find(texts) if work.overlap else [[]] * len(some)
        for (place, pair), of_one in zip(some, found, strict=True):
            if of_one:
                stats.note(OVERLAP, f"{place}: {of_one[0].task} item {of_one[0].item}")
                hits += ({"document": place} | hit._asdict() for hit in of_one)
            if not of_one or not work.cfg.data.exclude_overlap:
                if has_own_bos(work.tokenizer, pair[0] or pair[1]):
                    stats.note(OWN_BOS, place)
                yield place, pair


def _not_held(part: Part, work: Work, stats: CorpusStats) -> Iterator[PlacedPair]:
    columns, eos = text_columns(work.cfg.data), str(work.tokenizer.eos_token)
    for place, row in usable_rows(part, columns, stats, eos):
        pair = example_text(row, work.cfg.data)
        if work.held and key_of(pair) in work.held:
            stats.note(COPY_OF_HELD_OUT, place)
        else:
            yield place, pair


def _packed(pairs: Iterator[PlacedPair], work: Work, stats: CorpusStats) -> Iterator[Row]:
    seq_len, ratio = work.cfg.training.seq_len, work.cfg.training.packing_ratio
    if work.cfg.data.text_column:
        return chunk_stream(_texts(pairs, work, stats), seq_len)
    encoded = _encoded(pairs, work, encode_examples)
    fitting = (fit(example, seq_len, place, stats) for place, example in encoded)
    examples = (example for example in fitting if example)
    return pack_by_ratio(examples, seq_len, ratio) if ratio else pack_examples(examples, seq_len)


def _texts(pairs: Iterator[PlacedPair], work: Work, stats: CorpusStats) -> Iterator[np.ndarray]:
    texts = ((place, text) for place, (_, text) in pairs)
    for _, ids in _encoded(texts, work, encode_texts):
        stats.lengths[len(ids)] += 1
        stats.documents += 1
        yield ids


def _encoded(
    documents: Iterator[tuple[str, Item]],
    work: Work,
    encode: Callable[[PreTrainedTokenizerBase, Sequence[Item], int], list[Encoded]],
) -> Iterator[tuple[str, Encoded]]:
    """Place and tokens of each document."""
    eos = work.tokenizer.eos_token_id
    assert isinstance(eos, int)  # load_tokenizer saw to it
    for some in _some(documents):
        encoded = encode(work.tokenizer, [document for _, document in some], eos)
        for (place, _), one in zip(some, encoded, strict=True):
            ids: Any = one[0] if isinstance(one, tuple) else one
            check_embedded(ids, work.num_embeddings, work.tokenizer, place)
            yield place, one


def _some(items: Iterator[Item]) -> Iterator[list[Item]]:
    while group := list(islice(items, ENCODE_AT_ONCE)):
        yield group


def write_rows(folder: Path, rows: Iterable[Row], seq_len: int, largest_id: int) -> np.ndarray:
    """Write rows as MDS; returns of each its tokens and those in the loss, (num_rows, 2)."""
    from streaming import MDSWriter

    ids_dtype = "uint16" if largest_id < 1 << 16 else "uint32"
    dtypes = {"input_ids": ids_dtype, "loss_mask": "uint8", "segment_ids": "uint16"}
    columns = {name: f"ndarray:{one}:{seq_len}" for name, one in dtypes.items()}
    counts = []
    with MDSWriter(out=str(folder), columns=columns, hashes=["sha1"]) as writer:
        for row in rows:
            writer.write({name: getattr(row, name).astype(one) for name, one in dtypes.items()})
            counts.append((row.num_tokens, int(row.loss_mask.sum())))
    return np.array(counts, np.int32).reshape(-1, 2)


def _sync(folder: Path) -> None:
    """See to it that what a rename will publish is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
