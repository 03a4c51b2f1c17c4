"""What all figures share: colours and markers, axes, missing data said in words, and saving."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from lvf.records.checkpoints import names
from lvf.reporting.select.scope import benchmark_name, is_generated, retention_name, target_name
from lvf.reporting.select.settings import duration_text, learning_rate_text

RANK_COLOURS = LinearSegmentedColormap.from_list("ranks", ["plum", "slateblue", "navy"])
"""The paper's colours of LoRA ranks, lowest to highest; full finetuning is black. They differ in
lightness, so that they stay apart in grey and for colour-blind readers; so do the markers."""
RANK_MARKERS = ("o", "^", "D", "v", "P", "X")
CONTRASTS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours for series that are not ranks (Okabe and Ito, Color Universal Design, 2008)."""
SERIES_MARKERS = ("s", "o", "^", "D", "v", "P")
BASE_LINE: dict[str, Any] = {"color": "0.35", "linestyle": "--", "linewidth": 1, "zorder": 0}
BASE, HOT = "base model", "not cooled down"
STRENGTH, CUT = "along strength", "update cut to rank r,\nor intruders damped (d)"
COMMON_LOOKS: dict[str, dict[str, Any]] = {
    BASE: BASE_LINE,
    HOT: {"color": "0.4", "linestyle": ":", "marker": "o", "markerfacecolor": "white"},
    STRENGTH: {"color": "0.4", "linestyle": "-.", "marker": "."},
    CUT: {"color": "0.4", "linestyle": "", "marker": "$r$"},
}
"""In the legend, of what several figures show beside their series."""
STYLE: Any = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.grid": True, "grid.color": "0.92", "axes.axisbelow": True,
    "legend.frameon": False, "figure.dpi": 160, "pdf.fonttype": 42, "svg.hashsalt": "lvf",
}  # fmt: skip
MEASURE_TEXTS = {
    "nll_source": "held-out source NLL, nats per token",
    "nll_target": "held-out target NLL, nats per token",
    "nll_validation": "validation NLL, nats per token",
}
REGIMES = {"ift": "IFT", "cpt": "CPT"}
Look = tuple[Any, str]
"""Colour and marker of a series."""
P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the common style."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PDF and PNG; returns both paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png")]
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once for both files
        figure.savefig(paths[0], metadata={"CreationDate": None})
        figure.savefig(paths[1])
    return paths


def panels(
    count: int, columns: int, size: tuple[float, float] = (3.7, 3.0), legend: float = 1.7
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in so many columns, with room for a legend on the right.

    Args:
        count: number of panels.
        columns: panels in a row.
        size: width and height of one panel in inches.
        legend: width of the legend in inches.
    """
    rows = math.ceil(count / columns)
    width, height = size[0] * columns + legend, size[1] * rows + 0.5
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = list(grid.flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def finish(
    figure: Figure,
    title: str,
    looks: Mapping[str, Look] | None = None,
    missing: Sequence[str] = (),
    more: Sequence[Line2D] = (),
    left_out: pd.DataFrame | None = None,
    note: str = "",
) -> Figure:
    """Title, a legend of what was drawn, and below everything what is missing and left out.

    Args:
        figure: whose lines carry the names of their series as labels.
        title: heading.
        looks: looks of all series; those without a line are left out of the legend.
        missing: what there are no records for.
        more: further legend entries.
        left_out: rows that the rule of learning rates leaves out
            (`lvf.reporting.select.selection.not_scored`).
        note: a sentence on what was drawn.
    """
    looks = looks or {}
    drawn = {text for axes in figure.axes for text in axes.get_legend_handles_labels()[1]}
    handles = [
        *(Line2D([], [], color=colour, marker=marker, label=name)
          for name, (colour, marker) in looks.items() if name in drawn),
        *(Line2D([], [], **look, label=name)
          for name, look in COMMON_LOOKS.items() if name in drawn - set(looks)),
        *more,
    ]  # fmt: skip
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    if handles:
        figure.legend(handles=handles, loc="outside right center")
    lines = [note] if note else []
    lines += [f"No records for {'; '.join(missing)}."] if missing else []
    if left_out is not None and len(left_out):
        names = {f"{row['label']} ({duration_text(row['duration'], True)} {row['duration_unit']})"
                 for row in left_out.to_dict("records")}  # fmt: skip
        lines.append(
            f"Left out, because the chosen learning rate has no score: {', '.join(sorted(names))}."
        )
    if lines:
        figure.supxlabel(
            "\n".join(lines), x=0.01, ha="left", fontsize=8, color="0.35", style="italic"
        )
    return figure


def say_missing(axes: Axes, what: str) -> None:
    """Say in an empty panel what there are no records for."""
    axes.text(
        0.5, 0.5, f"no records for\n{what}", ha="center", va="center", color="0.35",
        style="italic", transform=axes.transAxes,
    )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("0.85")


@styled
def nothing(title: str, what: str, count: int = 1, legend: float = 1.7) -> Figure:
    """A figure whose panels all say what there are no records for."""
    figure, places = panels(count, count, legend=legend)
    for axes in places:
        say_missing(axes, what)
    return finish(figure, title)


def has_data(figure: Figure) -> bool:
    """Whether any panel shows more than what is missing."""
    return any(axes.lines for axes in figure.axes)


def looks(rows: pd.DataFrame) -> dict[str, Look]:
    """Colour and marker of every label: by rank, so that a rank looks alike in all figures.

    Full finetuning is a black square. Labels of one rank, and variants of full finetuning, share a
    look; figures that compare those take `contrasts`.
    """
    ranks = sorted(rows["rank"].dropna().unique())
    places = np.linspace(0, 1, len(ranks)) if len(ranks) > 1 else [0.5]
    by_label: dict[str, Look] = {}
    trained = rows[rows.method != "base"].drop_duplicates("label")
    for row in trained.sort_values(["rank", "label"]).itertuples():
        if pd.isna(row.rank):
            by_label[str(row.label)] = ("black", "s")
        else:
            index = ranks.index(row.rank)
            marker = RANK_MARKERS[index % len(RANK_MARKERS)]
            by_label[str(row.label)] = (RANK_COLOURS(float(places[index])), marker)
    return by_label


def contrasts(series: Sequence[str]) -> dict[str, Look]:
    """Colour and marker of each of a few series that have no order."""
    return {
        name: (CONTRASTS[i % len(CONTRASTS)], SERIES_MARKERS[i % len(SERIES_MARKERS)])
        for i, name in enumerate(series)
    }


def points(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, series: str, look: Look, **line: Any
) -> None:
    """One series with its error bars: one standard error, where a column `<y>_se` has one."""
    rows = rows[rows[x].notna() & rows[y].notna()].sort_values(x)
    colour, marker = look
    axes.errorbar(
        rows[x], rows[y], yerr=bars(rows, y), color=colour, marker=marker, elinewidth=0.7,
        label=series, **line,
    )  # fmt: skip


def interval_row(
    axes: Axes, place: int, estimate: float, ends: tuple[float, float] | None,
    markersize: float = 6.0, linewidth: float = 1.5,
) -> None:  # fmt: skip
    """A value with its 95 % interval in a forest plot; a hollow mark where there is none."""
    look: dict[str, Any] = {"color": "black", "markerfacecolor": "black" if ends else "white"}
    axes.plot([estimate], [place], "s", **look, markersize=markersize)
    if ends:
        axes.plot(ends, [place, place], color="black", linewidth=linewidth)


def bars(rows: pd.DataFrame, name: str) -> np.ndarray | None:
    """Standard errors of a column, none where no row has one.

    Of a loss: of its difference to the base, paired by text. Texts differ far more than models do.
    """
    if f"{name}_se" not in rows or rows[f"{name}_se"].isna().all():
        return None
    errors = rows[f"{name}_se"]
    if name.startswith("nll") and f"{name}_delta_se" in rows:
        errors = rows[f"{name}_delta_se"].fillna(errors)
    return np.nan_to_num(errors.to_numpy(dtype=float))


def log2_axis(axes: Axes, values: Sequence[float], text: Callable[[float], str]) -> None:
    """A log2 x axis with a tick at each value."""
    axes.set_xscale("log", base=2)
    ticks = sorted(set(values))
    turn: Any = {"rotation": 60, "fontsize": 8} if len(ticks) > 6 else {}
    axes.set_xticks(ticks, [text(value) for value in ticks], **turn)
    axes.minorticks_off()


def log_axis(axis: XAxis | YAxis) -> None:
    """A log axis with few ticks, named as people write numbers: 0.3, 20, 2e12."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=7))
    axis.set_major_formatter(lambda x, _: f"{x:g}" if 1e-3 < x < 1e4 else learning_rate_text(x))
    axis.set_minor_locator(NullLocator())


def learning_rate_axis(axes: Axes, rates: Sequence[float]) -> None:
    """Learning rates on a log axis, a tick at each."""
    axes.set_xscale("log")
    ticks = sorted(set(rates))
    axes.set_xticks(ticks, [learning_rate_text(rate) for rate in ticks], rotation=45, fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel("peak learning rate")


def duration_axis(axes: Axes, rows: pd.DataFrame) -> None:
    """The durations of trained models on a log2 axis, named by their unit."""
    unit = str(rows.duration_unit.iloc[0])
    log2_axis(axes, list(rows.duration), lambda duration: duration_text(duration, True))
    axes.set_xlabel("training tokens" if unit == "tokens" else unit)


def measure_text(measure: str, rows: pd.DataFrame) -> str:
    """The axis label of a measure of some models."""
    if measure == "target":
        return target_name(rows).replace(" (", "\n(") if len(rows) else "target score"
    if measure == "retention":
        return retention_name(rows)
    if measure in names().retention:
        return f"{benchmark_name(measure, is_generated(rows))} accuracy"
    return MEASURE_TEXTS.get(measure, measure)


def measure_line(measure: str, rows: pd.DataFrame) -> str:
    """The same in a single line."""
    return measure_text(measure, rows).replace("\n", " ")
