"""Methods where they have learned equally much, and the plane that they cover: forest plots."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lvf.reporting.figures import style
from lvf.reporting.figures.curves import conditions
from lvf.reporting.stats.contrast import Contrast
from lvf.reporting.stats.frontier import hypervolume, matched_learning

MATCHED = (
    ("target", "retention", "source-task accuracy,\nat equal target score"),
    ("target", "nll_source", "source NLL,\nat equal target score"),
    ("nll_target", "nll_source", "source NLL,\nat equal target NLL"),
)
"""Measure of learning that is held equal, the measure compared, and what the panel is called."""
COVERED = {
    "retention": "target score above the base\n× source-task accuracy",
    "nll_source": "target score above the base\n× exp(− source NLL)",
}


@style.styled
def at_equal_learning(models: pd.DataFrame, title: str) -> Figure:
    """How much less the main methods forget than full finetuning at equal learning.

    A row a method, a panel a pair of measures, with the 95 % interval
    (`stats.frontier.matched_learning`); right of zero the method forgets less. Hollow where no seed
    variance is known and so no interval can be had; in words where the two never learned equally
    much.
    """
    rows = list(_gaps(models))
    return _forest(rows, title, "forgets less than full finetuning by → ", zero=True)


@style.styled
def hypervolumes(models: pd.DataFrame, title: str) -> Figure:
    """Share of the learning-forgetting plane that each main method's rates and durations dominate.

    Beyond what the base could do already. A row a method with its 95 % interval
    (`stats.frontier.hypervolume`); hollow where no seed variance is known.
    """
    rows = []
    for name, group in conditions(models):
        finished = group[group.cooled_down & (group.method != "base")]
        base_score = group.target[group.method == "base"].mean()
        for label, method in finished.sort_values(["rank", "label"]).groupby("label", sort=False):
            for measure, kind in COVERED.items():
                covered = hypervolume(group, method, measure, base_score)
                if covered is not None and not np.isnan(base_score):
                    ends = covered.estimate.interval()
                    rows.append(_Row(f"{name}, {label}", kind, covered.value, ends))
    return _forest(rows, title, "share of the plane covered")


@dataclass(frozen=True)
class _Row:
    """A line of a forest plot."""

    name: str
    kind: str
    """The panel that it stands in."""
    value: float | None
    span: tuple[float, float] | None
    """Ends of the 95 % interval."""
    note: str = ""
    """Stands in the place of a value that cannot be had."""


def _forest(rows: Sequence[_Row], title: str, text: str, zero: bool = False) -> Figure:
    """Values with their intervals, a row each, a panel a kind, side by side."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    if not kinds:
        return style.nothing(title, "models with both measures")
    names = list(dict.fromkeys(row.name for row in rows))
    size = 2.7, 1.2 + 0.24 * len(names)
    figure, places = style.panels(len(kinds), len(kinds), size, legend=1.8)
    for axes, kind in zip(places, kinds, strict=True):
        for row in (row for row in rows if row.kind == kind):
            place = names.index(row.name)
            if row.value is None:
                axes.text(
                    0.02, place, row.note, fontsize=7, va="center", color="0.35", style="italic",
                    transform=axes.get_yaxis_transform(),
                )  # fmt: skip
            else:
                style.interval_row(axes, place, row.value, row.span, markersize=5)
        if zero:
            axes.axvline(0, **style.BASE_LINE)
        axes.set_yticks(range(len(names)), names if axes is places[0] else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(kind, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    places[0].set_xlabel(text, loc="left", fontsize=9)
    note = "Lines are 95 % intervals; hollow marks have none."
    return style.finish(figure, title, note=note)


def _gaps(models: pd.DataFrame) -> Iterator[_Row]:
    """Each comparison with full finetuning that has both measures."""
    for name, group in conditions(models):
        finished = group[group.cooled_down & (group.method != "base")]
        full = finished[finished.method == "full"]
        others = finished[finished.method != "full"].sort_values(["rank", "label"])
        for label, other in others.groupby("label", sort=False):
            for learning, measure, kind in MATCHED:
                sides = full, other
                if any(rows[x].isna().all() for rows in sides for x in (learning, measure)):
                    continue
                row_name = f"{name}, {label}"
                gap = matched_learning(group, other, full, learning, measure)
                if isinstance(gap, Contrast):
                    yield _Row(row_name, kind, gap.value, gap.estimate.interval())
                else:
                    yield _Row(row_name, kind, None, None, gap.split(":")[0])
