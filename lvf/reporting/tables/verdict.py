"""What the data supports, in plain sentences; never a ranking that the intervals do not give."""

import math

import pandas as pd

from lvf.records.checkpoints import names
from lvf.records.estimate import Estimate
from lvf.reporting.select.settings import chosen_rate, duration_text, rate_text
from lvf.reporting.stats.matched import Matched, Undecided, difference, matched_learning

LEGEND = "[ ] is a 95 % interval; a method is named only where it leaves out zero."
FORGETTING = (("forgetting", "benchmarks", 1), ("nll_source", "source NLL", -1))
MATCHED = (
    ("target", "target score", "forgetting", "benchmarks", 1),
    ("target", "target score", "nll_source", "source NLL", -1),
    ("nll_target", "target NLL", "nll_source", "source NLL", -1),
)


def verdict(group: pd.DataFrame) -> list[str]:
    """Full finetuning against each other method of a group, in the sentences of a report.

    Compared are the longest duration that both have, cooled down, at the rate of the lowest
    validation loss (mean over seeds); then the frontiers over all rates and durations.
    """
    finished = group[group.cooled_down & (group.method != "base")]
    full = finished[finished.label == "full"]
    others = finished[finished.method != "full"].sort_values(["rank", "label"])
    lines: list[str] = []
    for label, other in others.groupby("label", sort=False):
        lines += _against(full, other, str(label), names().target.get(str(group.domain.iloc[0])))
    return [*lines, LEGEND] if lines else []


def _against(
    full: pd.DataFrame, other: pd.DataFrame, label: str, target: tuple[str, str] | None
) -> list[str]:
    common = set(full.duration) & set(other.duration)
    if not common:
        return []
    duration = max(common)
    chosen = [_chosen(rows[rows.duration == duration]) for rows in (full, other)]
    length = f"{duration_text(duration, True)} {full.duration_unit.iloc[0]}"
    lines = [f"full and {label}, {length}:"]
    if chosen[0] is None or chosen[1] is None:
        lines.append("  undecided: several rates and no validation loss to choose by")
    else:
        lines[0] = f"full and {label}, {length}, {_conditions(chosen[0], chosen[1])}:"
        for measure, told, sign in (("target", target[0] if target else "", 1), *FORGETTING):
            verb = "learns more" if measure == "target" else "forgets less"
            found = difference(chosen[0], chosen[1], measure)
            if found is not None:
                lines.append(f"  {verb} ({told}): {_winner(found, label, sign)}")
    for learning, level, measure, told, sign in MATCHED:
        if not any(
            rows[name].isna().all() for rows in (full, other) for name in (learning, measure)
        ):
            gap = matched_learning(full, other, learning, measure)
            lines.append(f"  forgets less at equal {level} ({told}): {_matched(gap, label, sign)}")
    return lines


def _chosen(rows: pd.DataFrame) -> pd.DataFrame | None:
    """Runs at the chosen rate."""
    rate = chosen_rate(rows)
    if rate is None:
        return None
    return rows[rows.lr_peak == rate] if not math.isnan(rate) else rows


def _conditions(full: pd.DataFrame, other: pd.DataFrame) -> str:
    """Rates and seeds of the compared runs; with single seeds, what the interval leaves out."""
    rates = " and ".join(rate_text(rows.lr_peak.iloc[0]) for rows in (full, other))
    told = "" if full.lr_peak.isna().all() else f"rates {rates}, "
    if len(full) < 2 or len(other) < 2:
        return f"{told}one seed: item noise only"
    seeds = [", ".join(str(seed) for seed in sorted(rows.seed)) for rows in (full, other)]
    return f"{told}seeds {seeds[0]}" + (f" and {seeds[1]}" if seeds[0] != seeds[1] else "")


def _winner(found: Estimate, label: str, sign: int) -> str:
    interval = found.interval()
    if interval is None:
        return f"undecided, as no error is known (full minus {label} {_signed(found.value)})"
    numbers = f"{_signed(found.value)} [{_signed(interval[0])}, {_signed(interval[1])}]"
    return f"{_name(found.sign * sign, label)} (full minus {label} {numbers})"


def _matched(found: Matched | Undecided, label: str, sign: int) -> str:
    if isinstance(found, Undecided):
        return f"undecided ({found.reason})"
    side = int(found.low > 0) - int(found.high < 0)
    numbers = f"{_signed(found.value)} [{_signed(found.low)}, {_signed(found.high)}]"
    levels = f"{found.levels[0]:.3f} to {found.levels[1]:.3f}"
    return f"{_name(side * sign, label)} (full minus {label} {numbers}; levels {levels})"


def _name(side: int, label: str) -> str:
    return {1: "full", -1: label, 0: "undecided"}[side]


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")
