"""The paper's tables from records: its numbers, ours beside them, and the difference."""

import math
from dataclasses import dataclass

import pandas as pd

from lvf.planning.memory import TABLES as MEMORY_TABLES
from lvf.planning.memory import table_rows
from lvf.records.estimate import Estimate
from lvf.reporting.select.variants import (
    as_variants,
    at_chosen_rates,
    main_methods,
    with_score,
)
from lvf.reporting.stats.contrast import combined, contrast, evenly

CELL_OF_TABLE = ["scale", "model", "dataset", "label", "duration"]
KINDS = ("paper", "ours", "difference")


@dataclass(frozen=True)
class PaperTable:
    """Where a table of the paper's appendix D finds its numbers among records."""

    number: str
    title: str
    domain: str
    regime: str
    measure: str
    """Of `lvf.records.checkpoints.measures`, or a name for `score`."""
    score: tuple[str, str] | None = None
    """Task and metric, where the number is no measure."""


GSM8K = ("gsm8k", "exact_match,strict-match")
TABLES = (
    PaperTable("S1", "code CPT, HumanEval pass@1", "code", "cpt", "target"),
    PaperTable("S2", "code CPT, forgetting average", "code", "cpt", "forgetting"),
    PaperTable("S3", "maths CPT, GSM8K strict match", "math", "cpt", "target"),
    PaperTable("S4", "maths CPT, forgetting average", "math", "cpt", "forgetting"),
    PaperTable("S5", "code IFT, HumanEval pass@1", "code", "ift", "target"),
    PaperTable("S6", "code IFT, forgetting average", "code", "ift", "forgetting"),
    PaperTable("S7", "maths IFT, GSM8K strict match", "math", "ift", "target"),
    PaperTable("S8", "maths IFT, forgetting average", "math", "ift", "forgetting"),
    PaperTable("S10", "Tülu-v2-mix, MT-bench", "chat", "ift", "mt_bench", ("mt_bench", "score")),
    PaperTable("S11", "Tülu-v2-mix, MMLU", "chat", "ift", "mmlu", ("mmlu", "acc")),
    PaperTable("S12", "Tülu-v2-mix, GSM8K strict match", "chat", "ift", "gsm8k", GSM8K),
    PaperTable("S13", "Tülu-v2-mix, forgetting average", "chat", "ift", "forgetting"),
)
DATASETS = pd.DataFrame(
    [
        ("code", "cpt", "StarCoder-Python", 20e9),
        ("math", "cpt", "OpenWebMath", 14.7e9),
        ("code", "ift", "Magicoder-Evol-Instruct-110K", 72.97e6),
        ("math", "ift", "MetaMathQA", 103e6),
    ],
    columns=pd.Index(["domain", "regime", "paper_dataset", "paper_tokens"]),
)
"""Table 1: data sets and their tokens; of StarCoder-Python, those that are trained on."""


def paper_table(spec: PaperTable, models: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """One row per (corpus, method, duration), in the paper's order.

    Columns: `table`, `corpus` (scale and model), `method`, `duration`, `unit`, `seeds`, for each of
    paper, ours and difference (ours minus paper): the value, `_low` and `_high`, the ends of its
    95 % interval; and `models`, the index labels of those that took part. The difference is there
    for the same base model and data set. Ours is the mean over seeds at the rate of the lowest
    validation loss. Tülu's rows are measured hot, as the paper's.
    """
    rows = models[(models.domain == spec.domain) & (models.regime == spec.regime)]
    hot = spec.domain == "chat"  # App. C: one run, measured before its end
    rows = rows[(rows.method != "base") & (rows.cooled_down | hot)]
    if spec.score is not None:
        rows = with_score(rows, scores, spec.measure, *spec.score)
    tuned = at_chosen_rates(as_variants(rows[rows[spec.measure].notna()]))
    sides = [main_methods(side) for _, side in tuned.groupby(["source", "scale", "model"])]
    rows = pd.concat([tuned.iloc[:0], *sides])
    found = []
    for (scale, model, _, label, duration), one in rows.groupby(CELL_OF_TABLE):
        corpus = str(scale) if scale == model else f"{scale} {model}"
        row = {"table": spec.number, "corpus": corpus, "method": label, "duration": duration}
        row |= {"unit": one.duration_unit.iloc[0], "order": one["rank"].iloc[0]}
        row |= {"models": list(one.index)}
        found.append(row | _numbers(one, spec.measure))
    columns = ["table", "corpus", "method", "duration", "unit", "seeds"]
    numbers = [kind + end for kind in KINDS for end in ("", "_low", "_high")]
    frame = pd.DataFrame(found, columns=pd.Index([*columns, *numbers, "models", "order"]))
    return frame.sort_values(["corpus", "order", "duration"], ignore_index=True).drop(
        columns="order"
    )


def memory_table(name: str) -> pd.DataFrame:
    """Table S14, S15 or S16: GB a GPU by the paper's formulas (App. H); no measurements."""
    _, num_gpus = MEMORY_TABLES[name]
    rows = [
        (name.removeprefix("Table "), condition, gpus, gigabytes)
        for condition, cells in table_rows(name)
        for gpus, gigabytes in zip(num_gpus, cells, strict=True)
    ]
    return pd.DataFrame(rows, columns=pd.Index(["table", "condition", "num_gpus", "gigabytes"]))


def dataset_table(models: pd.DataFrame) -> pd.DataFrame:
    """Table 1: the paper's data sets and tokens, and ours (one epoch, or the longest budget)."""
    ours = models[(models.source != "paper") & models.tokens.notna()]
    tokens = ours.tokens.where(ours.regime == "cpt", ours.tokens / ours.duration)
    keys = ["domain", "regime", "scale", "dataset"]
    found = ours.assign(tokens=tokens).groupby(keys, as_index=False).tokens.max()
    return DATASETS.merge(found, how="left", on=["domain", "regime"])


def _numbers(rows: pd.DataFrame, measure: str) -> dict[str, float]:
    """Value and interval of the paper's number, of ours, and of the difference."""
    paper, ours = (rows[(rows.source == "paper") == which] for which in (True, False))
    sides = {"paper": ((1.0, paper),), "ours": ((1.0, ours),),
             "difference": ((1.0, ours), (-1.0, paper))}  # fmt: skip
    row: dict[str, float] = {"seeds": len(ours)}
    for kind, terms in sides.items():
        if all(len(one) for _, one in terms):
            weights = combined(*((sign, evenly(one)) for sign, one in terms))
            row |= _with_interval(kind, contrast(rows, measure, weights))
    return row


def _with_interval(name: str, found: Estimate | None) -> dict[str, float]:
    if found is None:
        return {}
    low, high = found.interval() or (math.nan, math.nan)
    return {name: found.value, f"{name}_low": low, f"{name}_high": high}
