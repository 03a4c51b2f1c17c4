"""The paper's practical rules (its section 4.7), each judged like a claim."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from lvf.reporting.claims.ablations import alpha_pairs
from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import (
    Comparison,
    Evidence,
    resampled_comparison,
    unknown_comparison,
)
from lvf.reporting.claims.learning import closes_gap
from lvf.reporting.select.compare import longest
from lvf.reporting.stats.best_learning_rate import NUM_DRAWS
from lvf.reporting.stats.bootstrap import resampled_settings, setting_means, setting_positions

BOTH = ("target", "retention")


@claim(
    "rule a", "4.7", "Use LoRA for instruction finetuning, not for continued pre-training",
    needs="LoRA and full finetuning with target and forgetting", measures=BOTH,
)  # fmt: skip
def lora_for_ift_not_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """IFT: the highest rank has 90 % of full's gain and forgets less at the longest duration;
    CPT: it has less than 90 %."""
    for domain, regime in evidence.conditions():
        for rank in evidence.ranks(domain, regime)[-1:]:
            yield from closes_gap(evidence, domain, regime, rank, 1 if regime == "ift" else -1)
            if regime == "ift":
                full, lora = longest(*evidence.sides(domain, regime, rank))
                name = f"{domain} {regime}, LoRA r={rank}, forgetting"
                yield from evidence.estimate(name, "retention", (1, lora), (-1, full))


@claim(
    "rule b", "4.7", "Take the highest rank: lower ones do not suffice for code",
    needs="several ranks and full finetuning in code instruction finetuning",
)  # fmt: skip
def code_needs_the_highest_rank(evidence: Evidence) -> Iterator[Comparison]:
    """The highest rank has 90 % of full finetuning's gain, every lower rank has less."""
    ranks = evidence.ranks("code", "ift")
    if len(ranks) > 1:
        yield from closes_gap(evidence, "code", "ift", ranks[-1])
        for rank in ranks[:-1]:
            yield from closes_gap(evidence, "code", "ift", rank, -1)


@claim(
    "rule c", "4.7", "Set alpha = 2r",
    needs="LoRA with alpha = 2r and with a smaller alpha",
)  # fmt: skip
def alpha_of_twice_the_rank(evidence: Evidence) -> Iterator[Comparison]:
    """alpha = 2r minus every smaller alpha, at every rank, each at its best rate."""
    for _, name, twice, smaller in alpha_pairs(evidence, adjacent=False):
        yield from evidence.estimate(name, "target", (1, twice), (-1, smaller))


@claim(
    "rule f", "App. C", "LoRA needs more epochs than full finetuning to be at its best",
    needs="several lengths of instruction finetuning", unit="doublings of epochs",
)  # fmt: skip
def lora_needs_more_epochs(evidence: Evidence) -> Iterator[Comparison]:
    """log2 of the epochs of the highest rank's best target score over those of full's best."""
    for domain, regime in evidence.conditions("ift"):
        for rank in evidence.ranks(domain, regime)[-1:]:
            sides = evidence.sides(domain, regime, rank)
            peaks = [_best_duration(rows) for rows in sides if rows.duration.nunique() > 1]
            if len(peaks) == 2:
                (full, full_draws), (lora, lora_draws) = peaks
                rows = pd.concat(sides)
                if full_draws is None or lora_draws is None:
                    yield unknown_comparison(f"{domain}, LoRA r={rank}", rows, "no error is known")
                    continue
                name = f"{domain}, LoRA r={rank}, best at {2**lora:g} against {2**full:g}"
                yield resampled_comparison(name, lora - full, lora_draws - full_draws, rows)


def _best_duration(rows: pd.DataFrame) -> tuple[float, np.ndarray | None]:
    """log2 of the duration of the highest target score, and its bootstrap draws."""
    first = [cell[0] for cell in setting_positions(rows)]
    lengths = np.log2(rows.duration.to_numpy()[first])
    draws = resampled_settings(rows, ["target"], NUM_DRAWS)
    best = float(lengths[setting_means(rows, "target").argmax()])
    return best, None if draws is None else lengths[draws[0].argmax(axis=0)]


CLAIMS = (
    lora_for_ift_not_cpt,
    code_needs_the_highest_rank,
    alpha_of_twice_the_rank,
    lora_needs_more_epochs,
)
