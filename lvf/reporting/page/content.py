"""What the page shows first: its banner, and the marks of its plots."""

import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

import lvf
from lvf.config.schema import CONF_DIR
from lvf.reporting.claims.evidence import DOMAINS
from lvf.reporting.claims.judge import Verdict
from lvf.reporting.claims.table import verdict_texts
from lvf.reporting.figures.cost import with_costs
from lvf.reporting.figures.style import REGIMES
from lvf.reporting.select.scope import is_generated, model_size
from lvf.reporting.select.selection import evidence_set_name
from lvf.reporting.select.settings import groups, learning_measure, setting_texts, settings
from lvf.reporting.tables.results import Row
from lvf.reporting.tables.text import number

MARKED = ("retention", "nll_source", "target", "nll_target")
SCORE = "score"


def evidence_sets(models: pd.DataFrame) -> list[str]:
    """Names of the sets of records with trained models: the published last."""
    trained = models[models.method != "base"]
    keys = trained[["source", "scale", "model"]].drop_duplicates().itertuples(index=False)
    names = dict.fromkeys(evidence_set_name(*map(str, key)) for key in keys)
    return sorted(names, key=lambda name: name == "published")


def facts(models: pd.DataFrame, scores: pd.DataFrame) -> list[tuple[str, str]]:
    """The banner: model, data, seeds, dates and commit, of the reader's own records if any."""
    trained = models[models.method != "base"]
    own = trained[trained.source != "paper"]
    rows = trained if own.empty else own
    if rows.empty:
        return [("lvf", commit())]
    names = [
        f"{model} ({size} parameters)" if (size := model_size(its_rows, str(model))) else str(model)
        for model, its_rows in rows.groupby("model", sort=True)
    ]
    seeds = rows.groupby("setting").size()
    several = f"{seeds.min()} to {seeds.max()}" if seeds.min() < seeds.max() else f"{seeds.max()}"
    kind = "generated" if is_generated(rows) else ", ".join(sorted(set(rows.dataset)))
    shown = [("model", ", ".join(names)), ("data", kind), ("seeds", several)]
    days = sorted(set(scores.created_at[scores.source != "paper"].dropna().str.slice(0, 10)))
    if days:
        shown.append(("measured", " to ".join(dict.fromkeys([days[0], days[-1]]))))
    return [*shown, ("lvf", commit())]


def commit() -> str:
    """Version of lvf, and the commit of the checkout that it runs from."""
    line = ["git", "-C", str(CONF_DIR.parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return lvf.__version__
    return f"{lvf.__version__}, commit {done.stdout.strip()}"


def methods(models: pd.DataFrame) -> list[str]:
    """Labels of all methods in the order of the plots' colours: base, main methods, all others."""
    order = {"base": 0, "main": 1}
    rows = models.assign(place=models.role.map(order).fillna(2), full=models.method != "full")
    return list(rows.sort_values(["place", "full", "rank", "label"]).label.unique())


def marks(models: pd.DataFrame) -> list[dict[str, Any]]:
    """A mark of the plots for each (method, learning rate, duration) that has learning measured.

    `learned` is the target score, or the probability of a target token where no model has scores.
    """
    found = []
    learning = learning_measure(models)
    main_first = sorted(groups(models), key=lambda named: named[1].domain.iloc[0] not in DOMAINS)
    for _, group in main_first:
        first = group[group.method != "base"].iloc[0]
        several = models[(models.domain == first.domain) & (models.regime == first.regime)]
        same = several[(several.scale == first.scale) & (several.method != "base")]
        condition = f"{first.domain} {REGIMES.get(first.regime, first.regime)}"
        if same[["model", "dataset"]].drop_duplicates().shape[0] > 1:
            condition += f": {first.dataset}"
        where = {
            "records": evidence_set_name(first.source, first.scale, first.model),
            "condition": condition,
        }  # fmt: skip
        rows = with_costs(group)
        base = settings(group[group.method == "base"])
        for row in [*base.to_dict("records"), *rows.to_dict("records")]:
            if not pd.isna(row[learning]):
                found.append(where | _mark(row, str(first.duration_unit), learning))
    return found


def _mark(row: Row, unit: str, learning: str) -> dict[str, Any]:
    is_base = row["method"] == "base"
    method, rate, length = setting_texts(row)
    mark = {
        "method": method, "main": is_base or (row["role"] == "main" and row["is_drawn"]),
        "rate": rate, "seeds": row["seeds"],
        "duration": 1.0 if is_base else row["duration"],
        "length": length if is_base else f"{length} {unit}",
        "line": "" if is_base or not row["cooled_down"] else f"{method} {rate}",
    }  # fmt: skip
    plotted = {"learned": learning, "retention": "retention", "likelihood": "nll_source"}
    for name, measure in plotted.items():
        value, error = _value_and_error(row, measure)
        if not pd.isna(value):
            mark[name] = _short(value)
            error = 0.0 if pd.isna(error) else error
            mark |= {f"{name}_low": _short(value - error), f"{name}_high": _short(value + error)}
    mark |= {f"{name}_text": number(row[name], row[f"{name}_se"]) for name in MARKED}
    spent = {name: row.get(name, np.nan) for name in ("train_flops", "device_hours")}
    known = {name: _short(value) for name, value in spent.items() if value > 0}
    texts = {"train_flops": "FLOPs", "device_hours": "hours"}
    costs = ", ".join(f"{value:.3g} {texts[name]}" for name, value in known.items())
    return mark | known | {"cost": costs or "–", "labels": row["models"]}


def _value_and_error(row: Row, measure: str) -> tuple[float, float]:
    """A score, or of a loss the probability of a token, with the error of its paired difference."""
    if not measure.startswith("nll"):
        return row[measure], row[f"{measure}_se"]
    error, paired = row[f"{measure}_se"], row[f"{measure}_delta_se"]
    value = np.exp(-row[measure])
    return value, value * (error if pd.isna(paired) else paired)


def effects(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """A mark of the claims' plot for each verdict that has a number."""
    found = []
    for place, one in enumerate(verdicts):
        if one.effect is None:
            continue
        texts, effect = verdict_texts(one), _short(one.effect)
        ends = {"low": effect, "high": effect}  # no bar
        if one.low is not None and one.high is not None:
            ends = {"low": _short(one.low), "high": _short(one.high)}
        found.append({
            "records": one.evidence_set, "family": _family(one), "place": place,
            "label": f"{texts['no.']}  {one.statement}",
            "verdict": one.verdict, "effect": effect, "unit": one.unit, **ends,
            "effect_text": texts["mean"], "interval": texts["95 % here"],
            "agree": texts["agree"], "p": texts["p"], "href": f"#claim-{place}",
        })  # fmt: skip
    return sorted(found, key=lambda mark: mark["family"] != SCORE)


def _family(verdict: Verdict) -> str:
    """The panel of a claim: claims with one scale."""
    return SCORE if verdict.unit.startswith(SCORE) else verdict.unit


def _short(value: float) -> float:
    """Five digits, which is more than can be seen."""
    return float(f"{value:.5g}")
