"""What a model's many samples say: pass@k (paper Fig. S9) and their diversity (Fig. 5)."""

import json

import pandas as pd
from matplotlib.figure import Figure

from lvf.figures import style

EPOCHS = 4.0
"""Duration whose models the paper samples for pass@k (App. F)."""


@style.styled
def pass_at_k(scores: pd.DataFrame, title: str) -> Figure:
    """HumanEval pass@k over k for the base and every method of code IFT (paper Fig. S9).

    Of several settings the one with the most samples; models of four epochs, or of the longest
    duration where there are none; means over seeds, at the rate of the highest pass@1.

    Args:
        scores: rows of `lvf.results.store.load` of one scale.
        title: heading.
    """
    rows = _curves(scores)
    figure, (axes,) = style.panels(1, 1, (5.0, 3.6))
    if rows.k.max() > 1:
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
    lora = "LoRA r=" + rows["rank"].astype("string")
    plain = rows.method_name == "lora_r" + rows["rank"].astype("string")
    label = rows.method_name.mask(plain.fillna(False), lora).mask(rows.method == "base", style.BASE)
    rows = rows.assign(label=label, value_se=rows.stderr)
    axes = ["label", "method", "rank", "lr_peak", "k", "settings"]
    means = rows.groupby(axes, dropna=False)[["value", "value_se"]].mean().reset_index()
    first = means[means.k == 1].sort_values("value").drop_duplicates("label", keep="last")
    return means.merge(first[["label", "lr_peak"]], on=["label", "lr_peak"]).sort_values(
        ["rank", "label", "k"]
    )
