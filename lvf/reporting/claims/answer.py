"""What the records answer to the paper's question, in three sentences."""

from collections.abc import Sequence

from lvf.reporting.claims.judge import DIRECTION, TOO_FEW, Verdict
from lvf.reporting.tables.text import plain

QUESTIONS = {
    "lora_learns_less": (
        "LoRA learns less", "full finetuning scores {size} {more} than LoRA on the target task",
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

    Args:
        verdicts: of one evidence set.
    """
    by_name = {verdict.name: verdict for verdict in verdicts}
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
        if verdict.effect < 0:  # what is told is how much less
            ends = -verdict.high, -verdict.low
        facts = f"95 % interval {plain(ends[0])} to {plain(ends[1])}; {facts}"
    return f"{short}: {decision}. On average {text} ({facts})."
