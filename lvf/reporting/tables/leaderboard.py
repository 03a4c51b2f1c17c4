"""Methods ranked by what they forget at equal learning, as far as the records can tell."""

import math
from collections.abc import Hashable
from itertools import combinations
from typing import Any

import pandas as pd

from lvf.records.estimate import Estimate
from lvf.reporting.stats.contrast import Contrast
from lvf.reporting.stats.frontier import matched_learning
from lvf.reporting.stats.pooling import holm

LEVEL = 0.05
COLUMNS = [
    "group", "measure", "method", "against", "gap", "low", "high", "p", "best", "worst", "models",
]  # fmt: skip


def leaderboard(group: pd.DataFrame, name: str) -> pd.DataFrame:
    """A row for each variant of a group of comparable models, best possible rank first.

    Every two methods are compared by `matched_learning` at equal target score, in held-out source
    NLL where all have it, else in retention; p values are corrected by Holm over the pairs; without
    a seed variance there are none. A method's rank lies
    between `best` (1 + methods that are significantly better) and `worst` (all methods less those
    that are significantly worse). `gap` is to full finetuning (the method minus full);
    `models` are the index labels of the models of both.

    Args:
        group: models as of `lvf.reporting.select.settings.groups`.
        name: of the group.
    """
    rows = group[group.cooled_down & (group.method != "base") & group.target.notna()]
    measure = "nll_source" if rows.nll_source.notna().any() else "retention"
    rows = rows[rows[measure].notna()].sort_values(["rank", "label"])
    methods = dict(list(rows.groupby("variant", sort=False)))
    labels = {variant: str(its.label.iloc[0]) for variant, its in methods.items()}
    pairs = {}
    for first, second in combinations(methods, 2):
        gap = matched_learning(group, methods[first], methods[second], "target", measure)
        if isinstance(gap, Contrast):
            pairs[first, second] = gap.estimate
    known = {pair: p for pair, gap in pairs.items() if (p := gap.p_two_sided()) is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    above: dict[Hashable, set[Hashable]] = {variant: set() for variant in methods}
    for (first, second), p in adjusted.items():
        if p < LEVEL:
            is_first = pairs[first, second].value > 0
            winner, loser = (first, second) if is_first else (second, first)
            above[loser].add(winner)
    plain = rows[(rows.method == "full") & (rows.role == "main")]
    full = list(plain.sort_values("source").variant.unique())  # our own before the paper's
    board = []
    for variant in methods:
        below = sum(variant in better for better in above.values())
        sides = dict.fromkeys([variant, *full[:1]])
        row = {
            "group": name, "measure": measure, "method": labels[variant],
            "best": 1 + len(above[variant]), "worst": len(methods) - below, "against": "full",
            "models": [index for side in sides for index in methods[side].index],
        }  # fmt: skip
        board.append(row | (_against(variant, full[0], pairs, adjusted) if full else {}))
    frame = pd.DataFrame(board, columns=pd.Index(COLUMNS))
    return frame.sort_values(["best", "worst"], kind="stable", ignore_index=True)


def _against(
    variant: Hashable, full: Hashable, pairs: dict[Any, Estimate], adjusted: dict[Any, float]
) -> dict[str, float]:
    """Gap, interval and p of a variant against full finetuning; empty where it is not known."""
    for sign, pair in ((1, (variant, full)), (-1, (full, variant))):
        if pair in pairs:
            gap = pairs[pair]
            known = {"gap": sign * gap.value, "p": adjusted.get(pair, math.nan)}
            ends = sorted(sign * end for end in gap.interval() or ())
            return known | dict(zip(("low", "high"), ends, strict=False))
    return {}
