"""The paper's tables from records: its numbers, the measured numbers, and the difference."""

import math
from dataclasses import dataclass

import pandas as pd

from lvf.planning.memory import TABLES as MEMORY_TABLES
from lvf.planning.memory import table_rows
from lvf.reporting.select.compare import with_score
from lvf.reporting.select.variant import Variant
from lvf.reporting.stats.contrast import combined, evenly, linear

KINDS = ("paper", "measured", "difference")


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
    PaperTable("S2", "code CPT, retention", "code", "cpt", "retention"),
    PaperTable("S3", "maths CPT, GSM8K strict match", "math", "cpt", "target"),
    PaperTable("S4", "maths CPT, retention", "math", "cpt", "retention"),
    PaperTable("S5", "code IFT, HumanEval pass@1", "code", "ift", "target"),
    PaperTable("S6", "code IFT, retention", "code", "ift", "retention"),
    PaperTable("S7", "maths IFT, GSM8K strict match", "math", "ift", "target"),
    PaperTable("S8", "maths IFT, retention", "math", "ift", "retention"),
    PaperTable("S10", "Tülu-v2-mix, MT-bench", "chat", "ift", "mt_bench", ("mt_bench", "score")),
    PaperTable("S11", "Tülu-v2-mix, MMLU", "chat", "ift", "mmlu", ("mmlu", "acc")),
    PaperTable("S12", "Tülu-v2-mix, GSM8K strict match", "chat", "ift", "gsm8k", GSM8K),
    PaperTable("S13", "Tülu-v2-mix, retention", "chat", "ift", "retention"),
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
    """One row per (evidence set, method, duration), in the paper's order.

    Columns: `table`, `evidence_set` (scale and model), `method`, `duration`, `unit`, `seeds`, for
    each of paper, measured and difference (measured minus paper): the value, `_low` and `_high`,
    the ends of its 95 % interval; and `models`, the index labels of those that took part. The
    difference is there for the same base model and data set. Measured is the mean over seeds of the
    main methods at their chosen learning rates. Tülu's models are measured before their end, as the
    paper's.

    Args:
        spec: the table.
        models: `Selection.models` of `lvf.reporting.select.selection.select`.
        scores: rows of `lvf.records.store.load`.
    """
    is_hot = spec.domain == "chat"  # App. C: one run, measured before its end
    rows = models[
        (models.domain == spec.domain) & (models.regime == spec.regime) & models.is_chosen
        & (models.role == "main") & (models.cooled_down | is_hot)
    ]  # fmt: skip
    if spec.score is not None:
        models = with_score(models, scores, spec.measure, *spec.score)
        rows = models.loc[models.index.intersection(rows.index)]
    rows = rows[rows[spec.measure].notna()]
    cells = []
    setting = ["scale", "model", "dataset", "method", "rank", "duration"]
    for (scale, model, *_, duration), same in rows.groupby(setting, dropna=False):
        first = next(same.itertuples())
        cells.append({
            "table": spec.number, "evidence_set": scale if scale == model else f"{scale} {model}",
            "method": Variant.of_columns(first).name,
            "duration": duration, "unit": first.duration_unit,
            "models": list(same.index), "order": first.rank,
            **_numbers(models, same, spec.measure),
        })  # fmt: skip
    columns = ["table", "evidence_set", "method", "duration", "unit", "seeds"]
    numbers = [kind + end for kind in KINDS for end in ("", "_low", "_high")]
    frame = pd.DataFrame(cells, columns=pd.Index([*columns, *numbers, "models", "order"]))
    order = ["evidence_set", "order", "duration"]
    return frame.sort_values(order, ignore_index=True).drop(columns="order")


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
    """Table 1: the paper's data sets and tokens, and those trained on (one epoch, or the most)."""
    rows = models[(models.source != "paper") & models.tokens.notna()]
    tokens = rows.tokens.where(rows.regime == "cpt", rows.tokens / rows.duration)
    keys = ["domain", "regime", "scale", "dataset"]
    largest = rows.assign(tokens=tokens).groupby(keys, as_index=False).tokens.max()
    return DATASETS.merge(largest, how="left", on=["domain", "regime"])


def _numbers(models: pd.DataFrame, rows: pd.DataFrame, measure: str) -> dict[str, float]:
    """Value and interval of the paper's number, of the measured, and of the difference.

    No interval where no seed variance is known; the paper's single runs take the measured one.
    """
    paper, measured = (rows[(rows.source == "paper") == which] for which in (True, False))
    sides = {"paper": ((1.0, paper),), "measured": ((1.0, measured),),
             "difference": ((1.0, measured), (-1.0, paper))}  # fmt: skip
    row: dict[str, float] = {"seeds": len(measured)}
    for kind, terms in sides.items():
        if all(len(side) for _, side in terms):
            weights = combined(*((sign, evenly(side)) for sign, side in terms))
            contrast = linear(models, measure, weights)
            if contrast is not None:
                low, high = contrast.estimate.interval() or (math.nan, math.nan)
                row |= {kind: contrast.value, f"{kind}_low": low, f"{kind}_high": high}
    return row
