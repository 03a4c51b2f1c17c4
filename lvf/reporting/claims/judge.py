"""The paper's claims judged by records: supported, contradicted or undecided, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lvf.reporting.claims import (
    ablations,
    forgetting,
    learning,
    learning_rates,
    rules,
    weights_and_samples,
)
from lvf.reporting.claims.claim import Claim
from lvf.reporting.claims.evidence import Comparison, evidence_sets
from lvf.reporting.stats.seeds import holm


def place(number: str) -> tuple[int, int, str]:
    """Where a claim of this number stands in the list."""
    if not number[0].isdigit():
        return (2 if number.startswith("rule") else 0), 0, number
    return 1, int(number.rstrip("abcde")), number


LEVEL = 0.05
MODULES = (learning, forgetting, ablations, learning_rates, weights_and_samples, rules)
CLAIMS: tuple[Claim, ...] = tuple(
    sorted((claim for module in MODULES for claim in module.CLAIMS), key=lambda x: place(x.number))
)
"""In the paper's order: its title, its claims by number, its rules."""
SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the records of an evidence set say about a claim."""

    evidence_set: str
    """`published` for the paper's numbers, else the scale and model of our records."""
    number: str
    name: str
    section: str
    statement: str
    test: str
    """What is compared; the effect is positive where it is as the paper says."""
    verdict: str
    """`supported`, `contradicted` or `undecided`."""
    effect: float | None
    """Of the comparison that decides; positive is as the paper says."""
    low: float | None
    high: float | None
    """Ends of its 95 % interval, not corrected for the number of claims."""
    unit: str
    p: float | None
    """Two-sided, corrected by Holm over all claims of the evidence set."""
    reason: str
    """The comparison that decides, or what is missing."""
    comparisons: tuple[Comparison, ...]
    records: tuple[str, ...]
    """`run_id/checkpoint` of every model that took part."""


def judge(
    models: pd.DataFrame, scores: pd.DataFrame, claims: Sequence[Claim] = CLAIMS
) -> list[Verdict]:
    """Judge claims by every evidence set.

    A claim has one or more comparisons, all of which must hold. It is supported where every
    comparison is significantly as claimed (intersection-union test: the largest p counts, no
    correction needed), and contradicted where a comparison is significantly the opposite (the
    smallest p, times the number of comparisons). Twice the smaller of both is corrected by Holm
    over the claims of the evidence set and compared with 5 %.

    Args:
        models: `Selection.models` of `lvf.reporting.select.selection.select`.
        scores: rows as of `lvf.records.store.load`, for claims on diversity, weights and cost.
        claims: those to judge.
    """
    verdicts: list[Verdict] = []
    for evidence in evidence_sets(models, scores):
        compared = [tuple(claim.comparisons(evidence.having(claim.measures))) for claim in claims]
        sides = [_sides(comparisons) for comparisons in compared]
        adjusted = iter(holm([2 * min(side) for side in sides if side is not None]))
        for claim, comparisons, side in zip(claims, compared, sides, strict=True):
            p = None if side is None else next(adjusted)
            verdicts.append(_verdict(claim, evidence.evidence_set, comparisons, side, p))
    return verdicts


def as_table(verdicts: list[Verdict]) -> pd.DataFrame:
    """One row per verdict; records and comparisons as text."""
    rows = []
    for verdict in verdicts:
        comparisons = "; ".join(comparison.text() for comparison in verdict.comparisons)
        records = " ".join(verdict.records)
        rows.append({**vars(verdict), "comparisons": comparisons, "records": records})
    return pd.DataFrame(rows, columns=pd.Index(list(Verdict.__dataclass_fields__)))


def _sides(comparisons: tuple[Comparison, ...]) -> tuple[float, float] | None:
    """p values for the claim and against it; None where no comparison has an error."""
    known = [x for x in comparisons if x.p_for is not None and x.p_against is not None]
    if not known:
        return None
    against = min(x.p_against or 0.0 for x in known) * len(known)
    unknown = len(known) < len(comparisons)  # then not every comparison can hold
    return (1.0 if unknown else max(x.p_for or 0.0 for x in known)), min(1.0, against)


def _verdict(
    claim: Claim,
    evidence_set: str,
    comparisons: tuple[Comparison, ...],
    sides: tuple[float, float] | None,
    p: float | None,
) -> Verdict:
    verdict = UNDECIDED
    if sides is not None and p is not None and p < LEVEL:
        verdict = SUPPORTED if sides[0] < sides[1] else CONTRADICTED
    deciding = _deciding(comparisons, verdict)
    return Verdict(
        evidence_set=evidence_set, number=claim.number, name=claim.name, section=claim.section,
        statement=claim.statement, test=claim.test, verdict=verdict, unit=claim.unit, p=p,
        effect=deciding.value if deciding else None,
        low=deciding.low if deciding else None, high=deciding.high if deciding else None,
        reason=_reason(claim, comparisons, deciding), comparisons=comparisons,
        records=tuple(dict.fromkeys(name for x in comparisons for name in x.records)),
    )  # fmt: skip


def _deciding(comparisons: tuple[Comparison, ...], verdict: str) -> Comparison | None:
    """The comparison furthest from the claim: it refutes, or it is the last to agree."""
    unknown = [x for x in comparisons if x.p_for is None]
    if unknown and verdict == UNDECIDED:
        return unknown[0]
    known = [x for x in comparisons if x.p_for is not None]
    return max(known, key=lambda x: x.p_for or 0.0, default=None)


def _reason(claim: Claim, comparisons: tuple[Comparison, ...], deciding: Comparison | None) -> str:
    if deciding is None:
        return f"no records of {claim.needs}"
    if deciding.p_for is None:
        return f"{deciding.name}: {deciding.note or 'no error is known'}"
    reason = deciding.name
    if len(comparisons) > 1:
        hold = sum(x.p_for is not None and x.p_for < LEVEL / 2 for x in comparisons)
        reason += f" (the weakest; {hold} of {len(comparisons)} comparisons hold by themselves)"
    return reason if deciding.seeds > 1 else f"{reason}; single runs, no seed noise"
