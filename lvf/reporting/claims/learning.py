"""The paper's claims on learning (its section 4.1): regimes, the gap, and rank."""

from collections.abc import Iterator
from itertools import pairwise

import pandas as pd

from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import Comparison, Evidence, compared
from lvf.reporting.select.compare import best, common, longest, slope_weights
from lvf.reporting.stats.contrast import combined, linear

ENOUGH = 0.9
"""A method closes the gap where it has more than this share of full finetuning's gain."""


@claim(
    "title a", "title", "LoRA learns less than full finetuning",
    needs="LoRA and full finetuning with a target score", primary=True,
)  # fmt: skip
def lora_learns_less(evidence: Evidence) -> Iterator[Comparison]:
    """Full minus each rank, mean over durations."""
    for domain, regime in evidence.conditions():
        yield from full_minus_lora(evidence, domain, regime, "target", 1)


def full_minus_lora(
    evidence: Evidence, domain: str, regime: str, measure: str, sign: int
) -> Iterator[Comparison]:
    """Full minus each rank on one measure, mean over their common durations."""
    for rank in evidence.ranks(domain, regime):
        full, lora = common(*evidence.sides(domain, regime, rank))
        name = f"{domain} {regime}, LoRA r={rank}"
        yield from evidence.estimate(name, measure, (sign, full), (-sign, lora))


@claim(
    "1", "4.1",
    "Instruction finetuning reaches far higher target scores than continued pre-training",
    needs="both regimes of one domain", bound_to="which texts a regime trains on",
)  # fmt: skip
def ift_learns_more_than_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """IFT minus CPT at the longest duration of each, mean over the methods that both have."""
    for domain in dict(evidence.conditions("ift")):
        ift, cpt = same_methods(evidence, (domain, "ift"), (domain, "cpt"))
        yield from evidence.estimate(domain, "target", (1, ift), (-1, cpt))


@claim(
    "2a", "4.1", "In continued pre-training full finetuning learns more than LoRA of any rank",
    needs="LoRA and full finetuning in continued pre-training", primary=True,
)  # fmt: skip
def full_learns_more_in_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """Full minus each rank in CPT, mean over durations."""
    for domain, regime in evidence.conditions("cpt"):
        yield from full_minus_lora(evidence, domain, regime, "target", 1)


@claim(
    "2b", "4.1", "That gap grows with training tokens",
    needs="several durations of continued pre-training", unit="score per doubling",
)  # fmt: skip
def gap_grows_in_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """Slope of full minus each rank over log2(tokens)."""
    for domain, regime in evidence.conditions("cpt"):
        for rank in evidence.ranks(domain, regime):
            full, lora = common(*evidence.sides(domain, regime, rank))
            if full.duration.nunique() < 2:
                continue
            weights = combined((1, slope_weights(full)), (-1, slope_weights(lora)))
            slope = linear(evidence.models, "target", weights)
            if slope is not None:
                yield compared(f"{domain}, LoRA r={rank}", slope, pd.concat([full, lora]))


@claim(
    "2c", "4.1", "The highest rank does not close that gap",
    needs="LoRA and full finetuning in continued pre-training",
)  # fmt: skip
def highest_rank_leaves_a_gap_in_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """Full minus the highest rank at the longest duration."""
    for domain, regime in evidence.conditions("cpt"):
        for rank in evidence.ranks(domain, regime)[-1:]:
            full, lora = longest(*evidence.sides(domain, regime, rank))
            yield from evidence.estimate(
                f"{domain}, LoRA r={rank}", "target", (1, full), (-1, lora)
            )


@claim(
    "3", "4.1", "Higher ranks learn more",
    needs="several LoRA ranks",
)  # fmt: skip
def rank_orders_learning(evidence: Evidence) -> Iterator[Comparison]:
    """Each rank minus the next lower, mean over durations."""
    yield from ranks_in_order(evidence, "target", 1)


def ranks_in_order(evidence: Evidence, measure: str, sign: int) -> Iterator[Comparison]:
    """Each rank minus the next lower on one measure, times sign, mean over common durations."""
    for domain, regime in evidence.conditions():
        for lower, higher in pairwise(evidence.ranks(domain, regime)):
            low, high = common(*(evidence.lora(domain, regime, x) for x in (lower, higher)))
            name = f"{domain} {regime}, LoRA r={lower} and LoRA r={higher}"
            yield from evidence.estimate(name, measure, (sign, high), (-sign, low))


@claim(
    "4", "4.1",
    "In instruction finetuning the highest rank has at least 90 % of full finetuning's gain",
    needs="LoRA and full finetuning in instruction finetuning", primary=True,
)  # fmt: skip
def highest_rank_closes_ift(evidence: Evidence) -> Iterator[Comparison]:
    """The highest rank's best duration has 90 % of the gain of full finetuning's best."""
    for domain, regime in evidence.conditions("ift"):
        for rank in evidence.ranks(domain, regime)[-1:]:
            yield from closes_gap(evidence, domain, regime, rank)


@claim(
    "4a", "4.1",
    "In code instruction finetuning the highest rank has at least 90 % of full finetuning's gain",
    needs="LoRA and full finetuning in code instruction finetuning",
)  # fmt: skip
def highest_rank_closes_code_ift(evidence: Evidence) -> Iterator[Comparison]:
    """The highest rank's best duration has 90 % of the gain of full finetuning's best."""
    for rank in evidence.ranks("code", "ift")[-1:]:
        yield from closes_gap(evidence, "code", "ift", rank)


@claim(
    "4b", "4.1",
    "In maths instruction finetuning the middle rank suffices for 90 % of full finetuning's gain",
    needs="three LoRA ranks and full finetuning in maths instruction finetuning",
)  # fmt: skip
def middle_rank_closes_math_ift(evidence: Evidence) -> Iterator[Comparison]:
    """The middle rank's best duration has 90 % of the gain of full finetuning's best."""
    for rank in evidence.ranks("math", "ift")[1:-1]:
        yield from closes_gap(evidence, "math", "ift", rank)


@claim(
    "4c", "4.1", "Full finetuning reaches the highest code score of instruction finetuning",
    needs="LoRA and full finetuning in code instruction finetuning",
)  # fmt: skip
def full_peaks_highest_in_code_ift(evidence: Evidence) -> Iterator[Comparison]:
    """Full finetuning's best duration minus each rank's best."""
    for rank in evidence.ranks("code", "ift"):
        full, lora = (best(rows) for rows in evidence.sides("code", "ift", rank))
        yield from evidence.estimate(f"LoRA r={rank}", "target", (1, full), (-1, lora))


def closes_gap(
    evidence: Evidence, domain: str, regime: str, rank: int, sign: int = 1, part: str = ""
) -> Iterator[Comparison]:
    """LoRA's gain over the base minus 0.9 times full's, each at its best duration."""
    full, lora = (best(rows) for rows in evidence.sides(domain, regime, rank))
    terms = (sign, lora), (-sign * ENOUGH, full), (-sign * (1 - ENOUGH), evidence.base(full))
    name = f"{domain} {regime}, LoRA r={rank}"
    yield from evidence.estimate(name, "target", *terms, part=part)


def same_methods(evidence: Evidence, *conditions: tuple[str, str]) -> list[pd.DataFrame]:
    """Each condition's models of the methods that all have, at these methods' longest duration."""
    by_rank = [
        {int(rows["rank"].fillna(0).iloc[0]): rows for rows in evidence.methods(*condition)}
        for condition in conditions
    ]
    shared = set.intersection(*(set(methods) for methods in by_rank))
    if not shared:
        return [evidence.main.iloc[:0] for _ in conditions]
    return [pd.concat(longest(*(methods[rank] for rank in sorted(shared)))) for methods in by_rank]


CLAIMS = (
    lora_learns_less,
    ift_learns_more_than_cpt,
    full_learns_more_in_cpt,
    gap_grows_in_cpt,
    highest_rank_leaves_a_gap_in_cpt,
    rank_orders_learning,
    highest_rank_closes_ift,
    highest_rank_closes_code_ift,
    middle_rank_closes_math_ift,
    full_peaks_highest_in_code_ift,
)
