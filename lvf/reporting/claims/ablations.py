"""The paper's claims on settings: regularisers, rates, adapted maps, alpha, optimizer."""

from collections.abc import Iterator
from itertools import pairwise

import pandas as pd

from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import Comparison, Evidence
from lvf.reporting.claims.learning import ENOUGH
from lvf.reporting.select.compare import common
from lvf.reporting.select.variant import VARIANT, Variant

LATE_EPOCHS = 8


@claim(
    "7a", "4.4", "Full finetuning with weight decay or attention dropout learns like plain full "
    "finetuning: at least 90 % of its gain",
    needs="full finetuning with weight decay or attention dropout",
)  # fmt: skip
def regularised_learns_like_full(evidence: Evidence) -> Iterator[Comparison]:
    """Its gain over the base minus 0.9 times full's, mean over common durations."""
    for name, full, other in _regularised(evidence):
        base = evidence.base(full)
        terms = (1, other), (-ENOUGH, full), (ENOUGH - 1, base)
        yield from evidence.estimate(name, "target", *terms)


@claim(
    "7b", "4.4", "and forgets like it: at least 90 % of its loss",
    needs="full finetuning with weight decay or attention dropout", measures=("retention",),
)  # fmt: skip
def regularised_forgets_like_full(evidence: Evidence) -> Iterator[Comparison]:
    """Its loss of retention minus 0.9 times full's, mean over common durations."""
    for name, full, other in _regularised(evidence):
        terms = (-1, other), (ENOUGH, full), (1 - ENOUGH, evidence.base(full))
        yield from evidence.estimate(name, "retention", *terms)


@claim(
    "7c", "4.4", "Weight decay deteriorates at epochs 8 and 16",
    needs="full finetuning with weight decay for 8 epochs or more",
)  # fmt: skip
def weight_decay_deteriorates(evidence: Evidence) -> Iterator[Comparison]:
    """Plain full minus full with weight decay in target score, mean over 8 epochs and more."""
    for name, full, other in _regularised(evidence):
        if other.weight_decay.notna().all() and (full.duration_unit == "epochs").all():
            late, late_other = (rows[rows.duration >= LATE_EPOCHS] for rows in (full, other))
            yield from evidence.estimate(name, "target", (1, late), (-1, late_other))


@claim(
    "11a", "4.7", "Adapters on all maps learn more than on attention alone",
    needs="LoRA on attention only and on all maps",
)  # fmt: skip
def all_maps_beat_attention(evidence: Evidence) -> Iterator[Comparison]:
    """All maps minus attention at equal rank and rate, mean over common durations."""
    for name, every, some in _at_one_rate(evidence, "attention"):
        yield from evidence.estimate(name, "target", (1, every), (-1, some))


@claim(
    "11b", "4.7", "Adapters on the MLP alone have at least 90 % of the gain of all maps",
    needs="LoRA on the MLP only and on all maps",
)  # fmt: skip
def mlp_nearly_equals_all_maps(evidence: Evidence) -> Iterator[Comparison]:
    """The MLP's gain over the base minus 0.9 times that of all maps, at equal rank and rate."""
    for name, every, some in _at_one_rate(evidence, "mlp"):
        terms = (1, some), (-ENOUGH, every), (ENOUGH - 1, evidence.base(every))
        yield from evidence.estimate(name, "target", *terms)


@claim(
    "12", "4.7", "At the highest rank larger alpha learns more, up to alpha = 2r",
    needs="LoRA of one rank with several values of alpha",
)  # fmt: skip
def alpha_orders_learning(evidence: Evidence) -> Iterator[Comparison]:
    """Each alpha minus the next smaller, up to 2r, at the highest rank that has several."""
    pairs = list(alpha_pairs(evidence, adjacent=True))
    highest = max((rank for rank, *_ in pairs), default=0)
    for rank, name, higher, lower in pairs:
        if rank == highest:
            yield from evidence.estimate(name, "target", (1, higher), (-1, lower))


@claim(
    "13", "App. B.1", "LionW learns more than AdamW",
    needs="the same method by Lion and by AdamW",
)  # fmt: skip
def lion_beats_adamw(evidence: Evidence) -> Iterator[Comparison]:
    """Lion minus AdamW in target score, each at its best rate, mean over common durations."""
    keys = ["domain", "regime", "dataset", *(x for x in VARIANT if x != "optimizer_name")]
    for _, rows in evidence.chosen.groupby(keys, dropna=False):
        lion, adam = common(
            *(rows[rows.optimizer_name.str.startswith(name)] for name in ("Lion", "Adam"))
        )
        first = next(rows.itertuples())
        name = f"{first.domain} {first.regime}, {Variant.of_columns(first).name}"
        yield from evidence.estimate(name, "target", (1, lion), (-1, adam))


def alpha_pairs(
    evidence: Evidence, adjacent: bool
) -> Iterator[tuple[int, str, pd.DataFrame, pd.DataFrame]]:
    """Rank, name, and the rows of a larger and a smaller alpha of that rank, none above 2r.

    Args:
        evidence: where to look.
        adjacent: each alpha and the next smaller, else 2r and every smaller one.
    """
    rows = _lora(evidence)
    rows = rows[(rows.modules == "all") & (rows.alpha <= 2 * rows["rank"])]
    for (domain, regime, rank), same in rows.groupby(["domain", "regime", "rank"]):
        alphas = sorted(set(same.alpha), reverse=True)
        pairs = pairwise(alphas) if adjacent else ((2 * rank, x) for x in alphas if x < 2 * rank)
        for larger, smaller in pairs:
            high, low = common(same[same.alpha == larger], same[same.alpha == smaller])
            if len(high):
                name = f"{domain} {regime}, r={rank}, α={larger:g} over {smaller:g}"
                yield int(rank), name, high, low


def _regularised(evidence: Evidence) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Name, and plain and regularised full finetuning at their common durations."""
    chosen = evidence.chosen[evidence.chosen.is_usual]
    others = chosen[chosen.weight_decay.notna() | chosen.attention_dropout.notna()]
    for (domain, regime, label), rows in others.groupby(["domain", "regime", "label"]):
        full, other = common(evidence.full(str(domain), str(regime)), rows)
        yield f"{domain} {regime}, {label}", full, other


def _at_one_rate(
    evidence: Evidence, modules: str
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Name, and LoRA with alpha = 2r on all maps and on some, where both have one learning rate.

    The rate is that chosen for the maps named; nothing of a rank that all maps were not trained at.
    """
    rows = evidence.finished
    rows = rows[rows.is_usual & (rows.family == "lora") & (rows.alpha == 2 * rows["rank"])]
    for (domain, regime, rank), same in rows.groupby(["domain", "regime", "rank"]):
        some = same[(same.modules == modules) & same.is_chosen]
        every = same[(same.modules == "all") & same.lr_peak.isin(some.lr_peak)]
        every, some = common(every, some)
        yield f"{domain} {regime}, r={rank}", every, some


def _lora(evidence: Evidence) -> pd.DataFrame:
    """LoRA by the usual optimiser at its chosen learning rates, without its relatives."""
    rows = evidence.chosen
    return rows[rows.is_usual & (rows.family == "lora")]
