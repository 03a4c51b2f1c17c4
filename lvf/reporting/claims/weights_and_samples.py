"""The paper's claims on samples, weights and cost (its sections 4.1, 4.5, 4.6 and App. F, I)."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lvf.records.checkpoints import in_few_blocks
from lvf.records.store import items
from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import HIGHEST, Comparison, Evidence, compared
from lvf.reporting.select.compare import circumstances, common, longest, of_one_sampling
from lvf.reporting.select.variant import ATTENTION, MLP, with_variants
from lvf.reporting.stats.contrast import Contrast, linearised, setting_labels

MULTIPLE = 10
"""How many times a LoRA rank the rank of a full update is said to be, at least."""
GPUS = ("NVIDIA", "Tesla", "AMD Instinct")
"""How the names of GPUs begin."""
PASS_AT = (1, 2, 4, 8, 16, 32, 64, 128, 256)
EQUAL_FROM = 64
"""k from which the paper's section 4.1 calls full finetuning and the highest rank equal."""


@claim(
    "8", "4.5", "Samples vary more after LoRA than after full finetuning, and most before either",
    needs="diversity of code samples of LoRA and full finetuning beside the base's",
    measures=(), unit="share of the base's",
)  # fmt: skip
def lora_keeps_more_variety(evidence: Evidence) -> Iterator[Comparison]:
    """Unique samples a problem, passing and failing, over the base's at equal numbers of samples:
    1 minus LoRA's, and LoRA's minus full's."""
    evidence = replace(evidence, scores=of_one_sampling(evidence.scores))
    for verdict in ("passing", "failing"):
        metric = f"unique_{verdict}.over_base"
        scored = evidence.scored(metric, "diversity", metric)
        for pair in scored.pairs():
            full, lora = longest(pair.full, pair.lora)
            name, terms = f"{pair.name}, {verdict}", ((1, lora), (-1, full))
            yield from scored.estimate(
                f"{name}, base", metric, (-1, lora), part=f"base, {verdict}", constant=1
            )
            yield from scored.estimate(f"{name}, full", metric, *terms, part=f"full, {verdict}")


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
    rank = evidence.main["rank"].min()
    for name, scored, full in _analysed(evidence, np.ravel):
        first = full[full.duration == full.duration.min()]
        if not pd.isna(rank):
            name += f", {first.of_weights.mean():.0f} against r={rank}"
            less = -MULTIPLE * float(rank)
            yield from scored.estimate(name, "of_weights", (1, first), constant=less)


@claim(
    "9b", "4.6", "That rank grows with training tokens",
    needs="weight analysis of full finetuning at several lengths", measures=(),
    unit="singular values per doubling",
)  # fmt: skip
def update_rank_grows(evidence: Evidence) -> Iterator[Comparison]:
    """Slope of the rank for 90 % of variance over log2(tokens), mean over matrices."""
    for name, scored, full in _analysed(evidence, np.ravel):
        yield from scored.slope(name, "of_weights", (1, full))


@claim(
    "9c", "4.6", "The update's rank is higher in the MLP than in attention",
    needs="weight analysis of full finetuning by module", measures=(), unit="singular values",
)  # fmt: skip
def mlp_updates_have_higher_rank(evidence: Evidence) -> Iterator[Comparison]:
    """Mean of gate, up and down minus mean of q, k, v and o, longest duration; a number a run."""
    num_attention = len(ATTENTION)
    yield from _gaps_within_runs(
        evidence, lambda ranks: ranks[num_attention:].mean() - ranks[:num_attention].mean()
    )


@claim(
    "9d", "4.6", "The update's rank is lower in the first and the last layer",
    needs="weight analysis of full finetuning by module", measures=(), unit="singular values",
)  # fmt: skip
def outer_layers_have_lower_rank(evidence: Evidence) -> Iterator[Comparison]:
    """Mean of the layers between minus mean of first and last, longest duration; a number a run."""
    yield from _gaps_within_runs(
        evidence, lambda ranks: ranks[:, 1:-1].mean() - ranks[:, [0, -1]].mean()
    )


@claim(
    "14a", "App. I", "LoRA trains more slowly than full finetuning at equal batch (the paper: by "
    "15 %)",
    needs="several seeds of sweep=throughput on a GPU", measures=(),
    unit="share of full's tokens a second",
)  # fmt: skip
def lora_trains_more_slowly(evidence: Evidence) -> Iterator[Comparison]:
    """1 minus LoRA's tokens a second over full's, of benchmarks on one device at each batch."""
    yield from _benchmarked(evidence, "tokens_per_second")


@claim(
    "14b", "App. I", "LoRA needs less peak memory than full finetuning at equal batch (the paper: "
    "by 40 % at small batches, by 15 % at large ones)",
    needs="several seeds of sweep=throughput on a GPU", measures=(),
    unit="share of full's peak memory",
)  # fmt: skip
def lora_needs_less_memory(evidence: Evidence) -> Iterator[Comparison]:
    """1 minus LoRA's peak memory over full's at each batch, on a GPU."""
    yield from _benchmarked(evidence, "peak_memory_gb")


def _benchmarked(evidence: Evidence, metric: str) -> Iterator[Comparison]:
    """1 minus LoRA's figure over full's, of several benchmarks that differ in the method alone."""
    scores = evidence.scores
    rows = scores[(scores.task == "throughput") & (scores.metric == metric)]
    if rows.empty:
        return
    settings = [json.loads(text) for text in rows.settings]
    rows = rows.assign(
        batch=[tree["global_batch_size"] for tree in settings],
        on_gpu=[str(tree.get("device", "")).startswith(GPUS) for tree in settings],
    )
    rows = with_variants(in_few_blocks(rows).assign(circumstances=circumstances(rows)))
    noise = {"value_se": 0.0, "value_n": 1.0, "value_path": None, "value_metric": metric}
    rows = rows[rows.role == "main"].assign(is_chosen=True, **noise)
    same = ["domain", "regime", "dataset", "batch", "circumstances"]
    rows = rows.assign(
        series=rows.groupby([*same, "label"]).ngroup(),
        condition=rows.groupby(same).ngroup(),
        setting=rows.groupby([*same, "label"]).ngroup(),
    )
    for (domain, regime, _, batch, _), group in rows.groupby(same):
        full = group[group.method == "full"]
        for rank, lora in group[group.method == "lora"].groupby("rank"):
            if min(len(full), len(lora)) > 1:
                both = pd.concat([full, lora])
                name = f"benchmark, {domain} {regime}, {batch} rows, LoRA r={rank}"
                less: Contrast | str = "a CPU's speed and memory say nothing of a GPU's"
                if both.on_gpu.all():
                    settings_of = [*setting_labels(full), *setting_labels(lora)]
                    less = linearised(rows, settings_of, ["value"], _one_minus_ratio)
                yield compared(name, less, both)


def _one_minus_ratio(means: np.ndarray) -> float:
    """1 - second / first of (2, 1) means."""
    return 1 - float(means[1, 0] / means[0, 0])


def _pass_at_k(evidence: Evidence, ks: Sequence[int]) -> Iterator[Comparison]:
    """Full minus the highest rank at each k, of the records that go up to the largest k."""
    scores = evidence.scores
    whole = scores[(scores.task == "humaneval") & (scores.metric == f"pass@{max(PASS_AT)}")].path
    of_256 = replace(evidence, scores=scores[scores.path.isin(whole)])
    for k in ks if len(whole) else ():
        metric = f"pass@{k}"
        scored = of_256.scored(metric, "humaneval", metric)
        for pair in scored.pairs("ift", "code", HIGHEST):
            full, lora = common(pair.full, pair.lora)
            name = f"LoRA r={pair.rank}, k={k}"
            yield from scored.estimate(name, metric, (1, full), (-1, lora))


def _analysed(
    evidence: Evidence, number: Callable[[np.ndarray], np.ndarray | float]
) -> Iterator[tuple[str, Evidence, pd.DataFrame]]:
    """Condition, evidence and models of full finetuning in CPT with the measure `of_weights`.

    A run gives a single number: its matrices and layers are no sample of anything.

    Args:
        evidence: where to look.
        number: of the rank for 90 % of variance, (num_maps, num_layers) in the order
            `ATTENTION`, `MLP`; its mean counts.
    """
    scores = evidence.scores
    rows = scores[(scores.task == "weights") & (scores.metric == "rank90.q_proj")]
    values = [float(np.mean(number(_by_layer(str(path))))) for path in rows.path]
    own = rows.assign(metric="of_weights", value=values, stderr=0.0, n=1, has_items=False)
    scored = replace(evidence, scores=own).scored("of_weights", "weights", "of_weights")
    for domain, regime in scored.conditions("cpt"):
        full = scored.full(domain, regime)
        if len(full):
            yield f"{domain} {regime}", scored, full


def _gaps_within_runs(
    evidence: Evidence, number: Callable[[np.ndarray], float]
) -> Iterator[Comparison]:
    """A number of each run of full finetuning at the longest duration, mean over seeds."""
    for name, scored, full in _analysed(evidence, number):
        last = full[full.duration == full.duration.max()]
        yield from scored.estimate(name, "of_weights", (1, last))


def _by_layer(path: str) -> np.ndarray:
    """Rank for 90 % of variance of one model, (num_maps, num_layers)."""
    by_map = [items(path, f"rank90.{name}") for name in ATTENTION + MLP]
    return np.array([ranks for ranks in by_map if ranks is not None])
