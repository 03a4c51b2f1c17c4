"""The paper's practical rules (its section 4.7), each judged like a claim."""

from collections.abc import Iterator

import pandas as pd

from lvf.reporting.claims.ablations import alpha_pairs
from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import Comparison, Evidence, compared
from lvf.reporting.claims.learning import closes_gap
from lvf.reporting.select.compare import common, longest, slope_weights, with_score
from lvf.reporting.stats.contrast import combined, linear

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
            sign = 1 if regime == "ift" else -1
            yield from closes_gap(evidence, domain, regime, rank, sign, f"{regime} gain")
            if regime == "ift":
                full, lora = longest(*evidence.sides(domain, regime, rank))
                name = f"{domain} {regime}, LoRA r={rank}, forgetting"
                terms = (1, lora), (-1, full)
                yield from evidence.estimate(name, "retention", *terms, part="ift forgetting")


@claim(
    "rule b", "4.7", "Take the highest rank: lower ones do not suffice for code",
    needs="several ranks and full finetuning in code instruction finetuning",
)  # fmt: skip
def code_needs_the_highest_rank(evidence: Evidence) -> Iterator[Comparison]:
    """The highest rank has 90 % of full finetuning's gain, every lower rank has less."""
    ranks = evidence.ranks("code", "ift")
    if len(ranks) > 1:
        yield from closes_gap(evidence, "code", "ift", ranks[-1], 1, "highest rank")
        for rank in ranks[:-1]:
            yield from closes_gap(evidence, "code", "ift", rank, -1, "lower ranks")


@claim(
    "rule c", "4.7", "Set alpha = 2r",
    needs="LoRA with alpha = 2r and with a smaller alpha",
)  # fmt: skip
def alpha_of_twice_the_rank(evidence: Evidence) -> Iterator[Comparison]:
    """alpha = 2r minus every smaller alpha, at every rank, each at its best rate."""
    for _, name, twice, smaller in alpha_pairs(evidence, adjacent=False):
        yield from evidence.estimate(name, "target", (1, twice), (-1, smaller))


@claim(
    "rule f", "App. C", "LoRA needs more epochs of Tülu-v2-mix than full finetuning",
    needs="LoRA and full finetuning on Tülu-v2-mix at several lengths, with MT-bench",
    measures=(), unit="points per doubling",
)  # fmt: skip
def lora_needs_more_epochs(evidence: Evidence) -> Iterator[Comparison]:
    """Slope of the MT-bench score over log2(epochs), each rank's minus full's."""
    models = with_score(evidence.models, evidence.scores, "mt_bench", "mt_bench", "score")
    rows = models[(models.domain == "chat") & models.is_chosen & models.mt_bench.notna()]
    rows = rows[(rows.role == "main") & rows.dataset.str.contains("tulu")]
    for rank in sorted(rows["rank"].dropna().unique()):
        full, lora = common(rows[rows.method == "full"], rows[rows["rank"] == rank])
        if full.duration.nunique() > 1:
            weights = combined((1, slope_weights(lora)), (-1, slope_weights(full)))
            slope = linear(models, "mt_bench", weights)
            if slope is not None:
                yield compared(f"LoRA r={rank}", slope, pd.concat([full, lora]))


CLAIMS = (
    lora_for_ift_not_cpt,
    code_needs_the_highest_rank,
    alpha_of_twice_the_rank,
    lora_needs_more_epochs,
)
