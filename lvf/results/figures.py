"""Figures of one group of models: learning against forgetting, and both against duration."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from lvf.results.cells import cells, chosen_rate, duration_text, rate_text
from lvf.results.measured import names

RANK_COLOURS = LinearSegmentedColormap.from_list("ranks", ["plum", "slateblue", "navy"])
"""The paper's colours of LoRA ranks, lowest to highest; full finetuning is black."""
RANK_MARKERS = ("o", "^", "D", "v", "P", "X")
BASE_LINE: dict[str, Any] = {"color": "0.35", "linestyle": "--", "linewidth": 1, "zorder": 0}
STYLE: Any = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.grid": True, "grid.color": "0.92", "axes.axisbelow": True,
    "legend.frameon": False, "savefig.dpi": 160,
}  # fmt: skip
AXIS_TEXTS = {
    "forgetting": "forgetting average, mean accuracy",
    "nll_source": "held-out source NLL, nats per token",
}
LABEL_POINTS = 7
AROUND = ((0, 1), (1, 0.6), (1, -0.6), (0, -1), (-1, 0.6), (-1, -0.6))
OFFSETS = [(r * x, r * y) for r in (7, 13, 20) for x, y in AROUND]
"""Where a rate may stand around its point, in points, nearest first."""


def frontier(group: pd.DataFrame, path: Path, title: str) -> Figure:
    """Learning against forgetting (paper Fig. 3), right and up is better; saved as PNG.

    One panel for the forgetting average and one for held-out source NLL, on a reversed log axis. A
    line joins the rates of one method and duration (where there is one rate only, its durations);
    larger marks trained longer, hollow ones are not cooled down; bars are one standard error.
    """
    rows = cells(group)
    shown = [name for name in ("forgetting", "nll_source") if rows[name].notna().any()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.7 * len(shown) + 1.4, 4.6), layout="constrained")
        panels = _panels(figure, len(shown))
        for axes, name in zip(panels, shown, strict=True):
            _frontier_panel(axes, rows, name)
            axes.set_xlabel(f"{AXIS_TEXTS[name]}  (forgets less →)")
        if panels:
            panels[0].set_ylabel(f"{_target_text(group)}  (learns more →)")
            unit = str(group.duration_unit.dropna().iloc[0])
            _finish(figure, title, rows, [*_sizes_legend(rows, unit), *_fills_legend(rows)])
            for axes, name in zip(panels, shown, strict=True):
                _label_rates(figure, axes, rows, name)
        figure.savefig(path)
    return figure


def learning_curve(group: pd.DataFrame, path: Path, title: str) -> Figure:
    """Target score and forgetting against duration (paper Figs 1 and 2); saved as PNG.

    One line for each method at the rate of its lowest validation NLL at its longest duration (all
    rates where there is no validation NLL); dotted from checkpoints that are not cooled down.
    """
    rows = cells(group)
    shown = [x for x in ("target", "forgetting", "nll_source") if rows[x].notna().any()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(shown) + 1.6, 4.0), layout="constrained")
        panels = _panels(figure, len(shown))
        for axes, name in zip(panels, shown, strict=True):
            _curve_panel(axes, rows, name)
            axes.set_title(AXIS_TEXTS.get(name) or _target_text(group))
            axes.set_xlabel(str(group.duration_unit.dropna().iloc[0]))
        if panels:
            _finish(figure, title, rows, _fills_legend(rows))
        figure.savefig(path)
    return figure


def _panels(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False).flat) if count else []


def _plottable(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    return rows[rows.target.notna() & rows[name].notna()]


def _frontier_panel(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    complete = _plottable(rows, name)
    for one in complete[complete.method == "base"].itertuples():
        axes.axhline(one.target, **BASE_LINE)
        axes.axvline(getattr(one, name), **BASE_LINE)
    looks, sizes = _looks(rows), _sizes(rows)
    trained = complete[complete.method != "base"]
    axis = ["lr_peak"] if trained.lr_peak.nunique() > trained.label.nunique() else ["duration"]
    rest = [x for x in ("label", "run_duration", "duration", "cooled_down") if x not in axis]
    if axis == ["duration"]:
        rest.remove("run_duration")
    for (label, *_), line in trained.groupby(rest, dropna=False, sort=False):
        colour, marker = looks[label]
        cooled = bool(line.cooled_down.all())
        axes.plot(line[name], line.target, color=colour, linestyle="-" if cooled else ":")
        for one in line.itertuples():
            point = pd.DataFrame([one])
            axes.errorbar(
                point[name], point.target, xerr=_bars(point, name), yerr=_bars(point, "target"),
                color=colour, marker=marker, markersize=sizes[one.duration], elinewidth=0.7,
                markerfacecolor=colour if cooled else "white", linestyle="",
            )  # fmt: skip
    if name == "nll_source":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.minorticks_off()
        axes.invert_xaxis()
    axes.margins(0.08)


def _label_rates(figure: Figure, axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """Write each cooled-down point's rate where it covers the least of what stands already."""
    figure.draw_without_rendering()  # positions are known only after the layout
    complete = _plottable(rows, name)
    spots = axes.transData.transform(complete[[name, "target"]].to_numpy())
    pixels = figure.dpi / 72
    taken = [(x, y, 5 * pixels, 5 * pixels) for x, y in spots]  # half width, half height
    looks = _looks(rows)
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


def _curve_panel(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    looks = _looks(rows)
    for base in rows[rows.method == "base"][name].dropna():
        axes.axhline(base, **BASE_LINE)
    trained = rows[(rows.method != "base") & rows[name].notna()]
    for label, method in trained.groupby("label", sort=False):
        colour, marker = looks[str(label)]
        rate = chosen_rate(method)
        for _, line in method.groupby("lr_peak", dropna=False):
            if rate is not None and not np.isclose(line.lr_peak.iloc[0], rate, equal_nan=True):
                continue
            look: dict[str, Any] = {"color": colour, "marker": marker, "elinewidth": 0.7}
            cooled = line[line.cooled_down]
            axes.errorbar(cooled.duration, cooled[name], yerr=_bars(cooled, name), **look)
            for _, run in line.groupby("run_duration"):
                if not run.cooled_down.all():
                    axes.plot(run.duration, run[name], color=colour, linestyle=":")
                    hot = run[~run.cooled_down]
                    look |= {"linestyle": "", "markerfacecolor": "white"}
                    axes.errorbar(hot.duration, hot[name], yerr=_bars(hot, name), **look)
    axes.set_xscale("log", base=2)
    ticks = sorted(set(trained.duration))
    turn: Any = {"rotation": 60, "fontsize": 8} if len(ticks) > 6 else {}
    axes.set_xticks(ticks, [duration_text(one, True) for one in ticks], **turn)
    axes.minorticks_off()


def _looks(rows: pd.DataFrame) -> dict[str, tuple[Any, str]]:
    """Colour and marker of every label: by rank, so that a rank looks alike in all figures."""
    ranks = sorted(rows["rank"].dropna().unique())
    places = np.linspace(0, 1, len(ranks)) if len(ranks) > 1 else [0.5]
    looks: dict[str, tuple[Any, str]] = {}
    for one in rows[rows.method != "base"].drop_duplicates("label").itertuples():
        if pd.isna(one.rank):
            looks[str(one.label)] = ("black", "s")
        else:
            index = ranks.index(one.rank)
            marker = RANK_MARKERS[index % len(RANK_MARKERS)]
            looks[str(one.label)] = (RANK_COLOURS(float(places[index])), marker)
    return looks


def _sizes(rows: pd.DataFrame) -> dict[float, float]:
    """Marker size in points of every duration: equal steps from shortest to longest."""
    durations = sorted(rows.duration[rows.method != "base"].dropna().unique())
    steps = np.linspace(4.5, 9, len(durations)) if len(durations) > 1 else [7.0]
    return dict(zip(durations, steps, strict=True))


def _bars(line: pd.DataFrame, name: str) -> np.ndarray | None:
    errors = line[f"{name}_se"].to_numpy()
    return None if np.isnan(errors).all() else np.nan_to_num(errors)


def _target_text(group: pd.DataFrame) -> str:
    task, metric = names().target.get(str(group.domain.iloc[0]), ("target", "score"))
    return f"{task} {metric.split(',')[0].replace('_', ' ')}"


def _finish(figure: Figure, title: str, rows: pd.DataFrame, more: list[Line2D]) -> None:
    """Title and legend."""
    handles = [
        Line2D([], [], color=colour, marker=marker, label=label)
        for label, (colour, marker) in _looks(rows).items()
    ]
    if (rows.method == "base").any():
        handles.append(Line2D([], [], **BASE_LINE, label="base"))
    figure.legend(handles=[*handles, *more], loc="outside right center")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")


def _sizes_legend(rows: pd.DataFrame, unit: str) -> list[Line2D]:
    sizes = _sizes(rows)
    look: dict[str, Any] = {"linestyle": "", "marker": "o", "color": "0.6"}
    return [
        Line2D([], [], **look, markersize=size, label=f"{duration_text(duration, True)} {unit}")
        for duration, size in sizes.items()
        if len(sizes) > 1
    ]


def _fills_legend(rows: pd.DataFrame) -> list[Line2D]:
    if rows.cooled_down.all():
        return []
    look: dict[str, Any] = {"linestyle": ":", "marker": "o", "markerfacecolor": "white"}
    return [Line2D([], [], color="0.4", **look, label="not cooled down")]
