"""What later papers say of LoRA and full finetuning, judged like the paper's claims."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from lvf.records.schema import ALTERATIONS
from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import Comparison, Evidence, compared
from lvf.reporting.claims.forgetting import BOTH, at_equal_learning
from lvf.reporting.claims.learning import ENOUGH, neighbouring_ranks
from lvf.reporting.select.altered import alteration_text
from lvf.reporting.select.compare import longest
from lvf.reporting.stats.contrast import Contrast, linearised, setting_labels


@claim(
    "later a", "2410.21228", "At equal learning LoRA of a lower rank forgets more "
    "(Shuttleworth et al. 2024)",
    needs="several ranks of LoRA at levels that meet", measures=BOTH,
)  # fmt: skip
def low_ranks_forget_more(evidence: Evidence) -> Iterator[Comparison]:
    """Frontier of each rank minus that of the next lower: retention at equal target score, and at
    equal loss on held-out target text. Both must hold."""
    for name, lower, higher in neighbouring_ranks(evidence):
        yield from at_equal_learning(evidence, name, higher, lower)


@claim(
    "later b", "2509.20758", "At equal learning full finetuning at a smaller rate forgets less "
    "(Lin et al. 2025)",
    needs="full finetuning at its best rate and a lower one, at levels that meet", measures=BOTH,
)  # fmt: skip
def smaller_rates_forget_less(evidence: Evidence) -> Iterator[Comparison]:
    """Frontier of full finetuning at the next lower rate minus that at the chosen rate: retention
    at equal target score, and at equal loss on held-out target text. Both must hold."""
    full = evidence.finished[evidence.finished.method == "full"]
    for (domain, regime), rows in full[full.role == "main"].groupby(["domain", "regime"]):
        chosen = rows[rows.is_chosen]
        lower = rows[rows.lr_peak < chosen.lr_peak.min()]
        if len(lower):
            beside = lower[lower.lr_peak == lower.lr_peak.max()]
            yield from at_equal_learning(evidence, f"{domain} {regime}", beside, chosen)


@claim(
    "later c", "2605.28819", "Scaled back after training, full finetuning gives up less of its "
    "learning than of its forgetting (PEFT-Arena 2026)",
    needs="full finetuning measured at strengths between 0 and 1", measures=BOTH, unit="share",
)  # fmt: skip
def full_finetuning_overshoots(evidence: Evidence) -> Iterator[Comparison]:
    """Share of the forgetting that is undone minus the share of the gain that is lost, at each
    strength between 0 and 1, of the longest training."""
    for name, altered, parent in _altered(evidence, "strength", "full"):
        if 0 < altered.strength.iloc[0] < 1:
            rows = pd.concat([evidence.base(parent), parent, altered])
            yield compared(name, _undone_minus_lost(evidence, parent, altered), rows)


@claim(
    "later d", "2410.21228", "Without its intruder dimensions LoRA keeps 90 % of its learning and "
    "forgets less (Shuttleworth et al. 2024)",
    needs="LoRA with its intruder dimensions removed (damp=[0])", measures=BOTH,
)  # fmt: skip
def intruders_cost_no_learning(evidence: Evidence) -> Iterator[Comparison]:
    """Target score without intruders minus 90 % of the gain; retention without them minus with."""
    for name, altered, parent in _altered(evidence, "damp", "lora"):
        if altered.damp.iloc[0] == 0:
            base = evidence.base(parent).dropna(subset=["target"])
            if base.empty:
                rows = pd.concat([parent, altered])
                yield compared(name, "the base was not measured likewise", rows)
                continue
            everything = evidence.with_altered()
            gain = (1, altered), (-ENOUGH, parent), (ENOUGH - 1, base)
            yield from everything.estimate(f"{name}, learning", "target", *gain, part="learning")
            kept = (1, altered), (-1, parent)
            name = f"{name}, forgetting"
            yield from everything.estimate(name, "retention", *kept, part="forgetting")


def _altered(
    evidence: Evidence, by: str, method: str
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Name, altered checkpoints and their plain parents: a setting of the longest training each."""
    if evidence.altered.empty:
        return
    known = evidence.altered.dropna(subset=[by, *BOTH])
    for (domain, regime), main in evidence.main.groupby(["domain", "regime"]):
        (parents,) = longest(main[main.method == method])
        its = known[known.parent.isin(set(parents.setting))]
        for (setting, *_), rows in its.groupby(["parent", *ALTERATIONS], dropna=False):
            done = alteration_text(rows.iloc[0].to_dict())
            name = f"{domain} {regime}, {rows.label.iloc[0]}, {done}"
            yield name, rows, parents[parents.setting == setting]


def _undone_minus_lost(
    evidence: Evidence, parent: pd.DataFrame, altered: pd.DataFrame
) -> Contrast | str:
    """Share of the forgetting that is undone minus the share of the gain that is lost."""
    base = evidence.base(parent).dropna(subset=list(BOTH))
    settings = [*setting_labels(base), *setting_labels(parent), *setting_labels(altered)]
    if len(settings) != 3:
        return "the base was not measured likewise"
    models = evidence.with_altered().models

    def shares(means: np.ndarray) -> float:
        (target_0, kept_0), (target_1, kept_1), (target, kept) = means
        return float(
            (kept - kept_1) / (kept_0 - kept_1) - (target_1 - target) / (target_1 - target_0)
        )

    before, after = (rows[list(BOTH)].mean() for rows in (base, parent))
    if after.target <= before.target or after.retention >= before.retention:
        return "nothing was learned, or nothing forgotten"
    return linearised(models, settings, BOTH, shares)
