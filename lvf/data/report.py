"""Says in words what preparing made of a corpus."""

from collections import Counter
from typing import Any

from lvf.config.schema import RunConfig
from lvf.data.corpus_stats import (
    ALL_PROMPT,
    COPY_OF_HELD_OUT,
    OVERLAP,
    OWN_BOS,
    SHOWN_PLACES,
    TOO_LONG,
    CorpusStats,
    unusable,
)
from lvf.data.overlap import NGRAM_WORDS
from lvf.data.part import OVERLAPS
from lvf.data.replay import replayed_rows
from lvf.data.shards import Prepared


def report(prepared: Prepared, cfg: RunConfig) -> str:
    """Documents, tokens, lengths, padding, what was cut or left out and where, and overlaps."""
    s = prepared.stats
    percentiles = ((float(p), n) for p, n in s["length_percentiles"].items())
    stats = _corpus_stats(s)
    lines = [
        f"{cfg.data.name}, rows of {cfg.training.seq_len} tokens",
        f"documents  {s['documents']:,} to train on, {s['validation_documents']:,} for validation, "
        f"{s['heldout_documents']:,} held out",
        f"tokens     {prepared.num_tokens:,}, {prepared.num_loss_tokens:,} of them in the loss",
        f"rows       {prepared.num_rows:,}, {s['padding_share']:.1%} padding",
        *_replay(prepared, cfg),
        "lengths    tokens at percentile " + ", ".join(f"{p:g}: {n:,}" for p, n in percentiles),
        *left_out(prepared),
        *_overlaps(prepared, stats, cfg),
        f"shards     {prepared.remote or prepared.folder}",
        "next       python -m lvf.train with the same settings",
    ]
    return "\n".join(lines)


def _replay(prepared: Prepared, cfg: RunConfig) -> list[str]:
    """How many rows of an epoch are of each kind, and what there is of the source text."""
    source = prepared.replay
    if source is None:
        return []
    rows = prepared.num_rows // cfg.training.global_batch_size * cfg.training.global_batch_size
    replayed = replayed_rows(cfg, rows)
    return [
        f"replay     of the {rows:,} rows of an epoch, {rows - replayed:,} are of {cfg.data.name} "
        f"and {replayed:,} of source text ({replayed / rows:.2%}), which has "
        f"{source.num_rows:,} rows, {source.num_tokens:,} tokens: {source.folder}"
    ]


def left_out(prepared: Prepared) -> list[str]:
    """Lines on what was cut, left out or not read, and where; none if nothing was."""
    s = prepared.stats
    stats = _corpus_stats(s)
    lines = []
    if unread := s["unread_files"]:
        names = ", ".join([*unread[:SHOWN_PLACES], *(["..."] if unread[SHOWN_PLACES:] else [])])
        lines.append(f"not read   {len(unread):,} files of the folder: {names}")
    if cut := stats.found[TOO_LONG]:
        lines.append(
            f"cut        {cut:,} examples lose {s['truncated_tokens']:,} tokens, "
            f"{cut / stats.documents:.2%} of all:" + _places(stats, TOO_LONG)
        )
    if dropped := stats.found[ALL_PROMPT]:
        lines.append(
            f"left out   {dropped:,} examples ({s['dropped_tokens']:,} tokens) whose prompt alone "
            "fills a row:" + _places(stats, ALL_PROMPT)
        )
    if copies := stats.found[COPY_OF_HELD_OUT] - s["taken_from_train"]:
        lines.append(f"left out   {copies:,} copies of held-out prompts")
    if own := stats.found[OWN_BOS]:
        lines.append(f"BOS        {own:,} documents begin with BOS already; they get no second one")
    for kind, count in unusable(stats).items():
        lines.append(f"left out   {count:,} rows, {kind}:" + _places(stats, kind))
    return lines


def _corpus_stats(s: dict[str, Any]) -> CorpusStats:
    return CorpusStats(documents=s["documents"], found=Counter(s["found"]), places=s["places"])


def _overlaps(prepared: Prepared, stats: CorpusStats, cfg: RunConfig) -> list[str]:
    compared = f"compared with {prepared.stats['overlap_with']}"
    count = stats.found[OVERLAP]
    if not count:
        return [f"overlap    none found, {compared}"]
    if cfg.data.exclude_overlap:
        done = "left out"
    else:
        done = "still in; data.exclude_overlap=true leaves them out"
    return [
        f"overlap    {count:,} documents share {NGRAM_WORDS} words with an evaluation item "
        f"({done}); {compared}; all in {prepared.folder / OVERLAPS}:" + _places(stats, OVERLAP)
    ]


def _places(stats: CorpusStats, kind: str) -> str:
    places = stats.places[kind]
    more = ["..."] if stats.found[kind] > len(places) else []
    return "".join(f"\n           {place}" for place in [*places, *more])
