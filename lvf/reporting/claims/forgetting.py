"""The paper's claims on forgetting and on its price (its sections 4.2 and 4.3)."""

from collections.abc import Iterator

import pandas as pd

from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import HIGHEST, Comparison, Evidence, compared
from lvf.reporting.claims.learning import condition_gap, full_minus_lora, ranks_in_order
from lvf.reporting.select.compare import common
from lvf.reporting.stats.contrast import negative
from lvf.reporting.stats.frontier import matched_learning

BOTH = ("target", "retention")


@claim(
    "title b", "title", "LoRA forgets less than full finetuning",
    needs="LoRA and full finetuning with retention", measures=("retention",), primary=True,
)  # fmt: skip
def lora_forgets_less(evidence: Evidence) -> Iterator[Comparison]:
    """Each rank's retention minus full's, mean over durations."""
    yield from full_minus_lora(evidence, "retention", -1)


@claim(
    "title c", "beyond", "LoRA forgets less than full finetuning, by the loss on source text",
    needs="LoRA and full finetuning with held-out source NLL", measures=("nll_source",),
    unit="nats per token",
)  # fmt: skip
def lora_keeps_source_loss(evidence: Evidence) -> Iterator[Comparison]:
    """Full's held-out source NLL minus each rank's, mean over durations."""
    yield from full_minus_lora(evidence, "nll_source", 1)


@claim(
    "5a", "4.2", "Instruction finetuning forgets more than continued pre-training",
    needs="both regimes of one domain", measures=("retention",),
    bound_to="which texts a regime trains on",
)  # fmt: skip
def ift_forgets_more_than_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """CPT minus IFT, at the longest duration of each, mean over the methods that both have."""
    for domain in dict(evidence.conditions("ift")):
        conditions = (domain, "cpt"), (domain, "ift")
        yield from condition_gap(evidence, domain, "retention", *conditions)


@claim(
    "5b", "4.2", "Code forgets more than maths",
    needs="both domains of one regime", measures=("retention",),
    bound_to="which texts a domain trains on",
)  # fmt: skip
def code_forgets_more_than_math(evidence: Evidence) -> Iterator[Comparison]:
    """Maths minus code, at the longest duration of each, mean over the methods that both have."""
    for regime in ("cpt", "ift"):
        conditions = ("math", regime), ("code", regime)
        yield from condition_gap(evidence, regime, "retention", *conditions)


@claim(
    "5c", "4.2", "Forgetting grows with training duration",
    needs="several durations", measures=("retention",), unit="score per doubling",
)  # fmt: skip
def forgetting_grows_with_duration(evidence: Evidence) -> Iterator[Comparison]:
    """Fall of the retention over log2(duration), mean over methods."""
    for domain, regime in evidence.conditions():
        methods = evidence.methods(domain, regime).values()
        several = [rows for rows in methods if rows.duration.nunique() > 1]
        if several:
            terms = [(-1 / len(several), rows) for rows in several]
            yield from evidence.slope(f"{domain} {regime}", "retention", *terms)


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
    math_cpt = ("math", "cpt")
    for other in evidence.conditions():
        if other != math_cpt:
            yield from condition_gap(evidence, " ".join(other), "retention", math_cpt, other)


@claim(
    "6", "4.3", "At equal learning LoRA forgets less than full finetuning, by score and by loss",
    needs="LoRA and full finetuning at levels that meet", measures=BOTH, primary=True,
)  # fmt: skip
def lora_trades_better(evidence: Evidence) -> Iterator[Comparison]:
    """Each rank's frontier minus full's: retention at equal target score, and at equal loss on
    held-out target text. Both must hold."""
    for pair in evidence.pairs():
        yield from at_equal_learning(evidence, pair.name, pair.lora, pair.full)


def at_equal_learning(
    evidence: Evidence, name: str, first: pd.DataFrame, second: pd.DataFrame
) -> Iterator[Comparison]:
    """The first frontier minus the second: retention at equal target score, and at equal loss."""
    rows = pd.concat([first, second])
    for learning, part in (("target", "equal score"), ("nll_target", "equal loss")):
        if rows[learning].notna().any():
            gap = matched_learning(evidence.models, first, second, learning, "retention")
            yield compared(f"{name}, {part}", gap, rows, part)


@claim(
    "6a", "4.3", "On code LoRA has the better trade-off: at equal learning it forgets less",
    needs="LoRA and full finetuning on code at levels that meet", measures=BOTH,
    unit="score at equal learning or forgetting",
)  # fmt: skip
def lora_trades_better_on_code(evidence: Evidence) -> Iterator[Comparison]:
    """Frontier of the highest rank minus full's: forgetting at equal learning, or the reverse."""
    yield from _frontier_gap(evidence, None, "code", -1)


@claim(
    "6b", "4.3", "On maths instruction finetuning full finetuning has the better trade-off",
    needs="LoRA and full finetuning on maths IFT at levels that meet", measures=BOTH,
    unit="score at equal learning or forgetting",
)  # fmt: skip
def full_trades_better_on_math_ift(evidence: Evidence) -> Iterator[Comparison]:
    """Full's frontier minus the highest rank's: forgetting at equal learning, or the reverse."""
    yield from _frontier_gap(evidence, "ift", "math", 1)


@claim(
    "6c", "4.3", "In continued pre-training on maths the two overlap until, with more tokens, "
    "full finetuning learns what LoRA does not reach",
    needs="several durations of continued pre-training on maths", measures=BOTH,
)  # fmt: skip
def full_breaks_away_in_math_cpt(evidence: Evidence) -> Iterator[Comparison]:
    """Full minus the highest rank in target score: at the later half of durations, and there more
    than at the earlier half."""
    for pair in evidence.pairs("cpt", "math", HIGHEST):
        full, lora = common(pair.full, pair.lora)
        durations = sorted(set(full.duration))
        early = durations[: len(durations) // 2]
        if early:
            sides = (1, full), (-1, lora)
            late = [(sign, rows[~rows.duration.isin(early)]) for sign, rows in sides]
            before = [(-sign, rows[rows.duration.isin(early)]) for sign, rows in sides]
            name = f"later, LoRA r={pair.rank}"
            yield from evidence.estimate(name, "target", *late, part="later")
            name = f"later minus earlier, LoRA r={pair.rank}"
            yield from evidence.estimate(name, "target", *late, *before, part="growth")


def _frontier_gap(
    evidence: Evidence, regime: str | None, domain: str, sign: int
) -> Iterator[Comparison]:
    """Gap of the frontiers, full minus the highest rank, times sign.

    Of the highest rank alone, so that both have as many durations to choose from. Forgetting at
    equal learning; where the two share no level of it, learning at equal forgetting.
    """
    for pair in evidence.pairs(regime, domain, HIGHEST):
        sides = evidence.models, pair.full, pair.lora
        name, gap = pair.name, matched_learning(*sides, "target", "retention")
        if isinstance(gap, str):
            swapped = matched_learning(*sides, "retention", "target")
            if isinstance(swapped, str):
                gap = f"{gap}; nor of forgetting"
            else:
                name, gap = f"{name}, learning at equal forgetting", swapped
        if not isinstance(gap, str) and sign < 0:
            gap = negative(gap)
        yield compared(name, gap, pd.concat([pair.full, pair.lora]))
