"""The paper's claims on forgetting and on its price (its sections 4.2 and 4.3)."""

from collections.abc import Iterator

import pandas as pd

from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import Evidence, Part, part, unknown_part
from lvf.reporting.claims.learning import full_minus_lora, ranks_in_order, same_methods
from lvf.reporting.select.variants import common, slope_weights
from lvf.reporting.stats.contrast import combined, contrast
from lvf.reporting.stats.matched import Matched, Undecided, matched_learning

BOTH = ("target", "forgetting")


@claim(
    "title b", "title", "LoRA forgets less than full finetuning",
    needs="LoRA and full finetuning with a forgetting average", measures=("forgetting",),
)  # fmt: skip
def lora_forgets_less(evidence: Evidence) -> Iterator[Part]:
    """Each rank's forgetting average minus full's, mean over durations."""
    for domain, regime in evidence.conditions():
        yield from full_minus_lora(evidence, domain, regime, "forgetting", -1)


@claim(
    "title c", "beyond", "LoRA forgets less than full finetuning, by the loss on source text",
    needs="LoRA and full finetuning with held-out source NLL", measures=("nll_source",),
    unit="nats per token",
)  # fmt: skip
def lora_keeps_source_loss(evidence: Evidence) -> Iterator[Part]:
    """Full's held-out source NLL minus each rank's, mean over durations."""
    for domain, regime in evidence.conditions():
        yield from full_minus_lora(evidence, domain, regime, "nll_source", 1)


@claim(
    "5a", "4.2", "Instruction finetuning forgets more than continued pre-training",
    needs="both regimes of one domain", measures=("forgetting",),
)  # fmt: skip
def ift_forgets_more_than_cpt(evidence: Evidence) -> Iterator[Part]:
    """CPT minus IFT, at the longest duration of each, mean over the methods that both have."""
    for domain in dict(evidence.conditions("ift")):
        yield from _condition_gap(evidence, domain, (domain, "cpt"), (domain, "ift"))


@claim(
    "5b", "4.2", "Code forgets more than maths",
    needs="both domains of one regime", measures=("forgetting",),
)  # fmt: skip
def code_forgets_more_than_math(evidence: Evidence) -> Iterator[Part]:
    """Maths minus code, at the longest duration of each, mean over the methods that both have."""
    for regime in ("cpt", "ift"):
        yield from _condition_gap(evidence, regime, ("math", regime), ("code", regime))


@claim(
    "5c", "4.2", "Forgetting grows with training duration",
    needs="several durations", measures=("forgetting",), unit="score per doubling",
)  # fmt: skip
def forgetting_grows_with_duration(evidence: Evidence) -> Iterator[Part]:
    """Fall of the forgetting average over log2(duration), mean over methods."""
    for domain, regime in evidence.conditions():
        by_method = [evidence.rows(domain, regime, x) for x in evidence.labels(domain, regime)]
        several = [rows for rows in by_method if rows.duration.nunique() > 1]
        if several:
            weights = combined(*((-1 / len(several), slope_weights(rows)) for rows in several))
            found = contrast(evidence.models, "forgetting", weights)
            if found is not None:
                yield part(f"{domain} {regime}", found, pd.concat(several))


@claim(
    "5d", "4.2", "Lower ranks forget less",
    needs="several LoRA ranks", measures=("forgetting",),
)  # fmt: skip
def rank_orders_forgetting(evidence: Evidence) -> Iterator[Part]:
    """Each rank's forgetting average minus that of the next higher, mean over durations."""
    yield from ranks_in_order(evidence, "forgetting", -1)


@claim(
    "5e", "4.2", "Continued pre-training on maths forgets least",
    needs="continued pre-training on maths and another condition", measures=("forgetting",),
)  # fmt: skip
def math_cpt_forgets_least(evidence: Evidence) -> Iterator[Part]:
    """Maths CPT minus each other condition, at the longest durations, mean over methods."""
    for other in evidence.conditions():
        if other != ("math", "cpt") and ("math", "cpt") in evidence.conditions():
            yield from _condition_gap(evidence, " ".join(other), ("math", "cpt"), other)


@claim(
    "6a", "4.3", "On code LoRA has the better trade-off: at equal learning it forgets less",
    needs="LoRA and full finetuning on code at levels that meet", measures=BOTH,
    unit="score at equal learning or forgetting",
)  # fmt: skip
def lora_trades_better_on_code(evidence: Evidence) -> Iterator[Part]:
    """Frontier of the highest rank minus full's: forgetting at equal learning, or the reverse."""
    for domain, regime in evidence.conditions():
        if domain == "code":
            yield from _frontier_gap(evidence, domain, regime, -1)


@claim(
    "6b", "4.3", "On maths instruction finetuning full finetuning has the better trade-off",
    needs="LoRA and full finetuning on maths IFT at levels that meet", measures=BOTH,
    unit="score at equal learning or forgetting",
)  # fmt: skip
def full_trades_better_on_math_ift(evidence: Evidence) -> Iterator[Part]:
    """Full's frontier minus the highest rank's: forgetting at equal learning, or the reverse."""
    yield from _frontier_gap(evidence, "math", "ift", 1)


@claim(
    "6c", "4.3", "In continued pre-training on maths the two overlap until, with more tokens, "
    "full finetuning learns what LoRA does not reach",
    needs="several durations of continued pre-training on maths", measures=BOTH,
)  # fmt: skip
def full_breaks_away_in_math_cpt(evidence: Evidence) -> Iterator[Part]:
    """Full minus the highest rank in target score: at the later half of durations, and there more
    than at the earlier half."""
    for label in evidence.lora_labels("math", "cpt")[-1:]:
        full, lora = common(*evidence.sides("math", "cpt", label))
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
        yield from evidence.estimate(f"later, {label}", "target", *late)
        yield from evidence.estimate(f"later minus earlier, {label}", "target", *late, *before)


def _condition_gap(
    evidence: Evidence, name: str, less: tuple[str, str], more: tuple[str, str]
) -> Iterator[Part]:
    """Forgetting average of one condition minus that of another, over their common methods."""
    kept = same_methods(evidence, less, more)
    yield from evidence.estimate(name, "forgetting", (1, kept[0]), (-1, kept[1]))


def _frontier_gap(evidence: Evidence, domain: str, regime: str, sign: int) -> Iterator[Part]:
    """Gap of the frontiers, full minus the highest rank, times sign.

    Of the highest rank alone, so that both have as many durations to choose from. Forgetting at
    equal learning; where the two share no level of it, learning at equal forgetting.
    """
    for label in evidence.lora_labels(domain, regime)[-1:]:
        full, lora = evidence.sides(domain, regime, label)
        rows = pd.concat([full, lora])
        gap = matched_learning(full, lora, "target", "forgetting")
        name = f"{domain} {regime}, {label}"
        if isinstance(gap, Undecided):
            reason = gap.reason
            gap = matched_learning(full, lora, "forgetting", "target")
            name += ", learning at equal forgetting"
        if isinstance(gap, Undecided):
            yield unknown_part(f"{domain} {regime}, {label}", rows, f"{reason}; {gap.reason}")
        else:
            ends = sorted((sign * gap.low, sign * gap.high))
            yield part(name, Matched(sign * gap.value, ends[0], ends[1], gap.levels), rows)


CLAIMS = (
    lora_forgets_less,
    lora_keeps_source_loss,
    ift_forgets_more_than_cpt,
    code_forgets_more_than_math,
    forgetting_grows_with_duration,
    rank_orders_forgetting,
    math_cpt_forgets_least,
    lora_trades_better_on_code,
    full_trades_better_on_math_ift,
    full_breaks_away_in_math_cpt,
)
