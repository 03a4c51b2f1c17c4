"""What a model's many samples say: pass@k (paper Fig. S9) and their diversity (Fig. 5)."""

import json
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lvf.records.store import items
from lvf.reporting.figures import style
from lvf.reporting.select.compare import of_drawn_models, of_one_sampling
from lvf.reporting.select.scope import benchmark_name, is_generated
from lvf.reporting.select.variant import with_variants

EPOCHS = 4.0
"""Duration whose models the paper samples for pass@k (App. F)."""


@style.styled
def pass_at_k(models: pd.DataFrame, scores: pd.DataFrame, title: str) -> Figure:
    """HumanEval pass@k over k for the base and every method of code IFT (paper Fig. S9).

    Of several samplings that with the most samples; models of four epochs, or of the longest
    duration where there are none; means over seeds at the chosen learning rate
    (`lvf.reporting.select.selection`). Methods that were sampled at other rates only are named.

    Args:
        models: `Selection.models` of one scale.
        scores: rows of `lvf.records.store.load` of one scale.
        title: heading.
    """
    sampled = _sampled(scores)
    rows = _curves(of_drawn_models(sampled, models))
    everything = with_variants(sampled)
    kept = set(rows.label) | {"base"}
    left_out = everything[~everything.label.isin(kept)].drop_duplicates("label")
    figure, (axes,) = style.panels(1, 1, (5.0, 3.6))
    if (rows.k > 1).any():
        looks = {style.BASE: ("0.35", "*")} | style.looks(rows)
        for label, line in rows.groupby("label", sort=False):
            style.points(axes, line, "k", "value", str(label), looks[str(label)])
        style.log2_axis(axes, list(rows.k), str)
        axes.set(xlabel="k", ylabel=f"pass@k, {benchmark_name('humaneval', is_generated(scores))}")
        sampling = json.loads(str(rows.settings.iloc[0]))
        samples, temperature = sampling["samples"], sampling["temperature"]
        axes.set_title(f"{samples} samples at temperature {temperature:g}")
    else:
        looks = {}
        style.say_missing(axes, "several samples a problem")
    return style.finish(figure, title, looks, left_out=left_out)


@style.styled
def diversity(models: pd.DataFrame, scores: pd.DataFrame, title: str) -> Figure:
    """Unique samples a HumanEval problem, passing and failing, over problems (paper Fig. 5).

    Boxes are quartiles over problems (of their means over seeds), a dot the mean. The last panel
    divides by the base's number at equal sample size (`lvf.analysis.diversity`), which sampling
    noise alone leaves at 1; a point a seed, bars are one standard error. Models of code IFT at
    their longest duration, at the chosen learning rate; of several samplings that with the most
    samples.

    Args:
        models: `Selection.models` of one scale.
        scores: rows of `lvf.records.store.load` of one scale, whose records of the task
            `diversity` keep items.
        title: heading.
    """
    rows = of_one_sampling(scores[scores.domain == "code"])
    rows = _base_named(of_drawn_models(rows, models))
    rows = rows[(rows.method == "base") | (rows.regime == "ift")]
    longest = rows.groupby("label").duration.transform("max")
    rows = rows[(rows.method == "base") | (rows.duration == longest)]
    order = list(dict.fromkeys(rows.sort_values(["rank", "label"], na_position="last").label))
    full = set(rows.label[rows.method == "full"])
    order.sort(key=lambda label: (label in full) - (label == style.BASE))
    figure, places = style.panels(3, 3, legend=0)
    verdicts = {"unique_passing": "passing", "unique_failing": "failing"}
    for axes, (metric, name) in zip(places, verdicts.items(), strict=False):
        axes.set_title(f"{name} samples")
        _boxes(axes, rows[rows.metric == metric], order)
        axes.set_ylabel("unique samples a problem")
    _ratios(places[2], rows, order)
    return style.finish(figure, title)


def _boxes(axes: Axes, rows: pd.DataFrame, order: list[str]) -> None:
    drawn = [label for label in order if (rows.label == label).any()]
    records = [rows[rows.label == label] for label in drawn]
    values: Any = []
    for of_label in records:
        seeds: Any = [items(*where) for where in zip(of_label.path, of_label.metric, strict=True)]
        values.append(np.mean(seeds, axis=0))
    if not values:
        style.say_missing(axes, "diversity of samples")
        return
    means = {"marker": "o", "markerfacecolor": "black", "markeredgecolor": "black"}
    axes.boxplot(
        values, tick_labels=drawn, showfliers=False,
        showmeans=True, meanprops=means, medianprops={"color": "slateblue"},
    )  # fmt: skip
    axes.tick_params(axis="x", rotation=30)


def _ratios(axes: Axes, rows: pd.DataFrame, order: list[str]) -> None:
    ends = {"unique_passing.over_base": -0.1, "unique_failing.over_base": 0.1}
    looks = style.contrasts(["passing", "failing"])
    drawn = rows[rows.metric.isin(list(ends))]
    if drawn.empty:
        style.say_missing(axes, "diversity beside the base's")
        return
    for (metric, shift), (name, (colour, marker)) in zip(ends.items(), looks.items(), strict=True):
        here = drawn[drawn.metric == metric]
        places = [order.index(label) + shift for label in here.label]
        axes.errorbar(
            places, here.value, yerr=here.stderr, color=colour, marker=marker, linestyle="",
            label=name,
        )  # fmt: skip
    axes.axhline(1, **style.BASE_LINE)
    axes.set_xticks(range(len(order)), order, rotation=30)
    axes.set_ylabel("unique samples over the base's,\nat equal sample size")
    axes.legend()


def _base_named(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose label of the base model is that of figures."""
    return rows.assign(label=rows.label.mask(rows.method == "base", style.BASE))


def _sampled(scores: pd.DataFrame) -> pd.DataFrame:
    """HumanEval's pass@k of one sampling and length, with the column `k`."""
    rows = scores[(scores.task == "humaneval") & (scores.regime == "ift")]
    k = rows.metric.str.extract(r"^pass@(\d+)$")[0].astype("Int64")
    rows = rows.assign(k=k)[k.notna()]
    if rows.empty:
        return rows
    rows = rows[rows.settings_id == rows.loc[rows.k.idxmax()].settings_id]
    trained = rows[rows.method != "base"]
    length = EPOCHS if (trained.duration == EPOCHS).any() else trained.duration.max()
    return rows[(rows.method == "base") | (rows.duration == length)]


def _curves(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per (label, k) with `value` and `value_se`: means over seeds."""
    rows = _base_named(rows).assign(value_se=rows.stderr)
    axes = ["label", "method", "rank", "lr_peak", "k", "settings"]
    means = rows.groupby(axes, dropna=False)[["value", "value_se"]].mean().reset_index()
    return means.sort_values(["rank", "label", "k"])
