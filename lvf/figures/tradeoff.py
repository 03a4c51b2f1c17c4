"""Learning against forgetting: paper Fig. 3, the frontier over rates, and equal learning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from lvf.figures import style
from lvf.figures.curves import conditions
from lvf.results.cells import cells, chosen_rate, duration_text, groups, rate_text
from lvf.results.comparisons import (
    MORE_IS_BETTER,
    Matched,
    gap_at_equal_learning,
    matched_learning,
)
from lvf.results.comparisons import frontier as undominated
from lvf.results.hypervolume import hypervolume
from lvf.results.resampling import cell_means
from lvf.results.verdict import MATCHED

RETENTION_TEXTS = {"forgetting": "forgetting average", "nll_source": "exp(− source NLL)"}
LABEL_POINTS = 7
AROUND = ((0, 1), (1, 0.6), (1, -0.6), (0, -1), (-1, 0.6), (-1, -0.6))
OFFSETS = [(r * x, r * y) for r in (7, 13, 20) for x, y in AROUND]
"""Where a rate may stand around its point, in points, nearest first."""


@style.styled
def pareto(models: pd.DataFrame, title: str) -> Figure:
    """Learning against forgetting in the four conditions (paper Fig. 3).

    A curve for each method at its chosen rate, through its durations; larger marks trained longer.
    Right is less forgetting, up is more learning.

    Args:
        models: rows of `lvf.results.measured.models` of one scale.
        title: heading.
    """
    found = list(conditions(models))
    figure, places = style.panels(len(found), 2, legend=1.9)
    rows = {name: _chosen(cells(group)) for name, _, group in found}
    looks = style.looks(pd.concat(rows.values()))
    for axes, (name, domain, _) in zip(places, found, strict=True):
        axes.set_title(name)
        if (_plottable(rows[name], "forgetting").method == "base").all():
            style.say_missing(axes, f"{name.split(':')[0]}\nwith both measures")
            continue
        _panel(axes, rows[name], "forgetting", looks, along="duration")
        axes.set_xlabel(style.MEASURE_TEXTS["forgetting"].replace("\n", " "), fontsize=8)
        axes.set_ylabel(style.target_text(domain))
    sizes = _size_legend([4.5, 9.0], ["shortest", "longest"])
    return style.finish(figure, title, looks, more=sizes)


@style.styled
def frontier(group: pd.DataFrame, title: str) -> Figure:
    """Learning against forgetting of one group over its rates, means over seeds.

    One panel for the forgetting average and one for held-out source NLL, on a reversed log axis. A
    line joins the rates of one method and duration (where there is one rate only, its durations);
    larger marks trained longer, hollow ones are not cooled down; bars are one standard error.

    Args:
        group: comparable models, as `lvf.results.cells.groups` gives them.
        title: heading.
    """
    everything = cells(group)
    rows = everything.dropna(subset="target")
    shown = [name for name in ("forgetting", "nll_source") if rows[name].notna().any()]
    rows = rows.dropna(subset=shown, how="all")
    if not shown:
        figure, (axes,) = style.panels(1, 1)
        style.say_missing(axes, "forgetting")
        return style.finish(figure, title)
    figure, places = style.panels(len(shown), len(shown), (4.7, 4.2), legend=1.9)
    looks = style.looks(everything)
    trained = rows[rows.method != "base"]
    along = "lr_peak" if trained.lr_peak.nunique() > trained.label.nunique() else "duration"
    for axes, name in zip(places, shown, strict=True):
        _panel(axes, rows, name, looks, along)
        text = style.MEASURE_TEXTS[name].replace("\n", " ")
        axes.set_xlabel(f"{text}\n(forgets less →)")
    places[0].set_ylabel(f"{style.target_text(str(group.domain.iloc[0]))}  (learns more →)")
    sizes = _sizes(rows)
    unit = str(group.duration_unit.dropna().iloc[0])
    texts = [f"{duration_text(one, True)} {unit}" for one in sizes]
    style.finish(figure, title, looks, more=_size_legend(list(sizes.values()), texts))
    for axes, name in zip(places, shown, strict=True):
        _label_rates(figure, axes, rows, name, looks)
    return figure


@style.styled
def at_equal_learning(models: pd.DataFrame, title: str) -> Figure:
    """Gap in forgetting between full finetuning and each other method at equal learning.

    One row a pair of methods and pair of measures, with its 95 % bootstrap interval
    (`lvf.results.comparisons.matched_learning`). Hollow where no error is known and so no interval
    can be had; in words where the two never learned equally much.
    """
    return _forest(list(_gaps(models)), title, zero=True)


@style.styled
def hypervolumes(models: pd.DataFrame, title: str) -> Figure:
    """Share of the learning-forgetting plane that each method's rates and durations dominate.

    One row a method with its 95 % bootstrap interval (`lvf.results.hypervolume`); hollow where no
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
        undominated(signs[0] * cell_means(rows, learning), signs[1] * cell_means(rows, measure))
        for rows in complete
    )
    gap = gap_at_equal_learning(ours, theirs)
    return None if gap is None else signs[1] * gap[0]


def _chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """The base, and of each method the rows at its chosen rate (all, where there is none)."""
    kept = [rows[rows.method == "base"]]
    for _, method in rows[rows.method != "base"].groupby("label", sort=False):
        rate = chosen_rate(method)
        same = True if rate is None else np.isclose(method.lr_peak, rate, equal_nan=True)
        kept.append(method[same])
    return pd.concat(kept)


def _plottable(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    return rows[rows.target.notna() & rows[name].notna()]


def _panel(
    axes: Axes, rows: pd.DataFrame, name: str, looks: dict[str, style.Look], along: str
) -> None:
    """Marks at their scores, joined along `lr_peak` or `duration`."""
    complete = _plottable(rows, name)
    for one in complete[complete.method == "base"].itertuples():
        axes.axhline(one.target, **style.BASE_LINE, label=style.BASE)
        axes.axvline(getattr(one, name), **style.BASE_LINE)
    sizes = _sizes(rows)
    rest = ["label", *(["run_duration", "duration"] if along == "lr_peak" else []), "cooled_down"]
    trained = complete[complete.method != "base"]
    for (label, *_), line in trained.groupby(rest, dropna=False, sort=False):
        colour, marker = looks[str(label)]
        cooled = bool(line.cooled_down.all())
        (joined,) = axes.plot(line[name], line.target, color=colour)
        if not cooled:
            joined.set(linestyle=":", label=style.HOT)
        for one in line.itertuples():
            point = pd.DataFrame([one])
            axes.errorbar(
                point[name], point.target, xerr=style.bars(point, name),
                yerr=style.bars(point, "target"), color=colour, marker=marker,
                markersize=sizes[one.duration], elinewidth=0.7,
                markerfacecolor=colour if cooled else "white", linestyle="", label=label,
            )  # fmt: skip
    if name == "nll_source":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.minorticks_off()
        axes.invert_xaxis()
    axes.margins(0.08)


def _label_rates(
    figure: Figure, axes: Axes, rows: pd.DataFrame, name: str, looks: dict[str, style.Look]
) -> None:
    """Write each cooled-down point's rate where it covers the least of what stands already."""
    figure.draw_without_rendering()  # positions are known only after the layout
    complete = _plottable(rows, name)
    spots = axes.transData.transform(complete[[name, "target"]].to_numpy())
    pixels = figure.dpi / 72
    taken = [(x, y, 5 * pixels, 5 * pixels) for x, y in spots]  # half width, half height
    for one, (x, y) in zip(complete.to_dict("records"), spots, strict=True):
        if pd.isna(one["lr_peak"]) or not one["cooled_down"]:
            continue
        text = rate_text(one["lr_peak"])
        size = 0.32 * LABEL_POINTS * len(text) * pixels, 0.6 * LABEL_POINTS * pixels
        boxes = [(x + dx * 1.4 * pixels, y + dy * pixels, *size) for dx, dy in OFFSETS]
        best = min(range(len(OFFSETS)), key=lambda i: sum(_overlap(boxes[i], t) for t in taken))
        taken.append(boxes[best])
        dx, dy = OFFSETS[best]
        axes.annotate(
            text, (one[name], one["target"]), xytext=(dx * 1.4, dy), ha="center",
            va="center", textcoords="offset points", fontsize=LABEL_POINTS,
            color=[0.75 * part for part in to_rgb(looks[one["label"]][0])],
        )  # fmt: skip


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Shared area of two boxes, each (x, y, half width, half height)."""
    wide = one[2] + other[2] - abs(one[0] - other[0])
    high = one[3] + other[3] - abs(one[1] - other[1])
    return max(wide, 0) * max(high, 0)


def _sizes(rows: pd.DataFrame) -> dict[float, float]:
    """Marker size in points of every duration: equal steps from shortest to longest."""
    durations = sorted(rows.duration[rows.method != "base"].dropna().unique())
    steps = np.linspace(4.5, 9, len(durations)) if len(durations) > 1 else [7.0]
    return dict(zip(durations, steps, strict=True))


def _size_legend(sizes: Sequence[float], texts: Sequence[str]) -> list[Line2D]:
    look: dict[str, Any] = {"linestyle": "", "marker": "o", "color": "0.6"}
    return [
        Line2D([], [], **look, markersize=size, label=text)
        for size, text in zip(sizes, texts, strict=True)
        if len(sizes) > 1
    ]
