"""What else decides: regularisation, targets, rates, optimisers, alpha (Figs 4, 7, S1 to S3)."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lvf.reporting.figures import style
from lvf.reporting.figures.curves import by_usual_optimizer
from lvf.reporting.select.settings import cells, duration_text, groups

ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
MLP = frozenset({"gate_proj", "up_proj", "down_proj"})
MODULE_SETS = {ATTENTION: "Attention", MLP: "MLP", ATTENTION | MLP: "All"}


@style.styled
def regularisation(models: pd.DataFrame, title: str) -> Figure:
    """Regularised full finetuning beside plain and LoRA, over epochs of code IFT (paper Fig. 4)."""
    rows = condition(by_usual_optimizer(models), "code", "ift")
    full = sorted(set(rows.label[rows.method == "full"]) - {"full"})
    ranks = rows["rank"].dropna().astype(int)
    shown = ["full", *(f"lora_r{rank}" for rank in {min(ranks, default=0), max(ranks, default=0)})]
    named = set(rows.label[rows.method_name.isin(shown)])
    looks = {name: look for name, look in style.looks(rows).items() if name in named}
    looks |= style.contrasts(full)
    missing = [] if full else ["full finetuning with weight decay or attention dropout"]
    return _learned_and_kept(rows, "label", "duration", looks, title, missing)


@style.styled
def target_modules(models: pd.DataFrame, title: str) -> Figure:
    """LoRA on attention, MLP or all modules, a panel a rank, code IFT (paper Fig. 7)."""
    rows = condition(by_usual_optimizer(models), "code", "ift")
    rows = rows[(rows.method == "lora") & (rows.alpha == 2 * rows["rank"])]
    looks = style.contrasts(list(MODULE_SETS.values()))
    ranks = sorted(set(rows["rank"][rows.target.notna()])) or [None]
    figure, places = style.panels(len(ranks), len(ranks))
    for axes, rank in zip(places, ranks, strict=True):
        here = rows[rows["rank"] == rank] if rank else rows.iloc[:0]
        _panel(axes, here, "modules", "duration", "target", looks, "code IFT")
        axes.set_title(f"r = {rank}" if rank else "")
    absent = [f"LoRA on {name}" for name in looks if name not in set(rows.modules)]
    return style.finish(figure, title, looks, absent)


@style.styled
def learning_rates(models: pd.DataFrame, title: str) -> Figure:
    """Target score over the learning rate, code and maths IFT (paper Fig. S1)."""
    rows = {domain: _one_duration(condition(models, domain, "ift")) for domain in ("code", "math")}
    looks = style.looks(pd.concat(rows.values()))
    figure, places = style.panels(2, 2)
    for axes, (domain, here) in zip(places, rows.items(), strict=True):
        _panel(axes, here, "label", "lr_peak", "target", looks, f"{domain} IFT")
    return style.finish(figure, title, looks)


@style.styled
def optimizers(models: pd.DataFrame, title: str) -> Figure:
    """Lion and AdamW over learning rates, code IFT (paper Fig. S2).

    The right panel has the forgetting average in place of the paper's gauntlet average.
    """
    rows = _one_duration(condition(models, "code", "ift"))
    tried = rows.groupby("method_name").optimizer.nunique()
    if (tried > 1).any():
        rows = rows[rows.method_name.isin(tried.index[tried > 1])].copy()
    rows["series"] = rows.method_name + ", " + rows.optimizer.str.split(".").str[-1]
    looks = style.contrasts(sorted(rows.series.dropna().unique()))
    names = " ".join(looks)
    missing = [f"code IFT with {name}" for name in ("Lion", "AdamW") if name not in names]
    return _learned_and_kept(rows, "series", "lr_peak", looks, title, missing)


@style.styled
def alphas(models: pd.DataFrame, title: str) -> Figure:
    """LoRA's alpha at the highest rank (paper Fig. S3).

    Left: code IFT over learning rates. Right: maths CPT over training tokens.
    """
    left = _one_duration(_highest_rank(condition(models, "code", "ift")))
    right = _highest_rank(condition(models, "math", "cpt"))
    values = sorted(set(left.alpha.dropna()) | set(right.alpha.dropna()))
    looks = {f"α = {one:g}": look for one, look in style.contrasts(values).items()}
    missing = [] if len(values) > 1 else ["more than one alpha"]
    figure, places = style.panels(2, 2)
    _panel(places[0], left, "alpha_text", "lr_peak", "target", looks, "code IFT")
    _panel(places[1], right, "alpha_text", "duration", "target", looks, "math CPT")
    return style.finish(figure, title, looks, missing)


def condition(models: pd.DataFrame, domain: str, regime: str) -> pd.DataFrame:
    """Cells of the trained models of one condition, with what ablations vary in columns of its own.

    Where a condition was run with several models or data sets, the one with the most cells. The
    columns added to `select.settings.cells`: `alpha`, `alpha_text`, `modules`, `optimizer`,
    `method_name`, `domain`, `duration_unit`. Published LoRA models without a list of targets have
    adapters on all modules (paper App. A).
    """
    here = models[(models.domain == domain) & (models.regime == regime)]
    found = [_with_axes(cells(group), group) for _, group in groups(here)]
    return max(found, key=len) if found else _with_axes(cells(here), here)


def _with_axes(rows: pd.DataFrame, group: pd.DataFrame) -> pd.DataFrame:
    added = ["alpha", "targets", "optimizer", "method_name", "domain", "duration_unit"]
    told = group.drop_duplicates("label").set_index("label")[added]
    rows = rows[rows.method != "base"].join(told, on="label")
    rows["alpha_text"] = [None if pd.isna(one) else f"α = {one:g}" for one in rows.alpha]
    lora = rows.method == "lora"
    rows["modules"] = [
        _modules(targets) if adapted else None
        for targets, adapted in zip(rows.targets, lora, strict=True)
    ]
    return rows


def _modules(targets: Any) -> str:
    if pd.isna(targets):
        return "All"
    found = frozenset(str(targets).split(","))
    return MODULE_SETS.get(found, " ".join(sorted(found)))


def _one_duration(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the duration at which the most rates were scored."""
    scored = rows[rows.target.notna() & rows.lr_peak.notna()]
    if scored.empty:
        return scored.copy()
    return scored[scored.duration == scored.groupby("duration").lr_peak.nunique().idxmax()].copy()


def _highest_rank(rows: pd.DataFrame) -> pd.DataFrame:
    everywhere = rows[rows.modules == "All"]
    return everywhere[everywhere["rank"] == everywhere["rank"].max()]


def _learned_and_kept(
    rows: pd.DataFrame,
    by: str,
    x: str,
    looks: dict[str, style.Look],
    title: str,
    missing: list[str],
) -> Figure:
    """Target score and forgetting average of code IFT, side by side."""
    figure, places = style.panels(2, 2, legend=2.2)
    for axes, measure in zip(places, ("target", "forgetting"), strict=True):
        _panel(axes, rows, by, x, measure, looks, "code IFT")
    return style.finish(figure, title, looks, missing)


def _panel(
    axes: Axes,
    rows: pd.DataFrame,
    by: str,
    x: str,
    y: str,
    looks: dict[str, style.Look],
    what: str,
) -> None:
    """Lines of `y` over `x`, one for each value of the column `by` that has a look."""
    rows = rows[rows[x].notna() & rows[y].notna() & rows[by].isin(list(looks))]
    if rows.empty:
        style.say_missing(axes, what)
        return
    if x == "duration":
        rows = _at_chosen_rates(rows, by)
        style.duration_axis(axes, rows)
    else:
        style.rate_axis(axes, list(rows[x]))
        axes.set_title(f"{what}, {duration_text(rows.duration.iloc[0], True)} epochs")
    for series, line in rows.groupby(by, sort=False):
        style.points(axes, line, x, y, str(series), looks[str(series)])
    axes.set_ylabel(style.measure_text(y, str(rows.domain.iloc[0])))


def _at_chosen_rates(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of each series and duration the rate of the lowest validation NLL, else the best score.

    Where a rate has neither, the others go before it.
    """
    key = rows.nll_validation.fillna(-rows.target).fillna(np.inf)
    return rows.loc[key.groupby([rows[by], rows.duration]).idxmin()]
