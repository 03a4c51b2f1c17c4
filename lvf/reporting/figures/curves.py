"""Scores against training duration: paper Figs 1, 2 and S4 to S6, and v1's source tasks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lvf.records.checkpoints import names
from lvf.reporting.figures import style
from lvf.reporting.select.compare import with_score
from lvf.reporting.select.selection import main_methods, not_scored, without_ablations
from lvf.reporting.select.settings import groups, learning_measure, settings

CONDITIONS = (("code", "cpt"), ("code", "ift"), ("math", "cpt"), ("math", "ift"))
"""The paper's panels A to D."""
FAR = 4
"""Times the range of the trained models' scores, beyond which the base is told in words."""
TULU_SCORES = {
    "mt_bench": ("score", "MT-bench, mean of 160 scores"),
    "gsm8k": ("exact_match,strict-match", "GSM8K strict match"),
    "mmlu": ("acc", "MMLU accuracy"),
}
"""Metric and axis label of the tasks that Tülu's models are scored on."""


@dataclass(frozen=True)
class Panel:
    """A measure of a group of models against duration."""

    title: str
    group: pd.DataFrame
    """Comparable models (`select.settings.groups`); empty where there are no records."""
    measure: str
    text: str
    """Label of the y axis."""


def conditions(models: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Title and main methods of each of the paper's four conditions, in its order.

    A condition that was run with several models or data sets comes once for each; a condition
    without records comes with an empty table.
    """
    by_condition: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for _, group in groups(main_methods(models)):
        condition = group.domain.iloc[0], group.regime.iloc[0]
        by_condition.setdefault(condition, []).append(group)
    for domain, regime in CONDITIONS:
        name = f"{domain} {style.REGIMES[regime]}"
        found = by_condition.get((domain, regime), [])
        for group in found:
            yield f"{name}: {group.dataset.iloc[0]}" if len(found) > 1 else name, group
        if not found:
            yield name, models.iloc[:0]


@style.styled
def over_durations(models: pd.DataFrame, measure: str, title: str) -> Figure:
    """A measure in the four conditions, 2 x 2 (paper Figs 1 and 2).

    Args:
        models: rows of `Selection.models` of one scale.
        measure: `target` (Fig. 1), `retention` (Fig. 2) or another measure.
        title: heading.
    """
    shown = [
        Panel(name, group, measure, style.measure_text(measure, group))
        for name, group in conditions(models)
    ]
    return _drawn(shown, 2, title)


@style.styled
def retention_by_task(models: pd.DataFrame, title: str) -> Figure:
    """The parts of retention, a row a benchmark (v1 Figs S4 and S5)."""
    by_condition = list(conditions(models))
    shown = [
        Panel(name, group, task, style.measure_text(task, group))
        for task in names().retention
        for name, group in by_condition
    ]
    return _drawn(shown, len(by_condition), title)


@style.styled
def tulu(models: pd.DataFrame, scores: pd.DataFrame, tasks: Sequence[str], title: str) -> Figure:
    """Scores of the Tülu-v2-mix models against epochs (paper Figs S4 to S6).

    Args:
        models: rows of `Selection.models` of one scale.
        scores: the table that they were made of (`lvf.records.store.load`).
        tasks: of `mt_bench`, `gsm8k`, `mmlu` and `retention`; a panel each.
        title: heading.
    """
    mixed = models[models.dataset.str.contains("tulu")]
    mixed = mixed.assign(run_duration=mixed.duration.max())  # App. C: one run, measured on its way
    shown = []
    for task in tasks:
        group, measure, text = mixed, task, style.measure_text(task, mixed)
        if task in TULU_SCORES:
            metric, text = TULU_SCORES[task]
            group, measure = with_score(mixed, scores, "target", task, metric), "target"
        shown.append(Panel("Tülu-v2-mix", group, measure, text))
    return _drawn(shown, len(shown), title)


@style.styled
def all_measures(group: pd.DataFrame, title: str) -> Figure:
    """Learning and retention of a group of models against duration, a panel a measure."""
    group = without_ablations(group)
    measures = (learning_measure(group), "retention", "nll_source")
    shown = [x for x in measures if group[x].notna().any()] or ["target"]
    panels = [Panel("", group, x, style.measure_text(x, group)) for x in shown]
    return _drawn(panels, len(panels), title)


def _drawn(panels: Sequence[Panel], columns: int, title: str) -> Figure:
    figure, places = style.panels(len(panels), columns)
    rows = [settings(panel.group) for panel in panels]
    looks = style.looks(pd.concat(rows))
    left_out = []
    for axes, panel, its_rows in zip(places, panels, rows, strict=True):
        axes.set_title(panel.title)
        left_out.append(not_scored(its_rows, panel.measure))
        drawable = its_rows[its_rows.is_drawn & its_rows[panel.measure].notna()]
        if (drawable.method == "base").all():
            style.say_missing(axes, f"{panel.title.split(':')[0]}\n{panel.text}")
            continue
        _curves(axes, drawable, panel.measure, looks)
        axes.set_ylabel(panel.text)
        style.duration_axis(axes, drawable[drawable.method != "base"])
    return style.finish(figure, title, looks, left_out=pd.concat(left_out))


def _curves(axes: Axes, rows: pd.DataFrame, name: str, looks: dict[str, style.Look]) -> None:
    """Lines of a measure over duration, a line a method, and the base dashed.

    Each method is drawn at its chosen learning rate (`lvf.reporting.select.selection`), or at all
    its rates where none can be chosen. Checkpoints that are not cooled down are hollow, on dotted
    lines. Published lines beside others are dashed and paler.
    """
    trained = rows[rows.method != "base"]
    for base in rows[rows.method == "base"][name].dropna().unique():
        if _is_far(base, trained[name]):
            text = f"base model: {base:.3g}, {'below' if base < trained[name].min() else 'above'}"
            axes.set_title(text, loc="right", fontsize=8, color="0.35")
        else:
            axes.axhline(base, **style.BASE_LINE, label=style.BASE)
    beside = trained.source.nunique() > 1
    for (label, _), line in trained.groupby(["label", "lr_peak"], dropna=False, sort=False):
        published: dict[str, Any] = {"alpha": 0.5, "linestyle": "--"}
        more = published if beside and line.source.iloc[0] == "paper" else {}
        series = str(label), looks[str(label)]
        style.points(axes, line[line.cooled_down], "duration", name, *series, **more)
        for _, run in line.groupby("run_duration"):
            hot = run[~run.cooled_down]
            if len(hot):
                colour = looks[str(label)][0]
                axes.plot(run.duration, run[name], color=colour, linestyle=":", label=style.HOT)
                hollow: dict[str, Any] = {"linestyle": "", "markerfacecolor": "white"}
                style.points(axes, hot, "duration", name, *series, **hollow)


def _is_far(base: float, scores: pd.Series) -> bool:
    """Whether a line at the base's score would press all others together."""
    low, high = scores.min(), scores.max()
    return max(low - base, base - high) > FAR * (high - low) > 0
