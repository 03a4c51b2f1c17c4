"""The paper's claims judged by records: supported, contradicted or undecided, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lvf.records.store import load
from lvf.reporting.claims import ablations as claims_settings
from lvf.reporting.claims import forgetting as claims_forgetting
from lvf.reporting.claims import learning as claims_learning
from lvf.reporting.claims import learning_rates as claims_rates
from lvf.reporting.claims import rules as claims_rules
from lvf.reporting.claims import weights_and_samples as claims_beyond
from lvf.reporting.claims.claim import Claim
from lvf.reporting.claims.evidence import Part, corpora
from lvf.reporting.stats.seeds import holm


def place(number: str) -> tuple[int, int, str]:
    """Where a claim of this number stands in the list."""
    if not number[0].isdigit():
        return (2 if number.startswith("rule") else 0), 0, number
    return 1, int(number.rstrip("abcde")), number


LEVEL = 0.05
ROOMS = (
    claims_learning, claims_forgetting, claims_settings, claims_rates, claims_beyond,
    claims_rules,
)  # fmt: skip
CLAIMS: tuple[Claim, ...] = tuple(
    sorted((one for room in ROOMS for one in room.CLAIMS), key=lambda one: place(one.number))
)
"""In the paper's order: its title, its claims by number, its rules."""
SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the records of one corpus say about one claim."""

    corpus: str
    """`published` for the paper's numbers, else the scale and model of our records."""
    number: str
    name: str
    section: str
    statement: str
    test: str
    """What is asked of the records; the effect is positive where it is as the paper says."""
    verdict: str
    """`supported`, `contradicted` or `undecided`."""
    effect: float | None
    """Of the part that decides; positive is as the paper says."""
    low: float | None
    high: float | None
    """Ends of its 95 % interval, not corrected for the number of claims."""
    unit: str
    p: float | None
    """Two-sided, corrected by Holm over all claims of the corpus."""
    reason: str
    """The part that decides, or what is missing."""
    parts: tuple[Part, ...]
    records: tuple[str, ...]
    """`run_id/checkpoint` of every model that took part."""


def judge(
    models: pd.DataFrame, scores: pd.DataFrame | None = None, claims: Sequence[Claim] = CLAIMS
) -> list[Verdict]:
    """Judge claims by every corpus of records.

    A claim has one or more parts, all of which must hold. It is supported where every part is
    significantly as claimed (intersection-union test: the largest p counts, no correction needed),
    and contradicted where one part is significantly the opposite (the smallest p, times the number
    of parts). Twice the smaller of both is corrected by Holm over the claims of the corpus and
    compared with 5 %.

    Args:
        models: rows as of `lvf.records.checkpoints.models`.
        scores: rows as of `lvf.records.store.load`, for claims on diversity, weights and cost.
        claims: those to judge.
    """
    verdicts: list[Verdict] = []
    for evidence in corpora(models, load([]) if scores is None else scores):
        found = [tuple(claim.parts(evidence.having(claim.measures))) for claim in claims]
        sides = [_sides(parts) for parts in found]
        adjusted = iter(holm([2 * min(one) for one in sides if one is not None]))
        for claim, parts, side in zip(claims, found, sides, strict=True):
            p = None if side is None else next(adjusted)
            verdicts.append(_verdict(claim, evidence.corpus, parts, side, p))
    return verdicts


def as_table(verdicts: list[Verdict]) -> pd.DataFrame:
    """One row per verdict; records and parts as text."""
    rows = []
    for one in verdicts:
        row = {**vars(one), "parts": "; ".join(part.text() for part in one.parts)}
        rows.append(row | {"records": " ".join(one.records)})
    return pd.DataFrame(rows, columns=pd.Index(list(Verdict.__dataclass_fields__)))


def _sides(parts: tuple[Part, ...]) -> tuple[float, float] | None:
    """p values for the claim and against it; None where no part has an error."""
    known = [part for part in parts if part.p_for is not None and part.p_against is not None]
    if not known:
        return None
    against = min(part.p_against or 0.0 for part in known) * len(known)
    unknown = len(known) < len(parts)  # then not every part can hold
    return (1.0 if unknown else max(part.p_for or 0.0 for part in known)), min(1.0, against)


def _verdict(
    claim: Claim,
    corpus: str,
    parts: tuple[Part, ...],
    sides: tuple[float, float] | None,
    p: float | None,
) -> Verdict:
    told = UNDECIDED
    if sides is not None and p is not None and p < LEVEL:
        told = SUPPORTED if sides[0] < sides[1] else CONTRADICTED
    deciding = _deciding(parts, told)
    return Verdict(
        corpus=corpus, number=claim.number, name=claim.name, section=claim.section,
        statement=claim.statement, test=claim.test, verdict=told, unit=claim.unit, p=p, parts=parts,
        effect=deciding.value if deciding else None,
        low=deciding.low if deciding else None, high=deciding.high if deciding else None,
        reason=_reason(claim, parts, deciding),
        records=tuple(dict.fromkeys(name for part in parts for name in part.records)),
    )  # fmt: skip


def _deciding(parts: tuple[Part, ...], told: str) -> Part | None:
    """The part furthest from the claim: it refutes, or it is the last to agree."""
    if not parts:
        return None
    unknown = [part for part in parts if part.p_for is None]
    if unknown and told == UNDECIDED:
        return unknown[0]
    return max((part for part in parts if part.p_for is not None), key=lambda one: one.p_for or 0.0)


def _reason(claim: Claim, parts: tuple[Part, ...], deciding: Part | None) -> str:
    if deciding is None:
        return f"no records of {claim.needs}"
    if deciding.p_for is None:
        return f"{deciding.name}: {deciding.note or 'no error is known'}"
    told = deciding.name
    if len(parts) > 1:
        hold = sum(part.p_for is not None and part.p_for < LEVEL / 2 for part in parts)
        told += f" (the weakest; {hold} of {len(parts)} parts hold by themselves)"
    return told if deciding.seeds > 1 else f"{told}; single runs, no seed noise"
