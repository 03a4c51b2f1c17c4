"""Holds documents out of the training data, for choosing rates and for reporting the loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lvf.config.data_schema import SourceConfig
from lvf.config.schema import RunConfig
from lvf.data.corpus_stats import CorpusStats, refuse_unusable
from lvf.data.part import key_of, write_jsonl
from lvf.data.prompts import Pair, example_text, text_columns
from lvf.data.sources import cut_corpus, read_documents, usable_rows
from lvf.errors import UserError

SPLIT_EVERY = 8
"""Where a data set has no held-out files of its own, every 8th document is taken out until there
are enough: in the order of the corpus, so that only its beginning is looked at."""


def take_held_out(pairs: Iterable[Pair], names: Sequence[str], quota: int) -> dict[str, list[Pair]]:
    """Take every `SPLIT_EVERY`-th pair out, for each name in turn, until each has its quota.

    A prompt (a text, where there is none) that stands before its turn is not taken; copies of one
    that was taken are to be left out of the training data, so that none stands on both sides.
    """
    taken: dict[str, list[Pair]] = {name: [] for name in names}
    trained: set[bytes] = set()
    held: set[bytes] = set()
    for index, pair in enumerate(pairs):
        wanting = [name for name in names if len(taken[name]) < quota]
        if not wanting:
            break
        key = key_of(pair)
        if key in held:
            continue
        if index % SPLIT_EVERY or key in trained:
            trained.add(key)
        else:
            taken[wanting[index // SPLIT_EVERY % len(wanting)]].append(pair)
            held.add(key)
    return taken


def read_pairs(source: SourceConfig, cfg: RunConfig, eos: str) -> Iterator[Pair]:
    """Yield (prompt, response) of a source after templating; running text has no prompt."""
    columns = text_columns(cfg.data)
    for row in read_documents(source, columns, strict=cfg.data.strict, answer_end=eos):
        yield example_text(row, cfg.data)


def write_held_out(
    folder: Path, cfg: RunConfig, eos: str
) -> tuple[frozenset[bytes], dict[str, int]]:
    """Write the held-out files; return the keys of what was taken from `train`, and the counts.

    Earlier answers of conversations end in `eos`.
    """
    given = {"validation": cfg.data.validation, "heldout": cfg.data.heldout}
    pairs = {name: list(read_pairs(source, cfg, eos)) for name, source in given.items() if source}
    names = [name for name, source in given.items() if source is None]
    taken = take_held_out(_usable_pairs(cfg, eos), names, cfg.data.split_documents) if names else {}
    for name, some in taken.items():
        if not some:
            raise UserError(
                f"data {cfg.data.name}: of so few documents none is left for {name}. Set "
                f"data.{name}={{path: ...}}, give more data, or raise data.split_documents="
                f"{cfg.data.split_documents}."
            )
    counts = {}
    for name, some in (pairs | taken).items():
        rows = ({"prompt": prompt, "response": response} for prompt, response in some)
        counts[f"{name}_documents"] = write_jsonl(folder / f"{name}.jsonl", rows)
    held = frozenset(key_of(pair) for some in taken.values() for pair in some)
    return held, counts | {"taken_from_train": len(held)}


def _usable_pairs(cfg: RunConfig, eos: str) -> Iterator[Pair]:
    stats = CorpusStats()
    columns = text_columns(cfg.data)
    for part in cut_corpus(cfg.data.train, columns, cfg.data.max_documents):
        for _, row in usable_rows(part, columns, stats, eos):
            stats.documents += 1
            yield example_text(row, cfg.data)
    refuse_unusable(stats, cfg.data.train.path, strict=False)  # what is left out is reported later
