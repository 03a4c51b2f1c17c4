"""What claims are judged by: the records of one corpus, sorted into conditions and methods."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lvf.results.cells import chosen_rate
from lvf.results.comparisons import Matched
from lvf.results.contrasts import combined, contrast, evenly
from lvf.results.measured import GROUP
from lvf.results.statistics import Estimate

DOMAINS = ("code", "math")
"""Those of the paper's main grid, on which its claims are."""
ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
MLP = frozenset({"gate_proj", "up_proj", "down_proj"})
ALL_MAPS = ATTENTION | MLP
MODEL = ["run_id", "checkpoint"]
VARIANT = ["method_name", "rank", "alpha", "maps", "algorithm"]


@dataclass(frozen=True)
class Part:
    """One number that a claim stands or falls with; positive is as claimed."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    """Ends of the 95 % interval."""
    p_for: float | None
    """One-sided p of "not as claimed"; None where no error is known."""
    p_against: float | None
    """One-sided p of "not the opposite"."""
    records: tuple[str, ...]
    note: str = ""

    def text(self) -> str:
        """Name, value and interval in one line."""
        if self.value is None:
            return f"{self.name}: {self.note}"
        interval = "" if self.low is None else f" [{self.low:+.3f}, {self.high:+.3f}]"
        return f"{self.name} {self.value:+.3f}{interval}"


def part(name: str, found: Estimate | Matched, rows: pd.DataFrame) -> Part:
    """A part from an estimate; a bootstrap interval gives its p by the normal approximation."""
    if isinstance(found, Matched):
        interval: tuple[float, float] | None = (found.low, found.high)
        found = found.estimate()
    else:
        interval = found.interval()
    low, high = interval or (None, None)
    p_for = found.p_above()
    p_against = Estimate(-found.value, found.stderr, found.dof).p_above()
    return Part(name, found.value, low, high, p_for, p_against, _names(rows))


def resampled_part(name: str, value: float, draws: np.ndarray, rows: pd.DataFrame) -> Part:
    """A part from bootstrap draws: percentiles, and p from the shares on either side of zero."""
    low, high = (float(x) for x in np.percentile(draws, [2.5, 97.5]))
    p_for, p_against = (
        float(1 + np.sum(side)) / (1 + len(draws)) for side in (draws <= 0, draws >= 0)
    )
    return Part(name, value, low, high, p_for, p_against, _names(rows))


def unknown_part(name: str, rows: pd.DataFrame, reason: str) -> Part:
    """A part that records are there for, but cannot settle."""
    return Part(name, None, None, None, None, None, _names(rows), reason)


def _names(rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(f"{run}/{point}" for run, point in zip(rows.run_id, rows.checkpoint, strict=True))


@dataclass(frozen=True)
class Evidence:
    """The models of one source, scale and base model."""

    corpus: str
    models: pd.DataFrame
    """All of them."""
    finished: pd.DataFrame
    """The finished ones on the paper's domains; see `as_variants`."""
    tuned: pd.DataFrame
    """Of those, each variant at its chosen rate; see `at_chosen_rates`."""
    main: pd.DataFrame
    """Of those, the paper's main methods; see `main_methods`."""
    scores: pd.DataFrame
    """Rows as of `lvf.results.store.load`, for what is no measure of learning or forgetting."""

    def having(self, measures: tuple[str, ...]) -> Evidence:
        """The same, of its trained models only those that have these measures."""
        if not measures:
            return self
        finished, tuned, main = (
            rows.dropna(subset=list(measures)) for rows in (self.finished, self.tuned, self.main)
        )
        return replace(self, finished=finished, tuned=tuned, main=main)

    def scored(self, name: str, task: str, metric: str) -> Evidence:
        """The same with another score as the measure `name`, the newest record of each model."""

        def joined(rows: pd.DataFrame) -> pd.DataFrame:
            return with_score(rows, self.scores, name, task, metric)

        return replace(
            self, models=joined(self.models), finished=joined(self.finished),
            tuned=joined(self.tuned), main=joined(self.main),
        ).having((name,))  # fmt: skip

    def rows(self, domain: str, regime: str, label: str | None = None) -> pd.DataFrame:
        """Models of one condition (of all main methods, or of one)."""
        found = self.main[(self.main.domain == domain) & (self.main.regime == regime)]
        return found if label is None else found[found.label == label]

    def base(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The base models beside these rows."""
        bases = self.models[self.models.method == "base"]
        return bases[bases.dataset.isin(rows.dataset)]

    def conditions(self, regime: str | None = None) -> Iterator[tuple[str, str]]:
        """(domain, regime) of every condition that has models."""
        found = self.main[["domain", "regime"]].drop_duplicates()
        for domain, one in sorted(found.itertuples(index=False)):
            if regime in (None, one):
                yield domain, one

    def sides(self, domain: str, regime: str, label: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Full finetuning and one other method of a condition."""
        return self.rows(domain, regime, "full"), self.rows(domain, regime, label)

    def lora_labels(self, domain: str, regime: str) -> list[str]:
        """LoRA's labels by rising rank."""
        return [one for one in self.labels(domain, regime) if one != "full"]

    def labels(self, domain: str, regime: str) -> list[str]:
        """LoRA's labels by rising rank, then `full`."""
        rows = self.rows(domain, regime).sort_values("rank", na_position="last")
        return list(dict.fromkeys(rows.label))

    def estimate(
        self, name: str, measure: str, *terms: tuple[float, pd.DataFrame]
    ) -> Iterator[Part]:
        """The part "sum of factor times mean of rows"; nothing where a term is not measured."""
        if any(rows.empty for _, rows in terms):
            return
        weights = combined(*((factor, evenly(rows)) for factor, rows in terms))
        found = contrast(self.models, measure, weights)
        if found is not None:
            yield part(name, found, pd.concat([rows for _, rows in terms]))


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


def corpora(models: pd.DataFrame, scores: pd.DataFrame) -> Iterator[Evidence]:
    """The evidence of each source, scale and base model that has trained models."""
    sides = in_few_blocks(models).groupby(["source", "scale", "model"], sort=True)
    for (source, scale, model), rows in sides:
        if (rows.method != "base").any():
            ours = scale if scale == model else f"{scale} {model}"
            corpus = "published" if source == "paper" else str(ours)
            kept = (rows.method != "base") & rows.cooled_down & rows.domain.isin(DOMAINS)
            finished = as_variants(rows[kept])
            tuned = at_chosen_rates(finished)
            yield Evidence(corpus, rows, finished, tuned, main_methods(tuned), scores)


def in_few_blocks(models: pd.DataFrame) -> pd.DataFrame:
    """The same table with texts as objects, from which rows are chosen several times as fast."""
    texts = {name: "object" for name, kind in models.dtypes.items() if kind == "string"}
    return models.astype(texts).copy()


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
