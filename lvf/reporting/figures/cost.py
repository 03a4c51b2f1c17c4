"""What learning costs: arithmetic, time, budgets by rank, and the rate that each rank needs."""

import json
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lvf.reporting.figures import style
from lvf.reporting.figures.curves import conditions
from lvf.reporting.select.compare import circumstances
from lvf.reporting.select.settings import settings
from lvf.reporting.select.variant import with_variants

THROUGHPUT = {
    "tokens_per_second": "training tokens a second",
    "peak_memory_gb": "peak memory, GB a device",
}
TRADED = ("compile", "activation_checkpointing")
"""Settings by which memory or time was bought with the other, or with compilation."""
RING: Any = {
    "linestyle": "", "marker": "o", "markersize": 10, "color": "#D55E00", "markerfacecolor": "none",
}  # fmt: skip
COSTS = {"train_flops": "training FLOPs", "device_hours": "device-hours of training"}


@style.styled
def scores_against_cost(models: pd.DataFrame, title: str) -> Figure:
    """Target score against training FLOPs and device-hours, a row of panels a condition.

    Every mark is a rate and a duration, means over seeds; device-hours are the measured training
    seconds on whatever device the records name.
    """
    shown = [
        (name, with_costs(group))
        for name, group in conditions(models)
        if group.target[group.method != "base"].notna().any()
    ]
    shown = [panel for panel in shown if panel[1].train_flops.notna().any()]
    figure, places = style.panels(2 * max(len(shown), 1), 2)
    looks = style.looks(models)
    if not shown:
        for axes, text in zip(places, COSTS.values(), strict=True):
            style.say_missing(axes, text)
    for index, (name, rows) in enumerate(shown):
        for axes, cost in zip(places[2 * index :], COSTS, strict=False):
            axes.set_title(name)
            for label, line in rows.groupby("label", sort=False):
                series = str(label), looks[str(label)]
                style.points(axes, line, cost, "target", *series, linestyle="")
            style.log_axis(axes.xaxis)
            axes.set_xlabel(COSTS[cost])
            axes.set_ylabel(style.measure_text("target", rows))
    return style.finish(figure, title, looks)


@style.styled
def throughput(scores: pd.DataFrame, title: str) -> Figure:
    """Training tokens a second and peak memory over the global batch (paper Fig. S10).

    Args:
        scores: rows of `lvf.records.store.load` of one scale; drawn are the metrics
            `tokens_per_second` and `peak_memory_gb` of the task `throughput`, at the setting
            `global_batch_size`, but of no run that was compiled or recomputed activations; of
            several other circumstances (device, packing, ...) those that most rows have.
        title: heading.
    """
    rows = scores[scores.task == "throughput"]
    traded = [any(json.loads(text).get(name) for name in TRADED) for text in rows.settings]
    rows = with_variants(rows[~pd.Series(traded, rows.index, dtype=bool)])
    under = circumstances(rows)
    rows = rows[under.isin(under.mode()[:1])]
    rows = rows.assign(batch=[json.loads(text)["global_batch_size"] for text in rows.settings])
    looks = style.looks(rows)
    figure, places = style.panels(2, 2)
    for axes, (metric, text) in zip(places, THROUGHPUT.items(), strict=True):
        here = rows[rows.metric == metric]
        if here.empty:
            style.say_missing(axes, text)
            continue
        for name, line in here.groupby("label", sort=False):
            mean = line.groupby("batch", as_index=False).value.mean()
            style.points(axes, mean, "batch", "value", str(name), looks[str(name)])
        style.log2_axis(axes, list(here.batch), str)
        axes.set(xlabel="global batch, rows", ylabel=text, ylim=(0, None))
    return style.finish(figure, title, looks)


@style.styled
def loss_against_budget(models: pd.DataFrame, title: str) -> Figure:
    """Validation loss over the budget, a line a rank, log-log, in the four conditions.

    As in "LoRA Without Regret" (Thinking Machines, 2025) the lowest loss of all learning rates at
    each budget, not that of the chosen rate; a rank that has run out of capacity leaves the common
    line.
    """
    return _by_rank(models, "duration", title)


@style.styled
def optimal_rates(models: pd.DataFrame, title: str) -> Figure:
    """Validation loss over the learning rate, a line a rank, the lowest point of each ringed."""
    return _by_rank(models, "lr_peak", title)


def _by_rank(models: pd.DataFrame, x: str, title: str) -> Figure:
    shown = [(name, _lowest(group, x)) for name, group in conditions(models)]
    looks = style.looks(pd.concat([rows for _, rows in shown]))
    figure, places = style.panels(len(shown), 2)
    for axes, (name, rows) in zip(places, shown, strict=True):
        axes.set_title(name)
        if rows.empty:
            style.say_missing(axes, f"{name.split(':')[0]}\nwith a validation loss")
            continue
        for label, line in rows.groupby("label", sort=False):
            look: dict[str, Any] = {"markersize": 4, "linewidth": 1.2}
            style.points(axes, line, x, "nll_validation", str(label), looks[str(label)], **look)
            if x == "lr_peak":
                best = line.iloc[line.nll_validation.argmin()]
                axes.plot([best.lr_peak], [best.nll_validation], **RING)
        style.log_axis(axes.yaxis)
        axes.set_ylabel(style.MEASURE_TEXTS["nll_validation"])
        if x == "duration":
            style.duration_axis(axes, rows)
        else:
            style.learning_rate_axis(axes, list(rows.lr_peak))
    ringed = [Line2D([], [], **RING, label="lowest loss")] if x == "lr_peak" else []
    return style.finish(figure, title, looks, more=ringed)


def _lowest(group: pd.DataFrame, x: str) -> pd.DataFrame:
    """Cooled-down settings with a validation loss: of all rates, or the lowest of each budget."""
    rows = settings(group)
    rows = rows[(rows.method != "base") & rows.cooled_down & rows.nll_validation.notna()]
    if rows.empty:
        return rows
    if x == "duration":
        return rows.loc[rows.groupby(["label", "duration"]).nll_validation.idxmin()]
    most = rows[rows.lr_peak.notna()].groupby("duration").lr_peak.nunique().idxmax()
    return rows[rows.duration == most]


def with_costs(models: pd.DataFrame) -> pd.DataFrame:
    """Settings of trained models with their mean training cost.

    Adds `train_flops` and `device_hours` (training seconds over 3600); NaN where no record says.
    """
    trained = models[models.method != "base"]
    costs = trained.assign(device_hours=trained.train_seconds / 3600)[list(COSTS)]
    rows = settings(trained)
    means = [costs.loc[members].mean() for members in rows.models]
    return rows.join(pd.DataFrame(means, rows.index, list(COSTS)))
