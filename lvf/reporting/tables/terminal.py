"""The learning-forgetting figure in characters, for terminals and logs."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import plotext

from lvf.reporting.select.settings import cells

FULL_MARKS = "■□"
LORA_MARKS = ("●○", "▲△", "◆◇", "▼▽")
"""Cooled down, and not."""
WIDTH, HEIGHT = 96, 26
AXIS = {"nll_source": "held-out source NLL", "forgetting": "forgetting average"}


def terminal_frontier(group: pd.DataFrame) -> str:
    """Learning (up is more) against forgetting (right is less) as lines of at most 96 characters.

    The x axis is held-out source NLL on a reversed log axis where it is measured, else the
    forgetting average; dotted lines mark the base, open marks are not cooled down. Works without a
    terminal; holds no colour codes.
    """
    rows = cells(group)
    name = "nll_source" if rows.nll_source.notna().any() else "forgetting"
    rows = rows[rows.target.notna() & rows[name].notna()]
    if (rows.method == "base").all():
        return f"no model has both a target score and {AXIS[name]}"
    figure: Any = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(WIDTH, HEIGHT)
    rows = rows.assign(x=np.log(rows[name]) if name == "nll_source" else rows[name])
    trained = rows[rows.method != "base"]
    for one in rows[rows.method == "base"].to_dict("records"):
        figure.line(one["target"], "horizontal", style="dotted")
        figure.line(one["x"], "vertical", style="dotted")
    legend = []
    lora_marks = itertools.cycle(LORA_MARKS)
    for label, line in trained.groupby("label", sort=False):
        marks = FULL_MARKS if label == "full" else next(lora_marks)
        legend.append(f"{marks[0]} {label}")
        for one in line.to_dict("records"):
            mark = marks[0] if one["cooled_down"] else marks[1]
            figure.draw(figure.signal([one["x"]], [one["target"]], marker=mark))
    figure.label(f"{AXIS[name]}  (right: forgets less)", "x")
    figure.title("target score  (up: learns more)")
    if name == "nll_source":
        ticks = np.linspace(rows.x.min(), rows.x.max(), 6)
        figure.ruler("x").direction(-1).ticks(list(ticks), [f"{x:.2f}" for x in np.exp(ticks)])
    hollow = [] if trained.cooled_down.all() else ["open: not cooled down"]
    return "\n".join([figure.build().string(True), "   ".join([*legend, "┈ base", *hollow])])
