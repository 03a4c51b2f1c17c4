"""Says in words what preparing made of a corpus."""

from collections import Counter
from typing import Any

from lvf.config.schema import RunConfig
from lvf.data.overlap import NGRAM_WORDS
from lvf.data.part import OVERLAPS
from lvf.data.shards import Prepared
from lvf.data.tally import ALL_PROMPT, COPY_OF_HELD_OUT, OVERLAP, TOO_LONG, Tally, unusable


def report(prepared: Prepared, cfg: RunConfig) -> str:
    """Documents, tokens, lengths, padding, what was cut or left out and where, and overlaps."""
    s = prepared.stats
    percentiles = ((float(p), n) for p, n in s["length_percentiles"].items())
    tally = Tally(documents=s["documents"], found=Counter(s["found"]), places=s["places"])
    lines = [
        f"{cfg.data.name}, rows of {cfg.training.seq_len} tokens",
        f"documents  {s['documents']:,} to train on, {s['validation_documents']:,} for validation, "
        f"{s['heldout_documents']:,} held out",
        f"tokens     {prepared.num_tokens:,}, {prepared.num_loss_tokens:,} of them in the loss",
        f"rows       {prepared.num_rows:,}, {s['padding_share']:.1%} padding",
        "lengths    tokens at percentile " + ", ".join(f"{p:g}: {n:,}" for p, n in percentiles),
        *_cut_and_left_out(tally, s),
        *_overlaps(prepared, tally, cfg),
        f"shards     {prepared.remote or prepared.folder}",
        "next       python -m lvf.train with the same settings",
    ]
    return "\n".join(lines)


def _cut_and_left_out(tally: Tally, s: dict[str, Any]) -> list[str]:
    lines = []
    if cut := tally.found[TOO_LONG]:
        lines.append(
            f"cut        {cut:,} examples lose {s['truncated_tokens']:,} tokens, "
            f"{cut / tally.documents:.2%} of all:" + _places(tally, TOO_LONG)
        )
    if dropped := tally.found[ALL_PROMPT]:
        lines.append(
            f"left out   {dropped:,} examples ({s['dropped_tokens']:,} tokens) whose prompt alone "
            "fills a row:" + _places(tally, ALL_PROMPT)
        )
    if copies := tally.found[COPY_OF_HELD_OUT] - s["taken_from_train"]:
        lines.append(f"left out   {copies:,} copies of held-out prompts")
    for kind, count in unusable(tally).items():
        lines.append(f"left out   {count:,} rows, {kind}:" + _places(tally, kind))
    return lines


def _overlaps(prepared: Prepared, tally: Tally, cfg: RunConfig) -> list[str]:
    compared = f"compared with {prepared.stats['overlap_with']}"
    count = tally.found[OVERLAP]
    if not count:
        return [f"overlap    none found, {compared}"]
    if cfg.data.exclude_overlap:
        done = "left out"
    else:
        done = "still in; data.exclude_overlap=true leaves them out"
    return [
        f"overlap    {count:,} documents share {NGRAM_WORDS} words with an evaluation item "
        f"({done}); {compared}; all in {prepared.folder / OVERLAPS}:" + _places(tally, OVERLAP)
    ]


def _places(tally: Tally, kind: str) -> str:
    places = tally.places[kind]
    more = ["..."] if tally.found[kind] > len(places) else []
    return "".join(f"\n           {place}" for place in [*places, *more])
