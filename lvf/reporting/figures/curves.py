"""Scores against training duration: paper Figs 1, 2 and S4 to S6, and v1's per-task forgetting."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lvf.records.checkpoints import MARKS, names
from lvf.reporting.claims.ablations import REGULARISED
from lvf.reporting.figures import style
from lvf.reporting.select.settings import cells, chosen_rate, groups

CONDITIONS = (("code", "cpt"), ("code", "ift"), ("math", "cpt"), ("math", "ift"))
"""The paper's panels A to D."""
ABLATIONS = "|".join(f"^{name}" for name in (*REGULARISED, "lora_.*(?:attention|mlp|alpha)"))
"""Names in conf/method of what the paper varies beside its main grid, as a pattern."""


@dataclass(frozen=True)
class Panel:
    """One measure of one group of models against duration."""

    title: str
    group: pd.DataFrame
    """Comparable models (`select.settings.groups`); empty where there are no records."""
    measure: str
    text: str
    """Label of the y axis."""


def conditions(models: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Title, domain and models of each of the paper's four conditions, in its order.

    A condition that was run with several models or data sets comes once for each; one without
    records comes with an empty table.
    """
    found = [group for _, group in groups(main_methods(models))]
    for domain, regime in CONDITIONS:
        here = [
            one for one in found if (one.domain.iloc[0], one.regime.iloc[0]) == (domain, regime)
        ]
        name = f"{domain} {style.REGIMES[regime]}"
        for group in here:
            yield f"{name}: {group.dataset.iloc[0]}", domain, group
        if not here:
            yield name, domain, models.iloc[:0]


def main_methods(models: pd.DataFrame) -> pd.DataFrame:
    """Base, full finetuning and LoRA as in the paper's main grid, by the usual optimiser.

    Left out are the variants of its ablations and all other methods, which have figures of their
    own.
    """
    lora = "lora_r" + models["rank"].astype("string")
    plain = models.method_name.isin(["base", "full"]) | (models.method_name == lora).fillna(False)
    kept = by_usual_optimizer(models[plain])
    labels = [
        label if pd.isna(optimizer) else label.replace(MARKS["optimizer"](optimizer), "")
        for label, optimizer in zip(kept.label, kept.optimizer, strict=True)
    ]
    return kept.assign(label=labels)


def without_ablations(models: pd.DataFrame) -> pd.DataFrame:
    """Without the variants of the paper's ablations, which have figures of their own.

    Models that are nothing else are all kept.
    """
    variants = models.method_name.str.contains(ABLATIONS).astype(bool)
    kept = by_usual_optimizer(models[~variants])
    return models if (kept.method == "base").all() else kept


def by_usual_optimizer(models: pd.DataFrame) -> pd.DataFrame:
    """Models whose optimiser is the one that most have, or is not told."""
    usual = models.optimizer.mode().head(1)
    return models[models.optimizer.isna() | models.optimizer.isin(usual)]


@style.styled
def over_durations(models: pd.DataFrame, measure: str, title: str) -> Figure:
    """One measure in the four conditions, 2 x 2 (paper Figs 1 and 2).

    Args:
        models: rows of `lvf.records.checkpoints.models` of one scale.
        measure: `target` (Fig. 1), `forgetting` (Fig. 2) or another measure.
        title: heading.
    """
    found = [
        Panel(name, group, measure, style.measure_text(measure, domain))
        for name, domain, group in conditions(models)
    ]
    return _drawn(found, 2, title)


@style.styled
def forgetting_by_task(models: pd.DataFrame, title: str) -> Figure:
    """The parts of the forgetting average, one row a benchmark (v1 Figs S4 and S5)."""
    found = list(conditions(models))
    every = [
        Panel(name, group, task, style.MEASURE_TEXTS[task])
        for task in names().forgetting
        for name, _, group in found
    ]
    return _drawn(every, len(found), title)


@style.styled
def tulu(models: pd.DataFrame, scores: pd.DataFrame, tasks: Sequence[str], title: str) -> Figure:
    """Scores of the Tülu-v2-mix models against epochs (paper Figs S4 to S6).

    Args:
        models: rows of `lvf.records.checkpoints.models` of one scale.
        scores: the table that they were made of (`lvf.records.store.load`).
        tasks: of `mt_bench`, `gsm8k`, `mmlu` and `forgetting`; a panel each.
        title: heading.
    """
    texts = {"mt_bench": "MT-bench, mean of 160 scores", "gsm8k": "GSM8K strict match",
             "mmlu": "MMLU accuracy", "forgetting": style.MEASURE_TEXTS["forgetting"]}  # fmt: skip
    mixed = models[models.dataset.str.contains("tulu")]
    mixed = mixed.assign(run_duration=mixed.duration.max())  # App. C: one run, measured on its way
    found = []
    for task in tasks:
        group = mixed if task == "forgetting" else with_target(mixed, scores, task)
        measure = "forgetting" if task == "forgetting" else "target"
        found.append(Panel(f"Tülu-v2-mix: {task}", group, measure, texts[task]))
    return _drawn(found, len(found), title)


@style.styled
def all_measures(group: pd.DataFrame, title: str) -> Figure:
    """Learning and forgetting of one group of models against duration, a panel a measure."""
    group = without_ablations(group)
    domain = str(group.domain.iloc[0])
    shown = [x for x in ("target", "forgetting", "nll_source") if group[x].notna().any()]
    found = [Panel("", group, x, style.measure_text(x, domain)) for x in shown or ["target"]]
    return _drawn(found, len(found), title)


def with_target(models: pd.DataFrame, scores: pd.DataFrame, task: str) -> pd.DataFrame:
    """Models whose measure `target` is another task's score, without differences to the base."""
    key = ["source", "run_id", "checkpoint"]
    found = scores[scores.task == task].drop_duplicates(key, keep="last").set_index(key)
    where = pd.MultiIndex.from_frame(models[key])
    chosen = found.reindex(where)
    target, errors = (chosen[name].to_numpy(dtype=float) for name in ("value", "stderr"))
    return models.assign(target=target, target_se=errors, target_delta=np.nan)


def _drawn(found: Sequence[Panel], columns: int, title: str) -> Figure:
    figure, places = style.panels(len(found), columns)
    rows = [cells(one.group) for one in found]
    looks = style.looks(pd.concat(rows))
    for axes, one, its_rows in zip(places, found, rows, strict=True):
        axes.set_title(one.title)
        if not _drawable(its_rows, one.measure).any():
            style.say_missing(axes, f"{one.title.split(':')[0]}\n{one.text}")
            continue
        curves(axes, its_rows, one.measure, looks)
        axes.set_ylabel(one.text)
        style.duration_axis(axes, one.group[_drawable(one.group, one.measure)])
    return style.finish(figure, title, looks)


def _drawable(rows: pd.DataFrame, measure: str) -> pd.Series:
    return (rows.method != "base") & rows[measure].notna()


def curves(axes: Axes, rows: pd.DataFrame, name: str, looks: dict[str, style.Look]) -> None:
    """Lines of one measure over duration: one a method, at its chosen rate, and the base dashed.

    The rate is that of the lowest validation NLL at the longest duration; all rates are drawn where
    there is no validation NLL. Checkpoints that are not cooled down are hollow, on dotted lines.
    Published lines beside ours are dashed and paler.
    """
    for base in rows[rows.method == "base"][name].dropna().unique():
        axes.axhline(base, **style.BASE_LINE, label=style.BASE)
    trained = rows[_drawable(rows, name)]
    beside = trained.source.nunique() > 1
    for label, method in trained.groupby("label", sort=False):
        rate = chosen_rate(method)
        for _, line in method.groupby("lr_peak", dropna=False):
            if rate is None or np.isclose(line.lr_peak.iloc[0], rate, equal_nan=True):
                published: dict[str, Any] = {"alpha": 0.5, "linestyle": "--"}
                look = published if beside and line.source.iloc[0] == "paper" else {}
                _curve(axes, line, name, (str(label), looks[str(label)]), look)


def _curve(
    axes: Axes,
    line: pd.DataFrame,
    name: str,
    series: tuple[str, style.Look],
    more: dict[str, Any],
) -> None:
    style.points(axes, line[line.cooled_down], "duration", name, *series, **more)
    for _, run in line.groupby("run_duration"):
        if not run.cooled_down.all():
            axes.plot(run.duration, run[name], color=series[1][0], linestyle=":", label=style.HOT)
            hollow: dict[str, Any] = {"linestyle": "", "markerfacecolor": "white"}
            style.points(axes, run[~run.cooled_down], "duration", name, *series, **hollow)
