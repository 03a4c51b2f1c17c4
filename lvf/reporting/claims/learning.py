"""The paper's claims on learning (its section 4.1): regimes, the gap, and rank."""

from collections.abc import Iterator
from itertools import pairwise

import pandas as pd

from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import HIGHEST, MIDDLE, Comparison, Evidence, Pair
from lvf.reporting.select.compare import best, common, longest

ENOUGH = 0.9
"""A method closes the gap where it has more than this share of full finetuning's gain."""


@claim(
    "title a", "title", "LoRA learns less than full finetuning",
    needs="LoRA and full finetuning with a target score", primary=True,
)  # fmt: skip
def lora_learns_less(evidence: Evidence) -> Iterator[Comparison]:
    """Full minus each rank, mean over durations."""
    yield from full_minus_lora(evidence, "target", 1)


@claim(
    "title d", "beyond", "LoRA learns less than full finetuning, by the loss on target text",
    needs="LoRA and full finetuning with held-out target NLL", measures=("nll_target",),
    unit="nats per token",
)  # fmt: skip
def lora_learns_less_by_loss(evidence: Evidence) -> Iterator[Comparison]:
    """Each rank's held-out target NLL minus full's, mean over durations."""
    yield from full_minus_lora(evidence, "nll_target", -1)


def full_minus_lora(
    evidence: Evidence, measure: str, sign: int, regime: str | None = None
) -> Iterator[Comparison]:
    """Full minus each rank on one measure, times sign, mean over their common durations."""
    for pair in evidence.pairs(regime):
        full, lora = common(pair.full, pair.lora)
        yield from evidence.estimate(pair.name, measure, (sign, full), (-sign, lora))


@claim(
    "1", "4.1",
    "Instruction finetuning reaches far higher target scores than continued pre-training",
    needs="both regimes of one domain", bound_to="which texts a regime trains on",
)  # fmt: skip
def ift_learns_more_than_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """IFT minus CPT at the longest duration of each, mean over the methods that both have."""
    for domain in dict(evidence.conditions("ift")):
        conditions = (domain, "ift"), (domain, "cpt")
        yield from condition_gap(evidence, domain, "target", *conditions)


@claim(
    "2a", "4.1", "In continued pre-training full finetuning learns more than LoRA of any rank",
    needs="LoRA and full finetuning in continued pre-training", primary=True,
)  # fmt: skip
def full_learns_more_in_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """Full minus each rank in CPT, mean over durations."""
    yield from full_minus_lora(evidence, "target", 1, "cpt")


@claim(
    "2b", "4.1", "That gap grows with training tokens",
    needs="several durations of continued pre-training", unit="score per doubling",
)  # fmt: skip
def gap_grows_in_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """Slope of full minus each rank over log2(tokens)."""
    for pair in evidence.pairs("cpt"):
        name = f"{pair.domain}, LoRA r={pair.rank}"
        full, lora = common(pair.full, pair.lora)
        yield from evidence.slope(name, "target", (1, full), (-1, lora))


@claim(
    "2c", "4.1", "The highest rank does not close that gap",
    needs="LoRA and full finetuning in continued pre-training",
)  # fmt: skip
def highest_rank_leaves_a_gap_in_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """Full minus the highest rank at the longest duration."""
    for pair in evidence.pairs("cpt", ranks=HIGHEST):
        name = f"{pair.domain}, LoRA r={pair.rank}"
        full, lora = longest(pair.full, pair.lora)
        yield from evidence.estimate(name, "target", (1, full), (-1, lora))


@claim(
    "3", "4.1", "Higher ranks learn more",
    needs="several LoRA ranks",
)  # fmt: skip
def rank_orders_learning(evidence: Evidence) -> Iterator[Comparison]:
    """Each rank minus the next lower, mean over durations."""
    yield from ranks_in_order(evidence, "target", 1)


def ranks_in_order(evidence: Evidence, measure: str, sign: int) -> Iterator[Comparison]:
    """Each rank minus the next lower on one measure, times sign, mean over common durations."""
    for name, lower, higher in neighbouring_ranks(evidence):
        low, high = common(lower, higher)
        yield from evidence.estimate(name, measure, (sign, high), (-sign, low))


def neighbouring_ranks(evidence: Evidence) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Name, models of a LoRA rank and of the next higher rank, in every condition."""
    for condition in evidence.conditions():
        ranks = [(rank, rows) for rank, rows in evidence.methods(*condition).items() if rank]
        for (lower, its_rows), (higher, more) in pairwise(ranks):
            yield f"{' '.join(condition)}, LoRA r={lower} and LoRA r={higher}", its_rows, more


@claim(
    "4", "4.1",
    "In instruction finetuning the highest rank has at least 90 % of full finetuning's gain",
    needs="LoRA and full finetuning in instruction finetuning", primary=True,
)  # fmt: skip
def highest_rank_closes_ift(evidence: Evidence) -> Iterator[Comparison]:
    """The highest rank's best duration has 90 % of the gain of full finetuning's best."""
    for pair in evidence.pairs("ift", ranks=HIGHEST):
        yield from closes_gap(evidence, pair)


@claim(
    "4a", "4.1",
    "In code instruction finetuning the highest rank has at least 90 % of full finetuning's gain",
    needs="LoRA and full finetuning in code instruction finetuning",
)  # fmt: skip
def highest_rank_closes_code_ift(evidence: Evidence) -> Iterator[Comparison]:
    """The highest rank's best duration has 90 % of the gain of full finetuning's best."""
    for pair in evidence.pairs("ift", "code", HIGHEST):
        yield from closes_gap(evidence, pair)


@claim(
    "4b", "4.1",
    "In maths instruction finetuning the middle rank suffices for 90 % of full finetuning's gain",
    needs="three LoRA ranks and full finetuning in maths instruction finetuning",
)  # fmt: skip
def middle_rank_closes_math_ift(evidence: Evidence) -> Iterator[Comparison]:
    """The middle rank's best duration has 90 % of the gain of full finetuning's best."""
    for pair in evidence.pairs("ift", "math", MIDDLE):
        yield from closes_gap(evidence, pair)


@claim(
    "4c", "4.1", "Full finetuning reaches the highest code score of instruction finetuning",
    needs="LoRA and full finetuning in code instruction finetuning",
)  # fmt: skip
def full_peaks_highest_in_code_ift(evidence: Evidence) -> Iterator[Comparison]:
    """Full finetuning's best duration minus each rank's best."""
    for pair in evidence.pairs("ift", "code"):
        terms = (1, best(pair.full)), (-1, best(pair.lora))
        yield from evidence.estimate(f"LoRA r={pair.rank}", "target", *terms)


def closes_gap(
    evidence: Evidence, pair: Pair, sign: int = 1, part: str = ""
) -> Iterator[Comparison]:
    """LoRA's gain over the base minus 0.9 times full's, each at its best duration, times sign."""
    full, lora = best(pair.full), best(pair.lora)
    terms = (sign, lora), (-sign * ENOUGH, full), (-sign * (1 - ENOUGH), evidence.base(full))
    yield from evidence.estimate(pair.name, "target", *terms, part=part)


def condition_gap(
    evidence: Evidence, name: str, measure: str, first: tuple[str, str], second: tuple[str, str]
) -> Iterator[Comparison]:
    """A measure in one (domain, regime) minus that in another.

    Mean over the methods that both have, at these methods' longest duration.
    """
    methods = [evidence.methods(*condition) for condition in (first, second)]
    shared = sorted(set(methods[0]) & set(methods[1]))
    if shared:
        sides = [pd.concat(longest(*(of[rank] for rank in shared))) for of in methods]
        yield from evidence.estimate(name, measure, (1, sides[0]), (-1, sides[1]))
