"""The paper's claims judged by records: docs/verdicts.md says how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
from scipy.stats import false_discovery_control

from lvf.reporting.claims import (
    ablations,
    follow_ups,
    forgetting,
    learning,
    learning_rates,
    rules,
    weights_and_samples,
)
from lvf.reporting.claims.claim import Claim
from lvf.reporting.claims.evidence import Comparison, Evidence, evidence_sets
from lvf.reporting.claims.parts import Part, parts_of_claim
from lvf.reporting.stats.pooling import holm


def place(number: str) -> tuple[int, int, str]:
    """Where a claim of this number stands in the list."""
    if not number[0].isdigit():
        return {"title": 0, "rule": 2, "later": 3}[number.split()[0]], 0, number
    return 1, int(number.rstrip("abcde")), number


MODULES = (learning, forgetting, ablations, learning_rates, weights_and_samples, rules, follow_ups)
_FOUND = (x for module in MODULES for x in vars(module).values() if isinstance(x, Claim))
CLAIMS = tuple(sorted(_FOUND, key=lambda claim: place(claim.number)))
"""In the paper's order: its title, its claims by number, its rules; then those of later papers."""
FAMILIES = Counter(claim.family for claim in CLAIMS)
"""How many claims share a correction: the primary ones, the paper's others, later papers'."""
PRIMARY_LEVEL, OTHER_LEVEL = 0.04, 0.01
"""Chance of any wrong verdict among the primary claims (Holm), and share of wrong verdicts among
those of each other family (Benjamini and Hochberg): 5 % of the paper's where nothing differs."""
SPREAD_SHARE = 0.1
"""Share of a claim's error that goes to the test whether conditions differ."""
HOLDS, FAILS, MIXED = "holds", "fails", "mixed"
TOO_FEW, NOT_APPLICABLE, DIRECTION = "too few seeds", "not applicable", "direction only"


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
    primary: bool
    verdict: str
    """`holds`, `fails`, `mixed`, `too few seeds`, `not applicable` or `direction only`."""
    effect: float | None = None
    """Random-effects mean over conditions, of the part furthest from the claim."""
    low: float | None = None
    high: float | None = None
    """Ends of its 95 % interval for these conditions: the noise of items and seeds."""
    low_elsewhere: float | None = None
    high_elsewhere: float | None = None
    """Ends of its 95 % interval for conditions like these: with the spread between conditions."""
    spread: float | None = None
    """Standard deviation of the true effects between conditions."""
    agree: int = 0
    """Comparisons on the claim's side of zero."""
    compared: int = 0
    """Comparisons that have a number."""
    seeds: int = 0
    """Fewest runs of any compared setting that differ in their seed alone."""
    unit: str = ""
    p: float | None = None
    """Corrected over the primary claims, or over the others."""
    reason: str = ""
    comparisons: tuple[Comparison, ...] = ()
    records: tuple[str, ...] = ()
    """`run_id/checkpoint` of every model that took part."""


def judge(
    models: pd.DataFrame,
    scores: pd.DataFrame,
    claims: Sequence[Claim] = CLAIMS,
    altered: pd.DataFrame | None = None,
) -> list[Verdict]:
    """Judge claims by every evidence set; docs/verdicts.md has the rules and their reasons.

    Args:
        models: `Selection.models` of `lvf.reporting.select.selection.select`.
        scores: rows as of `lvf.records.store.load`, for claims on diversity, weights and cost.
        claims: those to judge. The corrections are always for the whole list.
        altered: `Selection.altered`, for claims on updates that were altered after training.
    """
    verdicts: list[Verdict] = []
    for evidence in evidence_sets(models, scores, altered):
        tests = [_test(claim, evidence) for claim in claims]
        for name, size in FAMILIES.items():
            family = [one for one in tests if one.p is not None and one.claim.family == name]
            p_values = [one.p or 0.0 for one in family]
            if name == "primary":
                adjusted, level = holm(p_values, size), PRIMARY_LEVEL
            else:
                padded = [*p_values, *[1.0] * max(size - len(p_values), 0)]
                adjusted, level = list(false_discovery_control(padded, method="bh")), OTHER_LEVEL
            for one, p in zip(family, adjusted, strict=False):
                one.decide(p, level)
        verdicts += [one.verdict for one in tests]
    return verdicts


class _Test:
    """A claim's verdict, which the corrected p may still decide."""

    def __init__(self, claim: Claim, verdict: Verdict, parts: Sequence[Part] = ()) -> None:
        self.claim, self.verdict, self.parts = claim, verdict, parts
        self.p: float | None = None
        if not parts or not all(one.has_error for one in parts):
            return
        self.share = SPREAD_SHARE if any(len(one.conditions) > 1 for one in parts) else 0.0
        self.p_holds = max(one.p_not(1) for one in parts)
        self.p_fails = len(parts) * min(one.p_not(-1) for one in parts)
        self.p_spread = len(parts) * min(one.pooled.p_spread for one in parts)
        either = 2 * min(self.p_holds, self.p_fails) / (1 - self.share)
        self.p = min(1.0, either, self.p_spread / self.share if self.share else 1.0)

    def decide(self, adjusted: float, level: float) -> None:
        """Take the verdict that the p values allow.

        Args:
            adjusted: the claim's p after the correction.
            level: that it is compared with.
        """
        self.verdict = replace(self.verdict, p=min(1.0, float(adjusted)))
        if adjusted >= level or self.p is None:
            return
        raw = self.p * level / adjusted if adjusted > 0 else level
        cut, spread_cut = raw * (1 - self.share) / 2, raw * self.share
        holds, fails = self.p_holds <= cut, self.p_fails <= cut
        some_part_holds = len(self.parts) > 1 and any(one.p_not(1) <= cut for one in self.parts)
        torn = fails and some_part_holds
        for sign, decided in ((1, holds), (-1, fails)):
            shown = [one for one in self.parts if one.p_not(sign) <= cut]
            torn |= decided and any(one.differs(sign, cut, spread_cut) for one in shown)
        if torn or not (holds or fails):
            reason = f"conditions differ beyond noise: {self.verdict.reason}"
            self.verdict = replace(self.verdict, verdict=MIXED, reason=reason)
        else:
            self.verdict = replace(self.verdict, verdict=HOLDS if holds else FAILS)


def _test(claim: Claim, evidence: Evidence) -> _Test:
    """The claim's comparisons, and the verdict where no test can change it."""
    verdict = Verdict(
        evidence_set=evidence.evidence_set, number=claim.number, name=claim.name,
        section=claim.section, statement=claim.statement, test=claim.test, primary=claim.primary,
        verdict=NOT_APPLICABLE,
    )  # fmt: skip
    comparisons = tuple(claim.comparisons(evidence.having(claim.measures)))
    if not comparisons:
        return _Test(claim, replace(verdict, reason=f"no records of {claim.needs}"))
    records = tuple(dict.fromkeys(name for one in comparisons for name in one.records))
    verdict = replace(verdict, comparisons=comparisons, records=records, unit=claim.unit)
    if claim.bound_to and evidence.is_generated:
        reason = f"depends on {claim.bound_to}, which generated data cannot decide"
        return _Test(claim, replace(verdict, reason=reason))
    parts = parts_of_claim(comparisons)
    if not parts:
        reason = f"{comparisons[0].name}: {comparisons[0].note}"
        return _Test(claim, replace(verdict, reason=reason))
    known = [one for part in parts for one in part.comparisons]
    weakest = min(parts, key=lambda one: one.strength)
    ends = weakest.here.interval() or (None, None)
    wide = weakest.pooled.mean.interval() or (None, None)
    agree = sum(one.estimate is not None and one.estimate.value > 0 for one in known)
    verdict = replace(
        verdict, verdict=TOO_FEW, effect=weakest.here.value, low=ends[0], high=ends[1],
        low_elsewhere=wide[0], high_elsewhere=wide[1],
        spread=weakest.pooled.spread if len({x.condition for x in known}) > 1 else None,
        agree=agree, compared=len(known), seeds=min(one.seeds for one in known),
        reason=_reason(comparisons, parts, weakest),
    )  # fmt: skip
    if evidence.is_published:
        return _Test(claim, _direction(verdict, parts, weakest))
    return _Test(claim, verdict, parts)


def _reason(comparisons: tuple[Comparison, ...], parts: Sequence[Part], weakest: Part) -> str:
    """How many comparisons agree, the part that the effect is of, and what is left out."""
    known = [one for part in parts for one in part.comparisons]
    lowest = min(known, key=lambda one: one.strength)
    texts = [f"lowest: {lowest.text()}"]
    if len(parts) > 1:
        texts.insert(0, f"effect of the part {weakest.comparisons[0].part!r}")
    if not all(one.has_error for one in parts) and max(one.seeds for one in known) > 1:
        texts.append("no seed variance with four degrees of freedom")
    silent = [one for one in comparisons if one.contrast is None]
    if silent:
        texts.append(f"{len(silent)} not compared ({silent[0].name}: {silent[0].note})")
    return "; ".join(texts)


def _direction(verdict: Verdict, parts: Sequence[Part], weakest: Part) -> Verdict:
    """Of single runs: whether every part's mean agrees, and the noise that would undo it."""
    agrees = all(one.here.value > 0 for one in parts)
    reason = "agrees" if agrees else "disagrees"
    limit = weakest.contrast.seed_deviation_limit()
    if limit is not None:
        reason += f" up to a seed deviation of {limit:.3f}" if limit else " within item noise"
    return replace(verdict, verdict=DIRECTION, reason=f"{reason}; {verdict.reason}")


def as_table(verdicts: list[Verdict]) -> pd.DataFrame:
    """One row per verdict; records and comparisons as text."""
    rows = []
    for verdict in verdicts:
        comparisons = "; ".join(comparison.text() for comparison in verdict.comparisons)
        records = " ".join(verdict.records)
        rows.append({**vars(verdict), "comparisons": comparisons, "records": records})
    return pd.DataFrame(rows, columns=pd.Index(list(Verdict.__dataclass_fields__)))
