"""Learning against forgetting: paper Fig. 3, and the frontier over learning rates and seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lvf.reporting.figures import style
from lvf.reporting.figures.curves import conditions
from lvf.reporting.select.selection import not_scored, without_ablations
from lvf.reporting.select.settings import (
    altered_settings,
    duration_text,
    duration_unit,
    learning_measure,
    learning_rate_text,
    settings,
)

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
    everything = [(name, settings(group)) for name, group in conditions(models)]
    figure, places = style.panels(len(everything), 2, legend=1.9)
    looks = style.looks(pd.concat(rows[rows.is_drawn] for _, rows in everything))
    for axes, (name, rows) in zip(places, everything, strict=True):
        drawn = rows[rows.is_drawn]
        axes.set_title(name)
        if (_plottable(drawn, "retention", "target").method == "base").all():
            style.say_missing(axes, f"{name.split(':')[0]}\nwith both measures")
            continue
        _panel(axes, drawn, "retention", "target", looks)
        axes.set_xlabel(style.measure_line("retention", drawn), fontsize=8)
        axes.set_ylabel(style.measure_text("target", drawn))
    sizes = _size_legend([4.5, 9.0], ["shortest", "longest"])
    left_out = pd.concat(
        not_scored(rows.dropna(subset="retention"), "target") for _, rows in everything
    )
    return style.finish(figure, title, looks, more=sizes, left_out=left_out)


@style.styled
def frontier(models: pd.DataFrame, title: str, altered: pd.DataFrame | None = None) -> Figure:
    """Learning against forgetting of a group over its learning rates, means over seeds.

    A panel for retention and a panel for held-out source NLL, on a reversed log axis. A thick line
    joins a method's durations at its chosen learning rate, a thin line the rates of a duration;
    larger marks trained longer, hollow marks are not cooled down; bars are one standard error.
    A dash-dotted line joins the strengths of a checkpoint's update; letters are updates that were
    cut to a rank (r) or rid of intruders (d). Without target scores, learning is the loss on the
    target's held-out texts, on a reversed axis.

    Args:
        models: comparable ones, as `lvf.reporting.select.settings.groups` gives them.
        title: heading.
        altered: rows of `lvf.reporting.select.selection.Selection.altered` of the group, if any.
    """
    y = learning_measure(models)
    everything = settings(without_ablations(models))
    rows = everything.dropna(subset=y)
    shown = [name for name in ("retention", "nll_source") if rows[name].notna().any()]
    rows = rows.dropna(subset=shown, how="all")
    if not shown:
        return style.nothing(title, "retention")
    figure, places = style.panels(len(shown), len(shown), (4.7, 4.2), legend=1.9)
    looks = style.looks(everything)
    for axes, name in zip(places, shown, strict=True):
        if altered is not None and len(altered):
            _draw_altered(axes, altered, name, y, looks)
        _panel(axes, rows, name, y, looks)
        text = style.measure_line(name, models)
        axes.set_xlabel(f"{text}\n(forgets less →)")
    places[0].set_ylabel(f"{style.measure_text(y, models)}\n(learns more →)")
    sizes = _sizes(rows)
    unit = duration_unit(models)
    texts = [f"{duration_text(duration, True)} {unit}" for duration in sizes]
    style.finish(figure, title, looks, more=_size_legend(list(sizes.values()), texts))
    for axes, name in zip(places, shown, strict=True):
        _label_rates(figure, axes, rows, name, y, looks)
    return figure


def _plottable(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    return rows[rows[y].notna() & rows[x].notna()]


def _panel(axes: Axes, rows: pd.DataFrame, x: str, y: str, looks: dict[str, style.Look]) -> None:
    """Marks at their scores, joined along durations and along rates."""
    complete = _plottable(rows, x, y)
    for base in complete[complete.method == "base"].itertuples():
        axes.axhline(getattr(base, y), **style.BASE_LINE, label=style.BASE)
        axes.axvline(getattr(base, x), **style.BASE_LINE)
    sizes = _sizes(rows)
    trained = complete[complete.method != "base"].sort_values("duration")
    is_cooled = trained.cooled_down.astype(bool)
    cooled, hot = trained[is_cooled], trained[~is_cooled]
    for label, line in cooled[cooled.is_drawn].groupby("label", sort=False):
        axes.plot(line[x], line[y], color=looks[str(label)][0])
    for (label, _), line in cooled.sort_values("lr_peak").groupby(["label", "duration"]):
        axes.plot(line[x], line[y], color=looks[str(label)][0], linewidth=0.7, alpha=0.6)
    for (label, *_), line in hot.groupby(["label", "run_duration", "lr_peak"], dropna=False):
        colour = looks[str(label)][0]
        axes.plot(line[x], line[y], color=colour, linestyle=":", label=style.HOT)
    for row in trained.itertuples():
        colour, marker = looks[str(row.label)]
        point = pd.DataFrame([row])
        axes.errorbar(
            point[x], point[y], xerr=style.bars(point, x),
            yerr=style.bars(point, y), color=colour, marker=marker,
            markersize=sizes.get(row.duration, LABEL_POINTS), elinewidth=0.7,
            markerfacecolor=colour if row.cooled_down else "white", linestyle="", label=row.label,
        )  # fmt: skip
    if x == "nll_source":
        style.log_axis(axes.xaxis)
        axes.invert_xaxis()
    if y == "nll_target":
        axes.invert_yaxis()
    axes.margins(0.08)


def _draw_altered(
    axes: Axes, altered: pd.DataFrame, x: str, y: str, looks: dict[str, style.Look]
) -> None:
    """A line along the strengths of each drawn checkpoint; marks for the other alterations."""
    rows = _plottable(altered_settings(altered), x, y)
    rows = rows[rows.is_drawn & rows.label.isin(list(looks))]
    along = rows[rows.strength.notna()]
    keys = ["label", "lr_peak", "run_duration", "duration"]
    for (label, *_), line in along.groupby(keys, dropna=False):
        line = line.sort_values("strength")
        axes.plot(
            line[x], line[y], color=looks[str(label)][0], linestyle="-.", linewidth=0.9,
            marker=".", markersize=4, label=style.STRENGTH,
        )  # fmt: skip
    for row in rows[rows.strength.isna()].to_dict("records"):
        mark = f"$r_{{{row['truncate']:g}}}$" if pd.notna(row["truncate"]) else "$d$"
        axes.plot(
            row[x], row[y], color=looks[row["label"]][0], marker=mark, markersize=11,
            linestyle="", label=style.CUT,
        )  # fmt: skip


def _label_rates(
    figure: Figure, axes: Axes, rows: pd.DataFrame, x: str, y: str, looks: dict[str, style.Look]
) -> None:
    """Write the rate of each method's longest training where it covers nothing, if anywhere."""
    figure.draw_without_rendering()  # positions are known only after the layout
    complete = _plottable(rows, x, y)
    spots = axes.transData.transform(complete[[x, y]].to_numpy())
    pixels = figure.dpi / 72
    longest = complete.groupby("variant").duration.max()
    taken = [(*spot, 5 * pixels, 5 * pixels) for spot in spots]  # half width, half height
    for row, (left, low) in zip(complete.to_dict("records"), spots, strict=True):
        if pd.isna(row["lr_peak"]) or not row["cooled_down"]:
            continue
        if row["duration"] < longest[row["variant"]]:
            continue
        text = learning_rate_text(row["lr_peak"])
        size = 0.32 * LABEL_POINTS * len(text) * pixels, 0.6 * LABEL_POINTS * pixels
        boxes = [(left + dx * 1.4 * pixels, low + dy * pixels, *size) for dx, dy in OFFSETS]
        covered = [sum(_overlap(box, other) for other in taken) for box in boxes]
        best = int(np.argmin(covered))
        if covered[best] > 0:
            continue
        taken.append(boxes[best])
        dx, dy = OFFSETS[best]
        axes.annotate(
            text, (row[x], row[y]), xytext=(dx * 1.4, dy), ha="center",
            va="center", textcoords="offset points", fontsize=LABEL_POINTS,
            color=[0.75 * part for part in to_rgb(looks[row["label"]][0])],
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
