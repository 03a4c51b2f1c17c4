"""The table of claims: for the terminal, as Markdown and as CSV."""

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lvf.reporting.claims.judge import CONTRADICTED, SUPPORTED, UNDECIDED, Verdict

STYLES = {SUPPORTED: "green", CONTRADICTED: "red", UNDECIDED: "dim"}
HEADINGS = ("", "the paper says", "verdict", "effect", "95 % interval", "unit", "p", "because of")
NOTES = (
    "Effects are positive where they are as the paper says; the one shown is that of the part "
    "furthest from the claim. All parts of a claim must hold.",
    "p is two-sided and corrected by Holm for the number of claims, intervals are not; a verdict "
    "needs p < 0.05.",
    "Published numbers have one run a condition: their noise is the binomial one of the answers "
    "(HumanEval: 164 problems times 50 generations, the problems given), not that of training.",
)


def claims_table(verdicts: list[Verdict]) -> RenderableType:
    """One table for each corpus, claims that nothing is known of left to a line below it."""
    shown: list[RenderableType] = []
    for corpus, ours in _by_corpus(verdicts):
        table = Table(title=f"claims by the {corpus} records", title_justify="left")
        for heading in HEADINGS:
            right = heading in ("effect", "p")
            table.add_column(heading, justify="right" if right else "left", no_wrap=right)
        for one in (one for one in ours if one.parts):
            style = STYLES[one.verdict]
            number, statement, verdict, *rest = _texts(one)
            table.add_row(number, statement, f"[{style}]{verdict}[/{style}]", *rest)
        shown += [table, Text(_untold(ours), style="dim")]
    return Group(*shown, *(Text(note, style="dim") for note in NOTES))


def claims_markdown(verdicts: list[Verdict]) -> str:
    """The same as Markdown, every claim in the table, the corpora side by side before them."""
    lines = ["# Claims", ""]
    if len(_by_corpus(verdicts)) > 1:
        lines += ["## Side by side", "", *side_by_side(verdicts), ""]
    for corpus, ours in _by_corpus(verdicts):
        counts = pd.Series([one.verdict for one in ours]).value_counts()
        told = ", ".join(f"{counts.get(name, 0)} {name}" for name in STYLES)
        lines += [f"## By the {corpus} records: {told}", "", _line(list(HEADINGS))]
        lines += [_line(["---"] * len(HEADINGS)), *(_line(_texts(one)) for one in ours), ""]
    return "\n".join([*lines, *(f"{note}  " for note in NOTES), ""])


def side_by_side(verdicts: list[Verdict]) -> list[str]:
    """Lines of a Markdown table of the claims that some corpus decides, a column each."""
    corpora = _by_corpus(verdicts)
    headings = ["", "the paper says", *(f"{name} records" for name, _ in corpora)]
    lines = [_line(headings), _line(["---"] * len(headings))]
    rows = list(zip(*(ours for _, ours in corpora), strict=True))
    decided = [row for row in rows if any(one.verdict != UNDECIDED for one in row)]
    lines += [_line([row[0].number, row[0].statement, *map(_short, row)]) for row in decided]
    silent = ", ".join(row[0].number for row in rows if row not in decided)
    return [*lines, "", f"Undecided by all: {silent}."]


def _short(one: Verdict) -> str:
    if one.verdict == UNDECIDED:
        return f"{one.verdict}{'' if one.parts else ', no records'}"
    _, _, verdict, effect, interval, unit, *_ = _texts(one)
    return f"**{verdict}**: {effect} ({interval}) {unit}"


def _by_corpus(verdicts: list[Verdict]) -> list[tuple[str, list[Verdict]]]:
    names = dict.fromkeys(one.corpus for one in verdicts)
    return [(name, [one for one in verdicts if one.corpus == name]) for name in names]


def _texts(one: Verdict) -> list[str]:
    effect = "–" if one.effect is None else _signed(one.effect)
    known = one.low is not None and one.high is not None
    interval = f"{_signed(one.low or 0.0)} to {_signed(one.high or 0.0)}" if known else "–"
    p = "–" if one.p is None else "< 0.001" if one.p < 0.001 else f"{one.p:.3f}"
    unit = one.unit if one.parts else ""
    return [one.number, one.statement, one.verdict, effect, interval, unit, p, one.reason]


def _untold(ours: list[Verdict]) -> str:
    silent = [one.number for one in ours if not one.parts]
    return f"undecided for want of records: {', '.join(silent)}" if silent else ""


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"
