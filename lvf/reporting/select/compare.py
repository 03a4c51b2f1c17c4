"""Rows to compare: common durations, other scores as measures, benchmarks under like conditions."""

import json
import math

import pandas as pd

from lvf.config.schema import stable_hash
from lvf.reporting.select.variant import with_variants
from lvf.reporting.stats.contrast import evenly

MODEL = ["source", "run_id", "checkpoint"]


def common(*sides: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each side at the durations that all have."""
    shared = set.intersection(*(set(rows.duration) for rows in sides))
    return [rows[rows.duration.isin(shared)] for rows in sides]


def longest(*sides: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each side at the longest duration that all have."""
    kept = common(*sides)
    return [rows[rows.duration == rows.duration.max()] for rows in kept]


def best(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the duration with the highest mean target score."""
    rows = rows[rows.target.notna()]
    if rows.empty:
        return rows
    return rows[rows.duration == rows.groupby("duration").target.mean().idxmax()]


def slope_weights(rows: pd.DataFrame) -> pd.Series:
    """Weights of the least-squares slope of the settings' scores over log2(duration)."""
    share = evenly(rows)
    doublings = rows.duration.map(math.log2)
    centred = doublings - (share * doublings).sum()
    return share * centred / (share * centred**2).sum()


def with_score(
    rows: pd.DataFrame, scores: pd.DataFrame, name: str, task: str, metric: str
) -> pd.DataFrame:
    """Models with another score as the measure `name`: the newest record of each, NaN for none."""
    columns = {"value": name, "stderr": f"{name}_se", "n": f"{name}_n", "path": f"{name}_path"}
    known = scores[(scores.task == task) & (scores.metric == metric)].sort_values("created_at")
    known = known.assign(path=known.path.where(known.has_items)).rename(columns=columns)
    known = known.drop_duplicates(MODEL, keep="last")[[*MODEL, *columns.values()]]
    if known.empty:
        rows = rows.iloc[:0]
    replaced = rows.drop(columns=[column for column in columns.values() if column in rows])
    both = replaced.merge(known, how="left", on=MODEL).set_index(rows.index)
    return both.assign(**{f"{name}_metric": metric})


def of_drawn_models(scores: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """Scores with the columns of `with_variants`, of models at their variant's chosen rate.

    Scores of models that have no measure, and so no choice of rate, are kept.

    Args:
        scores: rows of `lvf.records.store.load`.
        models: `lvf.reporting.select.selection.Selection.models` of these scores.
    """
    others = pd.MultiIndex.from_frame(models.loc[~models.is_drawn, MODEL])
    is_other = pd.MultiIndex.from_frame(scores[MODEL]).isin(others)
    return with_variants(scores)[~is_other]


def of_one_sampling(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of the task `diversity`, of the sampling with the most samples a problem.

    Of several such, the sampling that most models have; unequal numbers cannot be compared.
    """
    rows = scores[scores.task == "diversity"]
    settings = [json.loads(text) for text in rows.settings]
    samplings = pd.DataFrame({
        "sampling": [tree.get("samples", "") for tree in settings],
        "size": [tree.get("samples_per_problem", 0) for tree in settings],
        "run_id": list(rows.run_id),
    })  # fmt: skip
    if samplings.empty:
        return rows
    ranking = samplings.groupby("sampling").agg({"size": "max", "run_id": "nunique"})
    chosen = ranking.sort_values(["size", "run_id"]).index[-1]
    return rows[(samplings.sampling == chosen).to_numpy()]


def circumstances(rows: pd.DataFrame) -> pd.Series:
    """What each benchmark of speed ran under, its method and batch apart, as a hash."""
    own = {"global_batch_size": None, "flops_basis": None}
    hashes = [stable_hash(json.loads(text) | own) for text in rows.settings]
    return pd.Series(hashes, rows.index, dtype="object")
