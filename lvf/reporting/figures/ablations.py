"""What else decides: regularisation, targets, rates, optimisers, alpha (Figs 4, 7, S1 to S3)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lvf.reporting.figures import style
from lvf.reporting.select.selection import not_scored
from lvf.reporting.select.settings import duration_text, groups, settings
from lvf.reporting.select.variant import VARIANT, Variant

MODULE_NAMES = {"attention": "Attention", "mlp": "MLP", "all": "All"}


@style.styled
def regularisation(models: pd.DataFrame, title: str) -> Figure:
    """Regularised full finetuning beside plain and LoRA, over epochs of code IFT (paper Fig. 4)."""
    rows = condition(models, "code", "ift")
    rows = rows[rows.is_usual]
    regularised = rows.weight_decay.notna() | rows.attention_dropout.notna()
    ranks = rows["rank"].dropna()
    shown = (rows["rank"].isna() | rows["rank"].isin([ranks.min(), ranks.max()])).astype(bool)
    main = rows[(rows.role == "main") & shown]
    looks = style.looks(main) | style.contrasts(sorted(set(rows.label[regularised])))
    missing = ["full finetuning with weight decay or attention dropout"]
    return _learned_and_kept(
        pd.concat([main, rows[regularised]]), "label", "duration", looks, title,
        [] if regularised.any() else missing,
    )  # fmt: skip


@style.styled
def target_modules(models: pd.DataFrame, title: str) -> Figure:
    """LoRA on attention, MLP or all modules, a panel a rank, code IFT (paper Fig. 7)."""
    rows = _lora(condition(models, "code", "ift"))
    rows = rows[rows.alpha == 2 * rows["rank"]]
    rows = rows.assign(modules=rows.modules.map(lambda name: MODULE_NAMES.get(name, name)))
    looks = style.contrasts(list(MODULE_NAMES.values()))
    ranks = sorted(set(rows["rank"][rows.target.notna()])) or [None]
    figure, places = style.panels(len(ranks), len(ranks))
    for axes, rank in zip(places, ranks, strict=True):
        here = rows[rows["rank"] == rank] if rank else rows.iloc[:0]
        _panel(axes, here, "modules", "duration", "target", looks, "code IFT")
        axes.set_title(f"r = {rank}" if rank else "")
    absent = [f"LoRA on {name}" for name in looks if name not in set(rows.modules)]
    rates = rows.groupby("modules").lr_peak.nunique()
    untuned = [name for name in looks if rates.get(name, 0) == 1]
    note = ""
    if rates.max() > 1 and untuned:
        note = f"{' and '.join(untuned)}: a single learning rate, not tuned; All: at its best."
    return style.finish(
        figure, title, looks, absent, left_out=not_scored(rows, "target"), note=note
    )


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

    The right panel has retention in place of the paper's gauntlet average.
    """
    rows = _one_duration(condition(models, "code", "ift"))
    others = [name for name in VARIANT if name != "optimizer_name"]
    tried = rows.groupby(others, dropna=False).optimizer_name.transform("nunique")
    if (tried > 1).any():
        rows = rows[tried > 1]
    series = [f"{Variant.of_columns(row).name}, {row.optimizer_name}" for row in rows.itertuples()]
    rows = rows.assign(series=pd.Series(series, rows.index, dtype="object"))
    looks = style.contrasts(sorted(rows.series.unique()))
    missing = [
        f"code IFT with {name}"
        for name in ("Lion", "AdamW")
        if name not in set(rows.optimizer_name)
    ]
    return _learned_and_kept(rows, "series", "lr_peak", looks, title, missing)


@style.styled
def alphas(models: pd.DataFrame, title: str) -> Figure:
    """LoRA's alpha at the highest rank (paper Fig. S3).

    Left: code IFT over learning rates. Right: maths CPT over training tokens.
    """
    left = _one_duration(_highest_rank(condition(models, "code", "ift")))
    right = _highest_rank(condition(models, "math", "cpt"))
    values = sorted(set(left.alpha.dropna()) | set(right.alpha.dropna()))
    looks = {f"α = {alpha:g}": look for alpha, look in style.contrasts(values).items()}
    missing = [] if len(values) > 1 else ["more than one alpha"]
    figure, places = style.panels(2, 2)
    for axes, rows, x, what in (
        (places[0], left, "lr_peak", "code IFT"), (places[1], right, "duration", "math CPT"),
    ):  # fmt: skip
        rows = rows.assign(series=[f"α = {alpha:g}" for alpha in rows.alpha])
        _panel(axes, rows, "series", x, "target", looks, what)
    return style.finish(figure, title, looks, missing, left_out=not_scored(right, "target"))


def condition(models: pd.DataFrame, domain: str, regime: str) -> pd.DataFrame:
    """Settings of the trained models of one condition.

    Where a condition was run with several models or data sets, those with the most settings.
    """
    here = models[(models.domain == domain) & (models.regime == regime)]
    by_group = [settings(group) for _, group in groups(here)]
    rows = max(by_group, key=len) if by_group else settings(here)
    return rows[rows.method != "base"]


def _lora(rows: pd.DataFrame) -> pd.DataFrame:
    """LoRA by the usual optimiser, without its relatives."""
    return rows[rows.is_usual & (rows.family == "lora")]


def _one_duration(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the duration at which the most learning rates were scored."""
    scored = rows[rows.target.notna() & rows.lr_peak.notna()]
    if scored.empty:
        return scored
    return scored[scored.duration == scored.groupby("duration").lr_peak.nunique().idxmax()]


def _highest_rank(rows: pd.DataFrame) -> pd.DataFrame:
    rows = _lora(rows)
    rows = rows[rows.modules == "all"]
    return rows[rows["rank"] == rows["rank"].max()]


def _learned_and_kept(
    rows: pd.DataFrame,
    by: str,
    x: str,
    looks: dict[str, style.Look],
    title: str,
    missing: list[str],
) -> Figure:
    """Target score and retention of code IFT, side by side."""
    figure, places = style.panels(2, 2, legend=2.2)
    for axes, measure in zip(places, ("target", "retention"), strict=True):
        _panel(axes, rows, by, x, measure, looks, "code IFT")
    left_out = not_scored(rows, "target") if x == "duration" else None
    return style.finish(figure, title, looks, missing, left_out=left_out)


def _panel(
    axes: Axes,
    rows: pd.DataFrame,
    by: str,
    x: str,
    y: str,
    looks: dict[str, style.Look],
    what: str,
) -> None:
    """Lines of `y` over `x`, a line for each value of the column `by` that has a look.

    Over durations each variant is drawn at its chosen learning rate.
    """
    rows = rows[rows[x].notna() & rows[y].notna() & rows[by].isin(list(looks))]
    if x == "duration":
        rows = rows[rows.is_drawn]
    if rows.empty:
        style.say_missing(axes, what)
        return
    if x == "duration":
        style.duration_axis(axes, rows)
    else:
        style.learning_rate_axis(axes, list(rows[x]))
        axes.set_title(f"{what}, {duration_text(rows.duration.iloc[0], True)} epochs")
    for series, line in rows.groupby(by, sort=False):
        style.points(axes, line, x, y, str(series), looks[str(series)])
    axes.set_ylabel(style.measure_text(y, rows))
