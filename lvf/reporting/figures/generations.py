"""What a model's many samples say: pass@k (paper Fig. S9) and their diversity (Fig. 5)."""

import json
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lvf.records.store import items
from lvf.reporting.figures import style
from lvf.reporting.select.variants import of_one_sampling

EPOCHS = 4.0
"""Duration whose models the paper samples for pass@k (App. F)."""


@style.styled
def pass_at_k(scores: pd.DataFrame, title: str) -> Figure:
    """HumanEval pass@k over k for the base and every method of code IFT (paper Fig. S9).

    Of several settings the one with the most samples; models of four epochs, or of the longest
    duration where there are none; means over seeds, at the rate of the highest pass@1.

    Args:
        scores: rows of `lvf.records.store.load` of one scale.
        title: heading.
    """
    rows = _curves(scores)
    figure, (axes,) = style.panels(1, 1, (5.0, 3.6))
    if (rows.k > 1).any():
        looks = {style.BASE: ("0.35", "*")} | style.looks(rows)
        for label, line in rows.groupby("label", sort=False):
            style.points(axes, line, "k", "value", str(label), looks[str(label)])
        style.log2_axis(axes, list(rows.k), str)
        axes.set(xlabel="k", ylabel="HumanEval pass@k")
        told = json.loads(str(rows.settings.iloc[0]))
        axes.set_title(f"{told['samples']} samples at temperature {told['temperature']:g}")
    else:
        looks = {}
        style.say_missing(axes, "several samples a problem")
    return style.finish(figure, title, looks)


@style.styled
def diversity(scores: pd.DataFrame, title: str) -> Figure:
    """Unique samples a HumanEval problem, passing and failing, over problems (paper Fig. 5).

    Boxes are quartiles over problems (of their means over seeds), a dot the mean. The last panel
    divides by the base's number at equal sample size (`lvf.analysis.diversity`), which sampling
    noise alone leaves at 1; a point a seed, bars are one standard error. Models of code IFT at
    their longest duration; of several settings the one with the most samples.

    Args:
        scores: rows of `lvf.records.store.load` of one scale, whose records of the task
            `diversity` keep items.
        title: heading.
    """
    rows = of_one_sampling(scores[scores.domain == "code"])
    rows = _labelled(rows[(rows.method == "base") | (rows.regime == "ift")])
    longest = rows.groupby("label").duration.transform("max")
    rows = rows[(rows.method == "base") | (rows.duration == longest)]
    order = list(dict.fromkeys(rows.sort_values(["rank", "label"], na_position="last").label))
    order.sort(key=lambda label: (label == "full") - (label == style.BASE))
    figure, places = style.panels(3, 3, legend=0)
    told = {"unique_passing": "passing", "unique_failing": "failing"}
    for axes, (metric, name) in zip(places, told.items(), strict=False):
        axes.set_title(f"{name} samples")
        _boxes(axes, rows[rows.metric == metric], order)
        axes.set_ylabel("unique samples a problem")
    _ratios(places[2], rows, order)
    return style.finish(figure, title)


def _boxes(axes: Axes, rows: pd.DataFrame, order: list[str]) -> None:
    drawn = [label for label in order if (rows.label == label).any()]
    records = [rows[rows.label == label] for label in drawn]
    values: Any = []
    for one in records:
        seeds: Any = [items(*where) for where in zip(one.path, one.metric, strict=True)]
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


def _labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the column `label`: `LoRA r=16`, `full`, the base model, or the method's name."""
    rank = rows["rank"].astype("string")
    plain = (rows.method_name == "lora_r" + rank).fillna(False)
    label = rows.method_name.mask(plain, "LoRA r=" + rank).mask(rows.method == "base", style.BASE)
    return rows.assign(label=label)


def _curves(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per (label, k) with `value` and `value_se`."""
    rows = scores[(scores.task == "humaneval") & (scores.regime == "ift")]
    k = rows.metric.str.extract(r"^pass@(\d+)$")[0].astype("Int64")
    rows = rows.assign(k=k)[k.notna()]
    if rows.empty:
        return rows
    rows = rows[rows.settings_id == rows.loc[rows.k.idxmax()].settings_id]
    trained = rows[rows.method != "base"]
    length = EPOCHS if (trained.duration == EPOCHS).any() else trained.duration.max()
    rows = rows[(rows.method == "base") | (rows.duration == length)]
    rows = _labelled(rows).assign(value_se=rows.stderr)
    axes = ["label", "method", "rank", "lr_peak", "k", "settings"]
    means = rows.groupby(axes, dropna=False)[["value", "value_se"]].mean().reset_index()
    first = means[means.k == 1].sort_values("value").drop_duplicates("label", keep="last")
    return means.merge(first[["label", "lr_peak"]], on=["label", "lr_peak"]).sort_values(
        ["rank", "label", "k"]
    )
