"""The paper's practical rules (its section 4.7), each judged like a claim."""

from collections.abc import Iterator
from dataclasses import replace

from lvf.reporting.claims.ablations import alpha_pairs
from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import HIGHEST, Comparison, Evidence
from lvf.reporting.claims.forgetting import BOTH
from lvf.reporting.claims.learning import closes_gap
from lvf.reporting.select.compare import common, longest, with_score


@claim(
    "rule a", "4.7", "Use LoRA for instruction finetuning, not for continued pre-training",
    needs="LoRA and full finetuning with target and forgetting", measures=BOTH,
)  # fmt: skip
def lora_for_ift_not_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """IFT: the highest rank has 90 % of full's gain and forgets less at the longest duration;
    CPT: it has less than 90 %."""
    for pair in evidence.pairs(ranks=HIGHEST):
        sign = 1 if pair.regime == "ift" else -1
        yield from closes_gap(evidence, pair, sign, f"{pair.regime} gain")
        if pair.regime == "ift":
            full, lora = longest(pair.full, pair.lora)
            name, terms = f"{pair.name}, forgetting", ((1, lora), (-1, full))
            yield from evidence.estimate(name, "retention", *terms, part="ift forgetting")


@claim(
    "rule b", "4.7", "Take the highest rank: lower ones do not suffice for code",
    needs="several ranks and full finetuning in code instruction finetuning",
)  # fmt: skip
def code_needs_the_highest_rank(evidence: Evidence) -> Iterator[Comparison]:
    """The highest rank has 90 % of full finetuning's gain, every lower rank has less."""
    pairs = list(evidence.pairs("ift", "code"))
    if len(pairs) > 1:
        yield from closes_gap(evidence, pairs[-1], 1, "highest rank")
        for pair in pairs[:-1]:
            yield from closes_gap(evidence, pair, -1, "lower ranks")


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
    evidence = replace(evidence, models=models)
    rows = models[(models.domain == "chat") & models.is_chosen & models.mt_bench.notna()]
    rows = rows[(rows.role == "main") & rows.dataset.str.contains("tulu")]
    for rank in sorted(rows["rank"].dropna().unique()):
        full, lora = common(rows[rows.method == "full"], rows[rows["rank"] == rank])
        yield from evidence.slope(f"LoRA r={rank}", "mt_bench", (-1, full), (1, lora))
