"""Learning against forgetting: paper Fig. 3, and the frontier over rates and seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from lvf.reporting.figures import style
from lvf.reporting.figures.curves import conditions, without_ablations
from lvf.reporting.select.settings import cells, chosen_rate, duration_text, rate_text

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
        models: rows of `lvf.records.checkpoints.models` of one scale.
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
        _panel(axes, rows[name], "forgetting", looks)
        axes.set_xlabel(style.MEASURE_TEXTS["forgetting"].replace("\n", " "), fontsize=8)
        axes.set_ylabel(style.target_text(domain))
    sizes = _size_legend([4.5, 9.0], ["shortest", "longest"])
    return style.finish(figure, title, looks, more=sizes)


@style.styled
def frontier(group: pd.DataFrame, title: str) -> Figure:
    """Learning against forgetting of one group over its rates, means over seeds.

    One panel for the forgetting average and one for held-out source NLL, on a reversed log axis. A
    thick line joins a method's durations at its chosen rate, a thin one the rates of one duration;
    larger marks trained longer, hollow ones are not cooled down; bars are one standard error.

    Args:
        group: comparable models, as `lvf.reporting.select.settings.groups` gives them.
        title: heading.
    """
    everything = cells(without_ablations(group))
    rows = everything.dropna(subset="target")
    shown = [name for name in ("forgetting", "nll_source") if rows[name].notna().any()]
    rows = rows.dropna(subset=shown, how="all")
    if not shown:
        figure, (axes,) = style.panels(1, 1)
        style.say_missing(axes, "forgetting")
        return style.finish(figure, title)
    figure, places = style.panels(len(shown), len(shown), (4.7, 4.2), legend=1.9)
    looks = style.looks(everything)
    for axes, name in zip(places, shown, strict=True):
        _panel(axes, rows, name, looks)
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


def _chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """The base, and of each method the rows at its chosen rate (all, where there is none)."""
    kept = [rows[rows.method == "base"]]
    for _, method in rows[rows.method != "base"].groupby("label", sort=False):
        rate = chosen_rate(method)
        if rate is not None:
            method = method[np.isclose(method.lr_peak, rate, equal_nan=True)]
        kept.append(method)
    return pd.concat(kept)


def _plottable(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    return rows[rows.target.notna() & rows[name].notna()]


def _panel(axes: Axes, rows: pd.DataFrame, name: str, looks: dict[str, style.Look]) -> None:
    """Marks at their scores, joined along durations and along rates."""
    complete = _plottable(rows, name)
    for one in complete[complete.method == "base"].itertuples():
        axes.axhline(one.target, **style.BASE_LINE, label=style.BASE)
        axes.axvline(getattr(one, name), **style.BASE_LINE)
    sizes = _sizes(rows)
    trained = complete[complete.method != "base"].sort_values("duration")
    is_cooled = trained.cooled_down.astype(bool)
    cooled, hot = trained[is_cooled], trained[~is_cooled]
    for label, line in _chosen(cooled).groupby("label", sort=False):
        axes.plot(line[name], line.target, color=looks[str(label)][0])
    for (label, _), line in cooled.sort_values("lr_peak").groupby(["label", "duration"]):
        axes.plot(line[name], line.target, color=looks[str(label)][0], linewidth=0.7, alpha=0.6)
    for (label, *_), line in hot.groupby(["label", "run_duration", "lr_peak"], dropna=False):
        colour = looks[str(label)][0]
        axes.plot(line[name], line.target, color=colour, linestyle=":", label=style.HOT)
    for one in trained.itertuples():
        colour, marker = looks[str(one.label)]
        point = pd.DataFrame([one])
        axes.errorbar(
            point[name], point.target, xerr=style.bars(point, name),
            yerr=style.bars(point, "target"), color=colour, marker=marker,
            markersize=sizes[one.duration], elinewidth=0.7,
            markerfacecolor=colour if one.cooled_down else "white", linestyle="", label=one.label,
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
