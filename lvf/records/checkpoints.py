"""From scores to measured models: one row per checkpoint, with its differences to the base."""

import functools
import json
import warnings
from dataclasses import dataclass
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from lvf.config.compose import compose
from lvf.config.schema import CONF_DIR
from lvf.records.estimate import Estimate, mean_of, paired_difference
from lvf.records.store import AXES, COSTS, RecordWarning, items

PER_TOKEN = {
    **dict.fromkeys(("nll_target", "nll_validation", "nll_source"), "nll_per_token"),
    "kl_base": "kl_per_token",
    "cka_source": "cka",
}
"""Measures on text: task to metric."""
BESIDE_TARGET = {"exact_match,flexible-extract": "target_flexible", "ended_by_eos": "target_ended"}
"""Other metrics of the target's task, by measure: the answer taken as GSM8K's last number, and the
share of answers that the model itself ends."""
GROUP = ["scale", "domain", "regime", "model", "dataset"]
"""Models are compared within one value of these: the same base, data and benchmarks."""
MODEL_AXES = [name for name in AXES if name not in GROUP]


@dataclass(frozen=True)
class Names:
    """Which tasks and metrics the measures are, as conf/ has them."""

    target: dict[str, tuple[str, str]]
    """Domain to (task, metric)."""
    retention: list[str]
    """Tasks of the source domain; retention is the mean of their scores."""
    retention_metric: dict[str, str]
    """Scale to the score that is averaged there."""


@functools.cache
def names() -> Names:
    """Read the targets from conf/domain, and the tasks of retention as each scale composes them."""
    domains = [OmegaConf.load(path) for path in sorted((CONF_DIR / "domain").glob("*.yaml"))]
    scales = sorted(path.stem for path in (CONF_DIR / "scale").glob("*.yaml"))
    evals = {scale: compose(f"scale={scale}").evals for scale in scales}
    return Names(
        target={domain.name: (domain.target_task, domain.target_metric) for domain in domains},
        retention=evals[scales[0]].forgetting,
        retention_metric={scale: one.forgetting_metric for scale, one in evals.items()},
    )


def measures() -> list[str]:
    """Names of the measures: target score, retention and its parts, those on text."""
    return ["target", *BESIDE_TARGET.values(), "retention", *names().retention, *PER_TOKEN]


def models(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per (run_id, checkpoint): its axes, `created_at` of its first score, every measure.

    A measure m has the columns m, m_se (standard error over items), m_n, m_path and m_metric (where
    its items are), m_delta and m_delta_se (difference to the base under the same settings; paired
    by item where both have items, otherwise from both standard errors). Missing is NaN; retention
    needs all of its parts.

    Scores of one task that were taken under several settings are never mixed: within a `GROUP` the
    setting that most checkpoints have counts (then the largest n, then the newest), and a
    `RecordWarning` says what was left out.
    """
    scores = _without_duplicates(_one_setting_per_task(_with_measure(scores)))
    rows = []
    for key, group in scores.groupby(GROUP, dropna=False, sort=True):
        base = _by_measure(group[group.method == "base"])
        for _, checkpoint in group.groupby(["source", "run_id", "checkpoint"], sort=True):
            rows.append(_row(dict(zip(GROUP, key, strict=True)), checkpoint, base))
    columns = [*GROUP, "source", "run_id", "checkpoint", "created_at", *MODEL_AXES, *COSTS]
    numbers = [
        name + end for name in measures() for end in ("", "_se", "_n", "_delta", "_delta_se")
    ]
    places = [name + end for name in measures() for end in ("_path", "_metric")]
    frame = pd.DataFrame(rows, columns=pd.Index([*columns, *numbers, *places]))
    kinds = {name: scores.dtypes[name] for name in columns}
    return in_few_blocks(frame.astype({**kinds, **dict.fromkeys(numbers, "float64")}))


def in_few_blocks(models: pd.DataFrame) -> pd.DataFrame:
    """The same table with texts as objects, from which rows are chosen several times as fast."""
    texts = {name: "object" for name, kind in models.dtypes.items() if kind == "string"}
    return models.astype(texts).copy()


def _with_measure(scores: pd.DataFrame) -> pd.DataFrame:
    """Only the rows that are a measure, named in the new column `measure`."""
    known = names()

    def measure(task: str, metric: str, domain: str, scale: str) -> str | None:
        target_task, target_metric = known.target.get(domain, (None, None))
        if task == target_task:
            return "target" if metric == target_metric else BESIDE_TARGET.get(metric)
        if task in known.retention and metric == known.retention_metric.get(scale, "acc"):
            return task
        if task == "forgetting":  # the paper published the average only
            return "retention"
        return task if PER_TOKEN.get(task) == metric else None

    columns = (scores.task, scores.metric, scores.domain, scores.scale)
    found = [measure(*row) for row in zip(*columns, strict=True)]
    scores = scores.assign(measure=pd.array(found, dtype="string"))
    return scores[scores.measure.notna()]


def _one_setting_per_task(scores: pd.DataFrame) -> pd.DataFrame:
    kept = []
    for key, group in scores.groupby(["source", *GROUP, "measure"], dropna=False, sort=True):
        by_setting = group.groupby("settings_id")
        ranking = pd.DataFrame({
            "models": by_setting.run_id.count(), "n": by_setting.n.max(),
            "newest": by_setting.created_at.max(),
        }).sort_values(["models", "n", "newest"])  # fmt: skip
        chosen = ranking.index[-1]
        kept.append(group[group.settings_id == chosen])
        if len(ranking) > 1:
            _warn_of_settings(f"{key[2]}_{key[3]} {key[-1]}", group, ranking, str(chosen))
    return pd.concat(kept) if kept else scores


def _warn_of_settings(where: str, group: pd.DataFrame, ranking: pd.DataFrame, chosen: str) -> None:
    """Say which settings count, in the keys in which they differ."""
    trees = {key: json.loads(one.settings.iloc[0]) for key, one in group.groupby("settings_id")}
    keys = {key for tree in trees.values() for key in tree}
    differ = sorted(k for k in keys if len({str(tree.get(k)) for tree in trees.values()}) > 1)

    def described(setting: str) -> str:
        values = ", ".join(f"{key}={trees[setting].get(key)}" for key in differ)
        return f"{ranking.models[setting]} with {values} (n={ranking.n[setting]})"

    others = "; ".join(described(str(one)) for one in ranking.index if one != chosen)
    warnings.warn(
        f"{where} was measured under several settings, which are never mixed. "
        f"Counted: {described(chosen)}. Left out: {others}.",
        RecordWarning,
        stacklevel=4,
    )


def _without_duplicates(scores: pd.DataFrame) -> pd.DataFrame:
    """The newest of records that stand for one measurement; contradictions are reported."""
    key = ["source", *GROUP, "run_id", "checkpoint", "measure"]
    repeated = scores[scores.duplicated(key, keep=False)]
    conflicts = [g for _, g in repeated.groupby(key, dropna=False) if g.value.nunique() > 1]
    if conflicts:
        lines = "\n  ".join(" and ".join(f"{one.path} ({one.value:g})" for one in g.itertuples())
                           for g in conflicts)  # fmt: skip
        warnings.warn(
            f"records of one measurement contradict each other; the newest counts:\n  {lines}",
            RecordWarning,
            stacklevel=3,
        )
    return scores.sort_values("created_at").drop_duplicates(key, keep="last")


def _by_measure(base: pd.DataFrame) -> dict[tuple[str, str], Any]:
    return {(row["source"], row["measure"]): row for row in base.to_dict("records")}


def _row(group: dict[str, Any], scores: pd.DataFrame, base: dict[tuple[str, str], Any]) -> dict:
    """One measured model from its scores (one a measure) and those of the base."""
    first = scores.iloc[0]
    row = group | {k: first[k] for k in ["source", "run_id", "checkpoint", *MODEL_AXES, *COSTS]}
    row["created_at"] = scores.created_at.min()
    deltas: dict[str, Estimate] = {}
    for one in scores.to_dict("records"):
        name = str(one["measure"])
        row |= {name: one["value"], f"{name}_se": one["stderr"], f"{name}_n": _known(one["n"])}
        if one["has_items"]:
            row |= {f"{name}_path": one["path"], f"{name}_metric": one["metric"]}
        reference = base.get((one["source"], name))
        if reference is not None and first["method"] != "base":
            deltas[name] = _difference(one, reference)
    parts = names().retention
    if "retention" not in row and all(part in row for part in parts):
        average = mean_of([Estimate(row[p], _known(row[f"{p}_se"])) for p in parts])
        row |= {"retention": average.value, "retention_se": average.stderr}
        if all(part in deltas for part in parts):
            deltas["retention"] = mean_of([deltas[part] for part in parts])
    for name, delta in deltas.items():
        row |= {f"{name}_delta": delta.value, f"{name}_delta_se": delta.stderr}
    return row


def _difference(one: Any, reference: Any) -> Estimate:
    value = one["value"] - reference["value"]
    scores, others = (
        items(row["path"], row["metric"]) if row["has_items"] else None for row in (one, reference)
    )
    if scores is not None and others is not None and len(scores) == len(others) > 1:
        return Estimate(value, paired_difference(scores, others).stderr)
    errors = _known(one["stderr"]), _known(reference["stderr"])
    if errors[0] is None or errors[1] is None:
        return Estimate(value)
    return Estimate(value, float((errors[0] ** 2 + errors[1] ** 2) ** 0.5))


def _known(number: float) -> float | None:
    return None if pd.isna(number) else float(number)
