"""The table of claims: for the terminal, and as Markdown."""

from collections.abc import Sequence

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lvf.reporting.claims.judge import CONTRADICTED, SUPPORTED, UNDECIDED, Verdict
from lvf.reporting.select.selection import LeftOut
from lvf.reporting.tables.text import markdown, p_text, signed

STYLES = {SUPPORTED: "green", CONTRADICTED: "red", UNDECIDED: "dim"}
HEADINGS = ("", "the paper says", "verdict", "effect", "95 % interval", "unit", "p", "because of")
NOTES = (
    "Effects are positive where they are as the paper says; the effect shown is that of the "
    "comparison furthest from the claim. All comparisons of a claim must hold.",
    "p is two-sided and corrected by Holm for the number of claims, intervals are not; a verdict "
    "needs p < 0.05.",
    "Published numbers have one run a condition: their noise is the binomial one of the answers "
    "(HumanEval: 164 problems times 50 generations, the problems given), not that of training.",
)


def claims_table(verdicts: list[Verdict], left_out: Sequence[LeftOut]) -> RenderableType:
    """A table for each evidence set; claims without records stand on a line below it."""
    shown: list[RenderableType] = []
    for evidence_set, its_verdicts in by_evidence_set(verdicts):
        table = Table(title=f"claims by the {evidence_set} records", title_justify="left")
        for heading in HEADINGS:
            right = heading in ("effect", "p")
            table.add_column(heading, justify="right" if right else "left", no_wrap=right)
        for verdict in (verdict for verdict in its_verdicts if verdict.comparisons):
            number, statement, decision, *rest = _texts(verdict)
            style = STYLES[verdict.verdict]
            table.add_row(number, statement, f"[{style}]{decision}[/{style}]", *rest)
        silent = [verdict.number for verdict in its_verdicts if not verdict.comparisons]
        lines = [f"undecided for want of records: {', '.join(silent)}"] if silent else []
        lines += [str(one) for one in left_out if one.evidence_set == evidence_set]
        shown += [table, *(Text(line, style="dim") for line in lines)]
    return Group(*shown, *(Text(note, style="dim") for note in NOTES))


def claims_markdown(verdicts: list[Verdict], left_out: Sequence[LeftOut]) -> str:
    """The same as Markdown, all claims in the table, the evidence sets side by side before them."""
    lines = ["# Claims", ""]
    if len(by_evidence_set(verdicts)) > 1:
        lines += ["## Side by side", "", *side_by_side(verdicts), ""]
    for evidence_set, its_verdicts in by_evidence_set(verdicts):
        decisions = [verdict.verdict for verdict in its_verdicts]
        counts = ", ".join(f"{decisions.count(name)} {name}" for name in STYLES)
        lines += [f"## By the {evidence_set} records: {counts}", ""]
        lines += [markdown(pd.DataFrame(map(_texts, its_verdicts), columns=HEADINGS)), ""]
        names = [f"- {one}" for one in left_out if one.evidence_set == evidence_set]
        lines += [*names, ""] if names else []
    return "\n".join([*lines, *(f"{note}  " for note in NOTES), ""])


def side_by_side(verdicts: list[Verdict]) -> list[str]:
    """Lines of a Markdown table of the claims that some evidence set decides, a column each."""
    sets = by_evidence_set(verdicts)
    headings = ["", "the paper says", *(f"{name} records" for name, _ in sets)]
    rows = list(zip(*(its_verdicts for _, its_verdicts in sets), strict=True))
    decided = [row for row in rows if any(verdict.verdict != UNDECIDED for verdict in row)]
    cells = [[row[0].number, row[0].statement, *map(_short, row)] for row in decided]
    silent = ", ".join(row[0].number for row in rows if row not in decided)
    return [markdown(pd.DataFrame(cells, columns=headings)), "", f"Undecided by all: {silent}."]


SENTENCES = {
    "lora_learns_less": "learns more (target score)",
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
            if not models.issuperset(comparison.records):
                continue
            lora = comparison.name.split(", ")[-1]
            sides = ("full", lora) if verdict.name == "lora_learns_less" else (lora, "full")
            low, high = comparison.low, comparison.high
            better = "undecided"
            if low is not None and high is not None and low * high > 0:
                better = sides[0] if low > 0 else sides[1]
            seeds = "" if comparison.seeds > 1 else "; single runs, no seed noise"
            lines.append(f"{SENTENCES[verdict.name]}: {better} ({comparison.text()}{seeds})")
    return lines


def by_evidence_set(verdicts: Sequence[Verdict]) -> list[tuple[str, list[Verdict]]]:
    """Name and verdicts of each evidence set."""
    names = dict.fromkeys(verdict.evidence_set for verdict in verdicts)
    return [(name, [one for one in verdicts if one.evidence_set == name]) for name in names]


def _short(verdict: Verdict) -> str:
    if verdict.verdict == UNDECIDED:
        return f"{verdict.verdict}{'' if verdict.comparisons else ', no records'}"
    _, _, decision, effect, interval, unit, *_ = _texts(verdict)
    return f"**{decision}**: {effect} ({interval}) {unit}"


def _texts(verdict: Verdict) -> list[str]:
    low, high = verdict.low, verdict.high
    interval = "–" if low is None or high is None else f"{signed(low)} to {signed(high)}"
    unit = verdict.unit if verdict.comparisons else ""
    return [
        verdict.number, verdict.statement, verdict.verdict, signed(verdict.effect), interval, unit,
        p_text(verdict.p), verdict.reason,
    ]  # fmt: skip
