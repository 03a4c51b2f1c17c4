"""A claim's comparisons with their intervals and their mean: a forest plot for each claim."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from lvf.reporting.claims.judge import FAILS, HOLDS, MIXED, Verdict
from lvf.reporting.figures import style

COLOURS = {HOLDS: "#009E73", FAILS: "#D55E00", MIXED: "#E69F00"}
"""Of the mean; grey for what is not decided."""


@style.styled
def forest(verdict: Verdict) -> Figure:
    """Every comparison of a claim, right of zero where it is as the paper says.

    Bars are 95 % intervals of items and seeds, hollow marks have none. The diamond is the mean over
    conditions; the thin line through it is the interval with the spread between conditions.
    """
    rows = [one for one in verdict.comparisons if one.estimate is not None]
    height = 0.9 + 0.27 * (len(rows) + 2)
    figure, (axes,) = style.panels(1, 1, (8.0, height), legend=0)
    for place, one in enumerate(rows):
        assert one.estimate is not None
        ends = one.estimate.interval()
        style.interval_row(axes, place, one.estimate.value, ends, linewidth=1.2)
    axes.axvline(0, **style.BASE_LINE)
    axes.autoscale_view()
    axes.autoscale(False)
    _diamond(axes, verdict, len(rows))
    names = [one.name for one in rows]
    axes.set_yticks(range(len(rows) + 1), [*names, "mean over conditions"])
    axes.set_ylim(len(rows) + 0.6, -0.6)
    axes.set_xlabel(f"{verdict.unit}; right of zero: as the paper says")
    statement = textwrap.fill(f"{verdict.number}. {verdict.statement}", 95)
    agree = f"{verdict.agree} of {verdict.compared} comparisons agree"
    axes.set_title(f"{verdict.evidence_set} records: {verdict.verdict}; {agree}", fontsize=9)
    return style.finish(figure, statement)


def _diamond(axes: Axes, verdict: Verdict, place: int) -> None:
    """The mean, as wide as its interval."""
    if verdict.effect is None:
        return
    low, high = verdict.low, verdict.high
    colour = COLOURS.get(verdict.verdict, "0.5")
    if low is None or high is None:
        axes.plot([verdict.effect], [place], "D", color=colour, markerfacecolor="white")
        return
    corners = [(low, place), (verdict.effect, place - 0.3), (high, place)]
    axes.add_patch(Polygon([*corners, (verdict.effect, place + 0.3)], color=colour))
    if verdict.low_elsewhere is not None and verdict.high_elsewhere is not None:
        ends = verdict.low_elsewhere, verdict.high_elsewhere
        axes.plot(ends, [place, place], color=colour, linewidth=1)
