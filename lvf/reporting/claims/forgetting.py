"""The paper's claims on forgetting and on its price (its sections 4.2 and 4.3)."""

from collections.abc import Iterator

import pandas as pd

from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import Comparison, Evidence, compared, not_compared
from lvf.reporting.claims.learning import full_minus_lora, ranks_in_order, same_methods
from lvf.reporting.select.compare import common, slope_weights
from lvf.reporting.stats.contrast import combined, linear, negative
from lvf.reporting.stats.frontier import Incomparable, matched_learning

BOTH = ("target", "retention")


@claim(
    "title b", "title", "LoRA forgets less than full finetuning",
    needs="LoRA and full finetuning with retention", measures=("retention",), primary=True,
)  # fmt: skip
def lora_forgets_less(evidence: Evidence) -> Iterator[Comparison]:
    """Each rank's retention minus full's, mean over durations."""
    for domain, regime in evidence.conditions():
        yield from full_minus_lora(evidence, domain, regime, "retention", -1)


@claim(
    "title c", "beyond", "LoRA forgets less than full finetuning, by the loss on source text",
    needs="LoRA and full finetuning with held-out source NLL", measures=("nll_source",),
    unit="nats per token",
)  # fmt: skip
def lora_keeps_source_loss(evidence: Evidence) -> Iterator[Comparison]:
    """Full's held-out source NLL minus each rank's, mean over durations."""
    for domain, regime in evidence.conditions():
        yield from full_minus_lora(evidence, domain, regime, "nll_source", 1)


@claim(
    "5a", "4.2", "Instruction finetuning forgets more than continued pre-training",
    needs="both regimes of one domain", measures=("retention",),
    bound_to="which texts a regime trains on",
)  # fmt: skip
def ift_forgets_more_than_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """CPT minus IFT, at the longest duration of each, mean over the methods that both have."""
    for domain in dict(evidence.conditions("ift")):
        yield from _condition_gap(evidence, domain, (domain, "cpt"), (domain, "ift"))


@claim(
    "5b", "4.2", "Code forgets more than maths",
    needs="both domains of one regime", measures=("retention",),
    bound_to="which texts a domain trains on",
)  # fmt: skip
def code_forgets_more_than_math(evidence: Evidence) -> Iterator[Comparison]:
    """Maths minus code, at the longest duration of each, mean over the methods that both have."""
    for regime in ("cpt", "ift"):
        yield from _condition_gap(evidence, regime, ("math", regime), ("code", regime))


@claim(
    "5c", "4.2", "Forgetting grows with training duration",
    needs="several durations", measures=("retention",), unit="score per doubling",
)  # fmt: skip
def forgetting_grows_with_duration(evidence: Evidence) -> Iterator[Comparison]:
    """Fall of the retention over log2(duration), mean over methods."""
    for domain, regime in evidence.conditions():
        methods = evidence.methods(domain, regime)
        several = [rows for rows in methods if rows.duration.nunique() > 1]
        if several:
            weights = combined(*((-1 / len(several), slope_weights(rows)) for rows in several))
            slope = linear(evidence.models, "retention", weights)
            if slope is not None:
                yield compared(f"{domain} {regime}", slope, pd.concat(several))


@claim(
    "5d", "4.2", "Lower ranks forget less",
    needs="several LoRA ranks", measures=("retention",),
)  # fmt: skip
def rank_orders_forgetting(evidence: Evidence) -> Iterator[Comparison]:
    """Each rank's retention minus that of the next higher, mean over durations."""
    yield from ranks_in_order(evidence, "retention", -1)


@claim(
    "5e", "4.2", "Continued pre-training on maths forgets least",
    needs="continued pre-training on maths and another condition", measures=("retention",),
    bound_to="which texts a condition trains on",
)  # fmt: skip
def math_cpt_forgets_least(evidence: Evidence) -> Iterator[Comparison]:
    """Maths CPT minus each other condition, at the longest durations, mean over methods."""
    for other in evidence.conditions():
        if other != ("math", "cpt") and ("math", "cpt") in evidence.conditions():
            yield from _condition_gap(evidence, " ".join(other), ("math", "cpt"), other)


@claim(
    "6", "4.3", "At equal learning LoRA forgets less than full finetuning, by score and by loss",
    needs="LoRA and full finetuning at levels that meet", measures=BOTH, primary=True,
)  # fmt: skip
def lora_trades_better(evidence: Evidence) -> Iterator[Comparison]:
    """Each rank's frontier minus full's: retention at equal target score, and at equal loss on
    held-out target text. Both must hold."""
    for domain, regime in evidence.conditions():
        for rank in evidence.ranks(domain, regime):
            full, lora = evidence.sides(domain, regime, rank)
            rows = pd.concat([full, lora])
            for learning, part in (("target", "equal score"), ("nll_target", "equal loss")):
                name = f"{domain} {regime}, LoRA r={rank}, {part}"
                gap = matched_learning(evidence.models, lora, full, learning, "retention")
                if not isinstance(gap, Incomparable):
                    yield compared(name, gap, rows, part)
                elif rows[learning].notna().any():
                    yield not_compared(name, rows, gap.reason, part)


@claim(
    "6a", "4.3", "On code LoRA has the better trade-off: at equal learning it forgets less",
    needs="LoRA and full finetuning on code at levels that meet", measures=BOTH,
    unit="score at equal learning or forgetting",
)  # fmt: skip
def lora_trades_better_on_code(evidence: Evidence) -> Iterator[Comparison]:
    """Frontier of the highest rank minus full's: forgetting at equal learning, or the reverse."""
    for domain, regime in evidence.conditions():
        if domain == "code":
            yield from _frontier_gap(evidence, domain, regime, -1)


@claim(
    "6b", "4.3", "On maths instruction finetuning full finetuning has the better trade-off",
    needs="LoRA and full finetuning on maths IFT at levels that meet", measures=BOTH,
    unit="score at equal learning or forgetting",
)  # fmt: skip
def full_trades_better_on_math_ift(evidence: Evidence) -> Iterator[Comparison]:
    """Full's frontier minus the highest rank's: forgetting at equal learning, or the reverse."""
    yield from _frontier_gap(evidence, "math", "ift", 1)


@claim(
    "6c", "4.3", "In continued pre-training on maths the two overlap until, with more tokens, "
    "full finetuning learns what LoRA does not reach",
    needs="several durations of continued pre-training on maths", measures=BOTH,
)  # fmt: skip
def full_breaks_away_in_math_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """Full minus the highest rank in target score: at the later half of durations, and there more
    than at the earlier half."""
    for rank in evidence.ranks("math", "cpt")[-1:]:
        full, lora = common(*evidence.sides("math", "cpt", rank))
        durations = sorted(set(full.duration))
        early = set(durations[: len(durations) // 2])
        if not early:
            return
        halves = {
            (side, when): rows[rows.duration.isin(early) == (when == "early")]
            for side, rows in (("full", full), ("lora", lora))
            for when in ("early", "late")
        }
        late = (1, halves["full", "late"]), (-1, halves["lora", "late"])
        before = (-1, halves["full", "early"]), (1, halves["lora", "early"])
        yield from evidence.estimate(f"later, LoRA r={rank}", "target", *late, part="later")
        yield from evidence.estimate(
            f"later minus earlier, LoRA r={rank}", "target", *late, *before, part="growth"
        )


def _condition_gap(
    evidence: Evidence, name: str, less: tuple[str, str], more: tuple[str, str]
) -> Iterator[Comparison]:
    """Retention in one condition minus that of another, over their common methods."""
    kept = same_methods(evidence, less, more)
    yield from evidence.estimate(name, "retention", (1, kept[0]), (-1, kept[1]))


def _frontier_gap(evidence: Evidence, domain: str, regime: str, sign: int) -> Iterator[Comparison]:
    """Gap of the frontiers, full minus the highest rank, times sign.

    Of the highest rank alone, so that both have as many durations to choose from. Forgetting at
    equal learning; where the two share no level of it, learning at equal forgetting.
    """
    for rank in evidence.ranks(domain, regime)[-1:]:
        full, lora = evidence.sides(domain, regime, rank)
        rows = pd.concat([full, lora])
        gap = matched_learning(evidence.models, full, lora, "target", "retention")
        name = f"{domain} {regime}, LoRA r={rank}"
        reason = ""
        if isinstance(gap, Incomparable):
            reason = gap.reason
            gap = matched_learning(evidence.models, full, lora, "retention", "target")
            name += ", learning at equal forgetting"
        if isinstance(gap, Incomparable):
            name = f"{domain} {regime}, LoRA r={rank}"
            yield not_compared(name, rows, f"{reason}; nor of forgetting")
        else:
            yield compared(name, gap if sign > 0 else negative(gap), rows)


CLAIMS = (
    lora_forgets_less,
    lora_keeps_source_loss,
    ift_forgets_more_than_cpt,
    code_forgets_more_than_math,
    forgetting_grows_with_duration,
    rank_orders_forgetting,
    math_cpt_forgets_least,
    lora_trades_better,
    lora_trades_better_on_code,
    full_trades_better_on_math_ift,
    full_breaks_away_in_math_cpt,
)
