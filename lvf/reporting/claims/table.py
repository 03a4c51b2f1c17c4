"""What is said of verdicts: the answer in three sentences, and the tables of claims."""

from collections.abc import Sequence
from itertools import groupby

import pandas as pd

from lvf.reporting.claims.judge import (
    DIRECTION,
    FAILS,
    HOLDS,
    MIXED,
    NOT_APPLICABLE,
    TOO_FEW,
    Verdict,
)
from lvf.reporting.select.selection import LeftOut
from lvf.reporting.tables.text import markdown, p_text, plain, signed

STYLES = {
    HOLDS: "green", FAILS: "red", MIXED: "yellow", TOO_FEW: "dim", DIRECTION: "cyan",
    NOT_APPLICABLE: "dim",
}  # fmt: skip
HEADINGS = (
    "no.", "the paper says", "verdict", "mean", "95 % here", "95 % elsewhere", "spread", "agree",
    "seeds", "unit", "p", "because of",
)  # fmt: skip
NOTES = (
    "Everything is positive where it is as the paper says. The mean is over conditions, each "
    "alike; of a claim of several parts, that of the part furthest from it.",
    "95 % here: the noise of items and seeds. Elsewhere: with the spread between conditions too, "
    "for conditions like these. Neither is corrected for the number of claims.",
    "p of the five primary claims (*) is corrected by Holm and must be below 0.04, of the others "
    "by Benjamini and Hochberg, below 0.01. docs/verdicts.md has the rules.",
    "Published numbers have one run a condition: they have a direction, and the standard deviation "
    "between seeds at which it could be chance.",
)
QUESTIONS = {
    "lora_learns_less": (
        "LoRA learns less", "full finetuning scores {size} {more} than LoRA on the target task",
    ),
    "lora_learns_less_by_loss": (
        "LoRA learns less, by loss",
        "LoRA's loss on held-out target text is {size} nats per token {more} than that of full "
        "finetuning",
    ),
    "lora_forgets_less": (
        "LoRA forgets less", "LoRA scores {size} {more} than full finetuning on the source tasks",
    ),
    "lora_trades_better": (
        "LoRA forgets less at equal learning",
        "LoRA scores {size} {more} than full finetuning on the source tasks",
    ),
}  # fmt: skip
"""By name of the claim: its short form, and what its effect means."""
LONG = {TOO_FEW: "too few seeds to decide", DIRECTION: "single runs, direction only"}


def answers(verdicts: Sequence[Verdict]) -> list[str]:
    """A sentence for learning, for forgetting, and for forgetting at equal learning.

    Learning is by target score, or where there are none by the loss on target text.

    Args:
        verdicts: of one evidence set.
    """
    by_name = {verdict.name: verdict for verdict in verdicts}
    by_score, by_loss = (by_name.get(f"lora_learns_less{end}") for end in ("", "_by_loss"))
    has_losses = by_loss is not None and by_loss.effect is not None
    is_by_loss = has_losses and by_score is not None and by_score.effect is None
    by_name.pop("lora_learns_less" if is_by_loss else "lora_learns_less_by_loss", None)
    return [
        _sentence(by_name[name], short, effect)
        for name, (short, effect) in QUESTIONS.items()
        if name in by_name
    ]


def _sentence(verdict: Verdict, short: str, effect: str) -> str:
    decision = LONG.get(verdict.verdict, verdict.verdict)
    if verdict.effect is None:
        return f"{short}: {decision} ({verdict.reason})."
    more = "more" if verdict.effect > 0 else "less"
    text = effect.format(size=f"{abs(verdict.effect):.3f}", more=more)
    facts = f"{verdict.agree} of {verdict.compared} comparisons agree"
    if verdict.low is not None and verdict.high is not None:
        ends = verdict.low, verdict.high
        if verdict.effect < 0:  # the text says how much less
            ends = -verdict.high, -verdict.low
        facts = f"95 % interval {plain(ends[0])} to {plain(ends[1])}; {facts}"
    return f"{short}: {decision}. On average {text} ({facts})."


def claims_markdown(
    verdicts: list[Verdict], left_out: Sequence[LeftOut], where: str | None = None
) -> str:
    """A table of all claims by each evidence set, and before these the sets side by side.

    Args:
        verdicts: on every claim.
        left_out: what rules keep out of the comparisons.
        where: the condition on the models that were judged, if they are not all.
    """
    lines = ["# Claims", ""]
    if where is not None:
        lines += [f"Judged by the models with `{where}`, not by all.", ""]
    if len(by_evidence_set(verdicts)) > 1:
        lines += ["## Side by side", "", *side_by_side(verdicts), ""]
    for evidence_set, its_verdicts in by_evidence_set(verdicts):
        lines += [f"## By the {evidence_set} records: {counts_text(its_verdicts)}", ""]
        texts = pd.DataFrame(map(verdict_texts, its_verdicts), columns=pd.Index(HEADINGS))
        texts["no."] = texts["no."].map(_escaped)
        lines += [markdown(texts.rename(columns={"no.": ""})), ""]
        names = [f"- {one}" for one in left_out if one.evidence_set == evidence_set]
        lines += [*names, ""] if names else []
    return "\n".join([*lines, *(f"{note}  " for note in NOTES), ""])


def counts_text(verdicts: Sequence[Verdict]) -> str:
    """How many claims have each verdict."""
    decisions = [verdict.verdict for verdict in verdicts]
    return ", ".join(f"{decisions.count(x)} {x}" for x in STYLES if x in decisions)


def side_by_side(verdicts: list[Verdict]) -> list[str]:
    """Lines of a Markdown table of the claims that some evidence set says something of."""
    sets = by_evidence_set(verdicts)
    headings = ["", "the paper says", *(f"{name} records" for name, _ in sets)]
    spoken, silent = by_claim([its_verdicts for _, its_verdicts in sets])
    cells = [[_escaped(_starred(row[0])), row[0].statement, *map(_short, row)] for row in spoken]
    return [
        markdown(pd.DataFrame(cells, columns=headings)), "",
        f"\\* primary. Not applicable to any: {silent}.",
    ]  # fmt: skip


SENTENCES = {
    "lora_learns_less": "learns more (target score)",
    "lora_learns_less_by_loss": "learns more (target NLL)",
    "lora_forgets_less": "forgets less (source tasks)",
    "lora_keeps_source_loss": "forgets less (source NLL)",
}
"""Claims whose comparisons are of LoRA with full finetuning, and what the better of both does."""


def sentences(verdicts: list[Verdict], group: pd.DataFrame) -> list[str]:
    """What the comparisons of LoRA with full finetuning say of a group, a line each.

    Args:
        verdicts: on all claims.
        group: comparable models, as `lvf.reporting.select.settings.groups` gives them.
    """
    models = set(group.run_id + "/" + group.checkpoint)
    lines = []
    for verdict in (verdict for verdict in verdicts if verdict.name in SENTENCES):
        for comparison in verdict.comparisons:
            if comparison.estimate is None or not models.issuperset(comparison.records):
                continue
            lora = comparison.name.split(", ")[-1]
            sides = (
                ("full", lora) if verdict.name.startswith("lora_learns_less") else (lora, "full")
            )
            ends = comparison.estimate.interval()
            better = "cannot be told from seed noise"
            if ends is not None and ends[0] * ends[1] > 0:
                better = sides[0] if ends[0] > 0 else sides[1]
            lines.append(f"{SENTENCES[verdict.name]}: {better} ({comparison.text()})")
    return lines


def by_evidence_set(verdicts: Sequence[Verdict]) -> list[tuple[str, list[Verdict]]]:
    """Name and verdicts of each evidence set."""
    sets = groupby(verdicts, key=lambda verdict: verdict.evidence_set)
    return [(name, list(its_verdicts)) for name, its_verdicts in sets]


def by_claim(sets: Sequence[Sequence[Verdict]]) -> tuple[list[tuple[Verdict, ...]], str]:
    """The verdicts on each claim that some set has an effect for; the numbers of other claims."""
    rows = list(zip(*sets, strict=True))
    spoken = [row for row in rows if any(verdict.effect is not None for verdict in row)]
    return spoken, ", ".join(row[0].number for row in rows if row not in spoken)


def interval(low: float | None, high: float | None) -> str:
    """Both ends with their signs; a dash where there are none."""
    return "–" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def _starred(verdict: Verdict) -> str:
    """A claim's number, starred where it is primary."""
    return f"{verdict.number}{'*' * verdict.primary}"


def _escaped(text: str) -> str:
    return text.replace("*", "\\*")


def _short(verdict: Verdict) -> str:
    if verdict.effect is None:
        why = "no records" if not verdict.comparisons else verdict.reason.split(":")[-1].strip()
        return f"{verdict.verdict} ({why})"
    text = f"{signed(verdict.effect)} {verdict.unit}"
    if verdict.low is not None:
        text = f"{signed(verdict.effect)} ({interval(verdict.low, verdict.high)}) {verdict.unit}"
    decision = verdict.verdict
    if decision == DIRECTION:
        decision = f"{decision}, {verdict.reason.split(';')[0]}"
    return f"**{decision}**: {text}; {verdict.agree} of {verdict.compared} agree"


def verdict_texts(verdict: Verdict) -> dict[str, str]:
    """What tables say of a verdict, by heading; dashes where the records say nothing."""
    known = verdict.effect is not None
    return {
        "no.": _starred(verdict),
        "the paper says": verdict.statement,
        "records": verdict.evidence_set,
        "verdict": verdict.verdict,
        "mean": signed(verdict.effect),
        "95 % here": interval(verdict.low, verdict.high),
        "95 % elsewhere": interval(verdict.low_elsewhere, verdict.high_elsewhere),
        "spread": "–" if verdict.spread is None else f"{verdict.spread:.3f}",
        "agree": f"{verdict.agree} of {verdict.compared}" if known else "–",
        "seeds": str(verdict.seeds) if known else "–",
        "unit": verdict.unit if known else "",
        "p": p_text(verdict.p),
        "because of": verdict.reason,
    }
