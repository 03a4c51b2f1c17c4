"""Methods where they have learned equally much, and the plane that they cover: forest plots."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lvf.reporting.figures import style
from lvf.reporting.select.settings import groups
from lvf.reporting.stats.bootstrap import cell_means
from lvf.reporting.stats.hypervolume import hypervolume
from lvf.reporting.stats.matched import (
    MORE_IS_BETTER,
    Matched,
    frontier,
    gap_at_equal_learning,
    matched_learning,
)
from lvf.reporting.tables.verdict import MATCHED

RETENTION_TEXTS = {"forgetting": "forgetting average", "nll_source": "exp(− source NLL)"}


@style.styled
def at_equal_learning(models: pd.DataFrame, title: str) -> Figure:
    """Gap in forgetting between full finetuning and each other method at equal learning.

    One row a pair of methods and pair of measures, with its 95 % bootstrap interval
    (`stats.matched.matched_learning`). Hollow where no error is known and so no interval
    can be had; in words where the two never learned equally much.
    """
    return _forest(list(_gaps(models)), title, zero=True)


@style.styled
def hypervolumes(models: pd.DataFrame, title: str) -> Figure:
    """Share of the learning-forgetting plane that each method's rates and durations dominate.

    One row a method with its 95 % bootstrap interval (`stats.hypervolume`); hollow where no
    error is known.
    """
    rows = []
    for name, group in groups(models):
        finished = group[group.cooled_down & (group.method != "base")]
        for label, method in finished.sort_values(["rank", "label"]).groupby("label", sort=False):
            for measure in ("forgetting", "nll_source"):
                found = hypervolume(method, measure)
                if found is not None:
                    kind = f"hypervolume: target score × {RETENTION_TEXTS[measure]}"
                    rows.append(_Row(f"{name}: {label}", kind, found.value, found.span))
    return _forest(rows, title)


@dataclass(frozen=True)
class _Row:
    """One line of a forest plot."""

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
    kinds = list(dict.fromkeys(one.kind for one in rows))
    if not kinds:
        figure, (axes,) = style.panels(1, 1)
        style.say_missing(axes, "models with both measures")
        return style.finish(figure, title)
    found = [[one for one in rows if one.kind == kind] for kind in kinds]
    heights = [0.8 + 0.28 * len(part) for part in found]
    figure, places = style.panels(len(kinds), 1, (8.0, 0), legend=0, heights=heights)
    for axes, kind, part in zip(places, kinds, found, strict=True):
        for place, one in enumerate(part):
            _draw_row(axes, place, one)
        if zero:
            axes.axvline(0, **style.BASE_LINE)
        axes.set_yticks(range(len(part)), [one.name for one in part])
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
    """Every comparison with full finetuning that has both measures."""
    for name, group in groups(models):
        finished = group[group.cooled_down & (group.method != "base")]
        full = finished[finished.method_name == "full"]
        others = finished[finished.method != "full"].sort_values(["rank", "label"])
        for label, other in others.groupby("label", sort=False):
            for learning, level, measure, _, _ in MATCHED:
                sides = full, other
                if any(rows[x].isna().all() for rows in sides for x in (learning, measure)):
                    continue
                told = f"{name}: {label}, equal {level}"
                kind = f"full minus LoRA: {style.MEASURE_TEXTS[measure]}".replace("\n", " ")
                found = matched_learning(full, other, learning, measure)
                if isinstance(found, Matched):
                    yield _Row(told, kind, found.value, (found.low, found.high))
                else:
                    point = _point(full, other, learning, measure)
                    yield _Row(told, kind, point, None, found.reason)


def _point(full: pd.DataFrame, other: pd.DataFrame, learning: str, measure: str) -> float | None:
    """The gap without its interval; None where the two share no level of learning."""
    signs = MORE_IS_BETTER[learning], MORE_IS_BETTER[measure]
    complete = [rows.dropna(subset=[learning, measure]) for rows in (full, other)]
    ours, theirs = (
        frontier(signs[0] * cell_means(rows, learning), signs[1] * cell_means(rows, measure))
        for rows in complete
    )
    gap = gap_at_equal_learning(ours, theirs)
    return None if gap is None else signs[1] * gap[0]
