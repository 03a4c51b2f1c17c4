"""The paper's claims on samples, weights and cost (its sections 4.1, 4.5, 4.6 and App. F, I)."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lvf.records.checkpoints import in_few_blocks
from lvf.records.estimate import Estimate
from lvf.records.store import items
from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import Comparison, Evidence, comparison
from lvf.reporting.select.compare import (
    circumstances,
    common,
    longest,
    of_one_sampling,
    slope_weights,
)
from lvf.reporting.select.variant import with_variants
from lvf.reporting.stats.contrast import contrast, evenly
from lvf.reporting.stats.seeds import over_seeds

ATTENTION_MAPS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_MAPS = ("gate_proj", "up_proj", "down_proj")
MULTIPLE = 10
"""How many times a LoRA rank the rank of a full update is said to be, at least."""
PASS_AT = (1, 2, 4, 8, 16, 32, 64, 128, 256)
EQUAL_FROM = 64
"""k from which the paper's section 4.1 calls full finetuning and the highest rank equal."""


@claim(
    "8", "4.5", "Samples vary more after LoRA than after full finetuning, and most before either",
    needs="diversity of HumanEval samples of base, LoRA and full finetuning",
    measures=(), unit="unique of 50",
)  # fmt: skip
def lora_keeps_more_variety(evidence: Evidence) -> Iterator[Comparison]:
    """Unique samples a problem, passing and failing: base minus LoRA, and LoRA minus full."""
    evidence = replace(evidence, scores=of_one_sampling(evidence.scores))
    for verdict in ("unique_passing", "unique_failing"):
        scored = evidence.scored(verdict, "diversity", verdict)
        for domain, regime in scored.conditions():
            for rank in scored.ranks(domain, regime):
                full, lora = longest(*scored.sides(domain, regime, rank))
                base = scored.base(lora).dropna(subset=[verdict])
                name = f"{domain} {regime}, LoRA r={rank}, {verdict.replace('_', ' ')}"
                yield from scored.estimate(f"{name}, base", verdict, (1, base), (-1, lora))
                yield from scored.estimate(f"{name}, full", verdict, (1, lora), (-1, full))


@claim(
    "8b", "4.1", "Full finetuning is ahead of the highest rank in pass@k for k < 64",
    needs="pass@k of 256 samples of LoRA and full finetuning", measures=(),
)  # fmt: skip
def full_ahead_below_64(evidence: Evidence) -> Iterator[Comparison]:
    """Full minus the highest rank at k = 1 to 32."""
    yield from _pass_at_k(evidence, [k for k in PASS_AT if k < EQUAL_FROM])


@claim(
    "8c", "App. F", "Full finetuning is ahead of the highest rank in pass@k for every k (section "
    "4.1 says equal from 64)",
    needs="pass@k of 256 samples of LoRA and full finetuning", measures=(),
)  # fmt: skip
def full_ahead_at_every_k(evidence: Evidence) -> Iterator[Comparison]:
    """Full minus the highest rank at k = 1 to 256."""
    yield from _pass_at_k(evidence, PASS_AT)


@claim(
    "9a", "4.6", "Already after the shortest continued pre-training full finetuning's update has "
    "at least ten times LoRA's lowest rank",
    needs="weight analysis of full finetuning in continued pre-training", measures=(),
    unit="singular values",
)  # fmt: skip
def updates_have_high_rank(evidence: Evidence) -> Iterator[Comparison]:
    """Rank for 90 % of variance, mean over matrices, minus ten times the lowest LoRA rank."""
    for name, full in _analysed(evidence, "rank90"):
        rank = evidence.main["rank"].min()
        first = full[full.duration == full.duration.min()]
        mean = contrast(full, "rank90", evenly(first))
        if mean is not None and not pd.isna(rank):
            above = Estimate(mean.value - MULTIPLE * float(rank), mean.stderr, mean.dof)
            yield comparison(f"{name}, {mean.value:.0f} against r={rank}", above, first)


@claim(
    "9b", "4.6", "That rank grows with training tokens",
    needs="weight analysis of full finetuning at several lengths", measures=(),
    unit="singular values per doubling",
)  # fmt: skip
def update_rank_grows(evidence: Evidence) -> Iterator[Comparison]:
    """Slope of the rank for 90 % of variance over log2(tokens), mean over matrices."""
    for name, full in _analysed(evidence, "rank90"):
        if full.duration.nunique() > 1:
            slope = contrast(full, "rank90", slope_weights(full))
            if slope is not None:
                yield comparison(name, slope, full)


@claim(
    "9c", "4.6", "The update's rank is higher in the MLP than in attention",
    needs="weight analysis of full finetuning by module", measures=(), unit="singular values",
)  # fmt: skip
def mlp_updates_have_higher_rank(evidence: Evidence) -> Iterator[Comparison]:
    """Mean of gate, up and down minus mean of q, k, v and o, layer by layer, longest duration."""
    for name, model in _longest_analysed(evidence):
        mlp, attention = (_by_layer(model, maps) for maps in (MLP_MAPS, ATTENTION_MAPS))
        gaps = mlp.mean(axis=0) - attention.mean(axis=0)
        yield comparison(name, over_seeds(list(gaps)), model)


@claim(
    "9d", "4.6", "The update's rank is lower in the first and the last layer",
    needs="weight analysis of full finetuning by module", measures=(), unit="singular values",
)  # fmt: skip
def outer_layers_have_lower_rank(evidence: Evidence) -> Iterator[Comparison]:
    """Mean of the layers between minus mean of first and last, module by module."""
    for name, model in _longest_analysed(evidence):
        ranks = _by_layer(model, ATTENTION_MAPS + MLP_MAPS)
        if ranks.shape[1] > 2:
            gaps = ranks[:, 1:-1].mean(axis=1) - ranks[:, [0, -1]].mean(axis=1)
            yield comparison(name, over_seeds(list(gaps)), model)


@claim(
    "14a", "App. I", "LoRA trains more slowly than full finetuning at equal batch (the paper: by "
    "15 %)",
    needs="several seeds of LoRA and full finetuning with their training time, or of "
    "sweep=throughput", measures=(), unit="share of full's tokens a second",
)  # fmt: skip
def lora_trains_more_slowly(evidence: Evidence) -> Iterator[Comparison]:
    """1 minus LoRA's tokens a second over full's (delta method over seeds).

    Of benchmarks on one device at each batch; where there are none, of trained models at the
    longest duration, whose machine may have had other work.
    """
    benchmarked = list(_benchmarked(evidence, "tokens_per_second"))
    yield from benchmarked
    for domain, regime in evidence.conditions() if not benchmarked else ():
        for rank in evidence.ranks(domain, regime):
            full, lora = longest(*evidence.sides(domain, regime, rank))
            speeds = [rows.tokens / rows.train_seconds for rows in (full, lora)]
            if any(speed.empty or speed.isna().any() for speed in speeds):
                continue
            of_full, of_lora = (over_seeds(list(speed)) for speed in speeds)
            name = f"{domain} {regime}, LoRA r={rank}"
            yield comparison(name, _one_minus_ratio(of_lora, of_full), pd.concat([full, lora]))


@claim(
    "14b", "App. I", "LoRA needs less peak memory than full finetuning at equal batch (the paper: "
    "by 40 % at small batches, by 15 % at large ones)",
    needs="several seeds of sweep=throughput", measures=(), unit="share of full's peak memory",
)  # fmt: skip
def lora_needs_less_memory(evidence: Evidence) -> Iterator[Comparison]:
    """1 minus LoRA's peak memory over full's (delta method over seeds) at each batch."""
    yield from _benchmarked(evidence, "peak_memory_gb")


def _benchmarked(evidence: Evidence, metric: str) -> Iterator[Comparison]:
    """1 minus LoRA's figure over full's, of several benchmarks that differ in the method alone."""
    scores = evidence.scores
    rows = scores[(scores.task == "throughput") & (scores.metric == metric)]
    if rows.empty:
        return
    batches = [json.loads(text)["global_batch_size"] for text in rows.settings]
    rows = in_few_blocks(rows).assign(batch=batches, circumstances=circumstances(rows))
    rows = with_variants(rows)
    rows = rows[rows.role == "main"]
    same = ["domain", "regime", "dataset", "batch", "circumstances"]
    for (domain, regime, _, batch, _), group in rows.groupby(same):
        full = group[group.method == "full"]
        for rank, lora in group[group.method == "lora"].groupby("rank"):
            if min(len(full), len(lora)) > 1:
                of_full, of_lora = (over_seeds(list(side.value)) for side in (full, lora))
                both = pd.concat([full, lora])
                both = both.assign(setting=both.label)
                name = f"benchmark, {domain} {regime}, {batch} rows, LoRA r={rank}"
                yield comparison(name, _one_minus_ratio(of_lora, of_full), both)


def _one_minus_ratio(above: Estimate, below: Estimate) -> Estimate:
    """1 - above / below of independent estimates; its degrees of freedom are the smaller."""
    ratio = above.value / below.value
    if above.stderr is None or below.stderr is None:
        return Estimate(1 - ratio)
    stderr = ratio * math.hypot(above.stderr / above.value, below.stderr / below.value)
    return Estimate(1 - ratio, stderr, min(above.dof, below.dof))


def _pass_at_k(evidence: Evidence, ks: Sequence[int]) -> Iterator[Comparison]:
    """Full minus the highest rank at each k, of the records that go up to the largest k."""
    scores = evidence.scores
    whole = scores[(scores.task == "humaneval") & (scores.metric == f"pass@{max(PASS_AT)}")].path
    of_256 = replace(evidence, scores=scores[scores.path.isin(whole)])
    for k in ks if len(whole) else ():
        metric = f"pass@{k}"
        scored = of_256.scored(metric, "humaneval", metric)
        for rank in scored.ranks("code", "ift")[-1:]:
            full, lora = common(*scored.sides("code", "ift", rank))
            yield from scored.estimate(f"LoRA r={rank}, k={k}", metric, (1, full), (-1, lora))


def _analysed(evidence: Evidence, metric: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Full finetuning in CPT with a metric of its weights."""
    scored = evidence.scored(metric, "weights", metric)
    for domain, regime in scored.conditions("cpt"):
        full = scored.full(domain, regime)
        if len(full):
            yield domain, full


def _longest_analysed(evidence: Evidence) -> Iterator[tuple[str, pd.DataFrame]]:
    """One seed of full finetuning at the longest duration."""
    for name, full in _analysed(evidence, "rank90.q_proj"):
        yield name, full[full.duration == full.duration.max()].head(1)


def _by_layer(model: pd.DataFrame, maps: Sequence[str]) -> np.ndarray:
    """Rank for 90 % of variance of one model, (num_maps, num_layers)."""
    path = str(model["rank90.q_proj_path"].iloc[0])
    by_map = [items(path, f"rank90.{name}") for name in maps]
    return np.array([ranks for ranks in by_map if ranks is not None])


CLAIMS = (
    lora_keeps_more_variety,
    full_ahead_below_64,
    full_ahead_at_every_k,
    updates_have_high_rank,
    update_rank_grows,
    mlp_updates_have_higher_rank,
    outer_layers_have_lower_rank,
    lora_trains_more_slowly,
    lora_needs_less_memory,
)
