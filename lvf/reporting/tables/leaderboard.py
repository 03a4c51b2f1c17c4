"""Methods ranked by what they forget at equal learning, as far as the records can tell."""

from itertools import combinations

import pandas as pd
from rich.table import Table

from lvf.records.estimate import Estimate
from lvf.reporting.stats.matched import MORE_IS_BETTER, Matched, matched_learning
from lvf.reporting.stats.seeds import holm

LEVEL = 0.05
COLUMNS = [
    "group", "measure", "method", "against", "gap", "low", "high", "p", "best", "worst", "models",
]  # fmt: skip


def leaderboard(group: pd.DataFrame, name: str) -> pd.DataFrame:
    """One row per method of a group of comparable models, best possible rank first.

    Every two methods are compared by `matched_learning` at equal target score, in held-out source
    NLL where all have it, else in the forgetting average; p values come from the bootstrap's
    interval by the normal approximation, corrected by Holm over the pairs. A method's rank lies
    between `best` (1 + methods that are significantly better) and `worst` (all methods less those
    that are significantly worse). `gap` is to full finetuning (the method minus full);
    `models` are the index labels of the models of both.

    Args:
        group: models as of `lvf.reporting.select.settings.groups`.
        name: of the group.
    """
    rows = group[group.cooled_down & (group.method != "base") & group.target.notna()]
    measure = "nll_source" if rows.nll_source.notna().any() else "forgetting"
    rows = rows[rows[measure].notna()].sort_values(["rank", "label"])
    methods = {str(label): one for label, one in rows.groupby("label", sort=False)}
    pairs = {}
    for ours, theirs in combinations(methods, 2):
        found = matched_learning(methods[ours], methods[theirs], "target", measure)
        if isinstance(found, Matched):
            pairs[ours, theirs] = found
    adjusted = dict(zip(pairs, holm([_p(found) for found in pairs.values()]), strict=True))
    above: dict[str, set[str]] = {label: set() for label in methods}
    for (ours, theirs), found in pairs.items():
        if adjusted[ours, theirs] < LEVEL:
            ours_better = found.value * MORE_IS_BETTER[measure] > 0
            winner, loser = (ours, theirs) if ours_better else (theirs, ours)
            above[loser].add(winner)
    board = []
    for label in methods:
        below = sum(label in better for better in above.values())
        row = {"group": name, "measure": measure, "method": label, "best": 1 + len(above[label])}
        sides = [methods[one] for one in dict.fromkeys([label, "full"]) if one in methods]
        row |= {"worst": len(methods) - below, "against": "full"}
        row |= {"models": [name for side in sides for name in side.index]}
        board.append(row | _against_full(label, pairs, adjusted))
    frame = pd.DataFrame(board, columns=pd.Index(COLUMNS))
    return frame.sort_values(["best", "worst"], kind="stable", ignore_index=True)


def leaderboard_table(board: pd.DataFrame) -> Table:
    """The leaderboard for the terminal."""
    name, measure = board.group.iloc[0], board.measure.iloc[0]
    table = Table(title=f"{name}: {measure} at equal learning", title_justify="left")
    for heading in ("rank", "method", "minus full", "95 % interval", "p"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for one in board.to_dict("records"):
        rank = f"{one['best']}" if one["best"] == one["worst"] else f"{one['best']}–{one['worst']}"
        gap = ["–"] * 3
        if not pd.isna(one["gap"]):
            gap = [f"{one['gap']:+.3f}", f"{one['low']:+.3f} to {one['high']:+.3f}"]
            gap.append(f"{one['p']:.3f}" if one["p"] >= 0.001 else "< 0.001")
        table.add_row(rank, one["method"], *(text.replace("-", "−") for text in gap))
    return table


def _p(found: Matched) -> float:
    """Two-sided p of no gap."""
    estimate = found.estimate()
    return 2 * (Estimate(abs(estimate.value), estimate.stderr).p_above() or 0.0)


def _against_full(
    label: str, pairs: dict[tuple[str, str], Matched], adjusted: dict[tuple[str, str], float]
) -> dict[str, float]:
    for (ours, theirs), found in pairs.items():
        if {ours, theirs} == {label, "full"}:
            sign = 1 if ours == label else -1
            ends = sorted((sign * found.low, sign * found.high))
            gap = {"gap": sign * found.value, "low": ends[0], "high": ends[1]}
            return gap | {"p": adjusted[ours, theirs]}
    return {}
