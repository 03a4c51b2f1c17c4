"""Choosing among measured models: variants of methods, their best rates, common durations."""

import json
import math

import pandas as pd

from lvf.config.schema import stable_hash
from lvf.records.checkpoints import GROUP
from lvf.reporting.select.settings import chosen_rate
from lvf.reporting.stats.contrast import evenly

ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
MLP = frozenset({"gate_proj", "up_proj", "down_proj"})
ALL_MAPS = ATTENTION | MLP
MODEL = ["run_id", "checkpoint"]
VARIANT = ["method_name", "rank", "alpha", "maps", "algorithm"]


def common(*sides: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each side at the durations that all have."""
    shared = set.intersection(*(set(rows.duration) for rows in sides))
    return [rows[rows.duration.isin(shared)] for rows in sides]


def longest(*sides: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each side at the longest duration that all have."""
    kept = common(*sides)
    return [rows[rows.duration == rows.duration.max()] for rows in kept]


def best(rows: pd.DataFrame, measure: str = "target") -> pd.DataFrame:
    """The rows of the duration with the highest mean score."""
    rows = rows[rows[measure].notna()]
    if rows.empty:
        return rows
    return rows[rows.duration == rows.groupby("duration")[measure].mean().idxmax()]


def slope_weights(rows: pd.DataFrame) -> pd.Series:
    """Weights of the least-squares slope of the cells' scores over log2(duration)."""
    share = evenly(rows)
    doublings = rows.duration.map(math.log2)
    centred = doublings - (share * doublings).sum()
    return share * centred / (share * centred**2).sum()


def with_score(
    rows: pd.DataFrame, scores: pd.DataFrame, name: str, task: str, metric: str
) -> pd.DataFrame:
    """Models with another score as the measure `name`: the newest record of each, NaN for none."""
    columns = {"value": name, "stderr": f"{name}_se", "n": f"{name}_n", "path": f"{name}_path"}
    found = scores[(scores.task == task) & (scores.metric == metric)].sort_values("created_at")
    found = found.assign(path=found.path.where(found.has_items)).rename(columns=columns)
    found = found.drop_duplicates(MODEL, keep="last")[[*MODEL, *columns.values()]]
    if found.empty:
        rows = rows.iloc[:0]
    both = rows.merge(found, how="left", on=MODEL).set_index(rows.index)
    return both.assign(**{f"{name}_metric": metric})


def of_one_sampling(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of the task `diversity`, of the sampling with the most samples a problem.

    Of several such, the one that most models have; unequal numbers cannot be compared.
    """
    rows = scores[scores.task == "diversity"]
    settings = [json.loads(text) for text in rows.settings]
    told = pd.DataFrame({
        "sampling": [one.get("samples", "") for one in settings],
        "size": [one.get("samples_per_problem", 0) for one in settings],
        "run_id": list(rows.run_id),
    })  # fmt: skip
    if told.empty:
        return rows
    ranking = told.groupby("sampling").agg({"size": "max", "run_id": "nunique"})
    chosen = ranking.sort_values(["size", "run_id"]).index[-1]
    return rows[(told.sampling == chosen).to_numpy()]


def circumstances(rows: pd.DataFrame) -> pd.Series:
    """What each benchmark of speed ran under, its method and batch apart, as a hash."""
    own = {"global_batch_rows": None, "flops_basis": None}
    found = [stable_hash(json.loads(one) | own) for one in rows.settings]
    return pd.Series(found, rows.index, dtype="object")


def as_variants(rows: pd.DataFrame) -> pd.DataFrame:
    """Trained models with two more columns and another label, which tell methods apart.

    `maps` (all, attention, mlp or other), `algorithm` (the optimizer's class), and `label` as it is
    without regard to what else was run.
    """
    labels = [
        f"LoRA r={rank}" if name == f"lora_r{rank}" else name
        for name, rank in zip(rows.method_name, rows["rank"], strict=True)
    ]
    return rows.assign(
        label=pd.Series(labels, rows.index, dtype="object"),
        maps=pd.Series([_maps(one) for one in rows.targets], rows.index, dtype="object"),
        algorithm=rows.optimizer.str.split(".").str[-1].fillna("not said"),
    )


def at_chosen_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Each variant at the rate of its lowest validation loss, for each duration by itself.

    A variant with several rates and no such loss is left out.
    """
    kept = [rows.iloc[:0]]
    for _, one in rows.groupby([*GROUP, *VARIANT, "duration"], dropna=False, sort=False):
        rate = chosen_rate(one)
        if rate is not None:
            kept.append(one if math.isnan(rate) else one[one.lr_peak == rate])
    return pd.concat(kept)


def _maps(targets: str | None) -> str:
    """Which linear maps have adapters; the paper's own records do not say, they have all."""
    found = ALL_MAPS if pd.isna(targets) else frozenset(str(targets).split(","))
    return {ALL_MAPS: "all", ATTENTION: "attention", MLP: "mlp"}.get(found, "other")


def usual(rows: pd.DataFrame) -> pd.DataFrame:
    """The models by the optimizer that most have."""
    return rows if rows.empty else rows[rows.algorithm == rows.algorithm.mode()[0]]


def main_methods(tuned: pd.DataFrame) -> pd.DataFrame:
    """Full finetuning, and LoRA with alpha = 2r on all linear maps, by the usual optimizer."""
    tuned = usual(tuned)
    lora = tuned.label.str.startswith("LoRA") & (tuned.alpha == 2 * tuned["rank"])
    return tuned[(tuned.label == "full") | (lora & (tuned.maps == "all"))]
