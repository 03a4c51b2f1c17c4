"""Methods where they have learned equally much, and the plane that they cover: forest plots."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lvf.reporting.figures import style
from lvf.reporting.select.settings import groups
from lvf.reporting.stats.contrast import Contrast
from lvf.reporting.stats.frontier import hypervolume, matched_learning

MATCHED = (
    ("target", "target score", "retention"),
    ("target", "target score", "nll_source"),
    ("nll_target", "target NLL", "nll_source"),
)
"""Measure of learning that is held equal, its name, and the measure compared."""
RETENTION_TEXTS = {"retention": "source-task accuracy", "nll_source": "exp(− source NLL)"}


@style.styled
def at_equal_learning(models: pd.DataFrame, title: str) -> Figure:
    """Gap in forgetting between full finetuning and each other method at equal learning.

    A row a pair of methods and pair of measures, with its 95 % interval
    (`stats.frontier.matched_learning`); right of zero the method forgets less than full finetuning.
    Hollow where no seed variance is known and so no interval can be had; in words where the two
    never learned equally much.
    """
    return _forest(list(_gaps(models)), title, zero=True)


@style.styled
def hypervolumes(models: pd.DataFrame, title: str) -> Figure:
    """Share of the learning-forgetting plane that each method's rates and durations dominate.

    Beyond what the base could do already. A row a method with its 95 % interval
    (`stats.frontier.hypervolume`); hollow where no seed variance is known.
    """
    rows = []
    for name, group in groups(models):
        finished = group[group.cooled_down & (group.method != "base")]
        base_score = group.target[group.method == "base"].mean()
        for label, method in finished.sort_values(["rank", "label"]).groupby("label", sort=False):
            for measure in ("retention", "nll_source"):
                covered = hypervolume(group, method, measure, base_score)
                if covered is not None and not np.isnan(base_score):
                    kind = f"hypervolume: target score above the base × {RETENTION_TEXTS[measure]}"
                    ends = covered.estimate.interval()
                    rows.append(_Row(f"{name}: {label}", kind, covered.value, ends))
    return _forest(rows, title)


@dataclass(frozen=True)
class _Row:
    """A line of a forest plot."""

    name: str
    kind: str
    """The panel that it stands in, and its x axis."""
    value: float | None
    span: tuple[float, float] | None
    """Ends of the 95 % interval."""
    note: str = ""
    """Stands in the place of a value that cannot be had."""


def _forest(rows: Sequence[_Row], title: str, zero: bool = False) -> Figure:
    """Values with their intervals, a row each, a panel a kind."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    if not kinds:
        figure, (axes,) = style.panels(1, 1)
        style.say_missing(axes, "models with both measures")
        return style.finish(figure, title)
    by_kind = [[row for row in rows if row.kind == kind] for kind in kinds]
    heights = [0.8 + 0.28 * len(part) for part in by_kind]
    figure, places = style.panels(len(kinds), 1, (8.0, 0), legend=0, heights=heights)
    for axes, kind, part in zip(places, kinds, by_kind, strict=True):
        for place, row in enumerate(part):
            _draw_row(axes, place, row)
        if zero:
            axes.axvline(0, **style.BASE_LINE)
        axes.set_yticks(range(len(part)), [row.name for row in part])
        axes.set_ylim(len(part) - 0.5, -0.5)
        axes.set_xlabel(kind)
    look: dict[str, Any] = {"color": "black", "marker": "s"}
    legend = [
        Line2D([], [], **look, label="with its 95 % interval"),
        Line2D([], [], **look, markerfacecolor="white", linestyle="", label="no interval known"),
    ]
    figure.legend(handles=legend, loc="outside lower right", ncols=2, fontsize=8)
    return style.finish(figure, title)


def _draw_row(axes: Axes, place: int, row: _Row) -> None:
    if row.value is None:
        axes.text(
            0.01, place, row.note, fontsize=8, va="center", color="0.35", style="italic",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
        return
    fill = "black" if row.span else "white"
    axes.plot([row.value], [place], "s", color="black", markerfacecolor=fill)
    if row.span:
        axes.plot(row.span, [place, place], color="black")


def _gaps(models: pd.DataFrame) -> Iterator[_Row]:
    """Each comparison with full finetuning that has both measures."""
    for name, group in groups(models):
        finished = group[group.cooled_down & (group.method != "base")]
        full = finished[(finished.method == "full") & (finished.role == "main")]
        others = finished[finished.method != "full"].sort_values(["rank", "label"])
        for label, other in others.groupby("label", sort=False):
            for learning, level, measure in MATCHED:
                sides = full, other
                if any(rows[x].isna().all() for rows in sides for x in (learning, measure)):
                    continue
                row_name = f"{name}: {label}, equal {level}"
                text = style.measure_line(measure, group)
                kind = f"forgets less than full finetuning by: {text}"
                gap = matched_learning(group, other, full, learning, measure)
                if isinstance(gap, Contrast):
                    yield _Row(row_name, kind, gap.value, gap.estimate.interval())
                else:
                    yield _Row(row_name, kind, None, None, gap.reason)
