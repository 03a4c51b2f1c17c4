"""What claims are judged by: the records of one evidence set, by condition and method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lvf.records.estimate import Estimate
from lvf.reporting.select.compare import with_score
from lvf.reporting.select.selection import evidence_set_name, main_methods
from lvf.reporting.stats.contrast import combined, contrast, evenly
from lvf.reporting.stats.matched import Matched

DOMAINS = ("code", "math")
"""Those of the paper's main grid, on which its claims are."""


@dataclass(frozen=True)
class Comparison:
    """A number that must be positive for a claim to hold."""

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
    seeds: int = 1
    """Most runs that differ in their seed alone; with a single run, the noise is that of items."""

    def text(self) -> str:
        """Name, value and interval in one line."""
        if self.value is None:
            return f"{self.name}: {self.note}"
        interval = "" if self.low is None else f" [{self.low:+.3f}, {self.high:+.3f}]"
        return f"{self.name} {self.value:+.3f}{interval}"


def comparison(name: str, result: Estimate | Matched, rows: pd.DataFrame) -> Comparison:
    """From an estimate; a bootstrap interval gives its p by the normal approximation."""
    if isinstance(result, Matched):
        interval: tuple[float, float] | None = (result.low, result.high)
        result = result.estimate()
    else:
        interval = result.interval()
    low, high = interval or (None, None)
    p_for = result.p_above()
    p_against = Estimate(-result.value, result.stderr, result.dof).p_above()
    records, seeds = _names(rows), _seeds(rows)
    return Comparison(name, result.value, low, high, p_for, p_against, records, seeds=seeds)


def resampled_comparison(
    name: str, value: float, draws: np.ndarray, rows: pd.DataFrame
) -> Comparison:
    """From bootstrap draws: percentiles, and p from the shares on either side of zero."""
    low, high = (float(x) for x in np.percentile(draws, [2.5, 97.5]))
    p_for, p_against = (
        float(1 + np.sum(side)) / (1 + len(draws)) for side in (draws <= 0, draws >= 0)
    )
    records, seeds = _names(rows), _seeds(rows)
    return Comparison(name, value, low, high, p_for, p_against, records, seeds=seeds)


def unknown_comparison(name: str, rows: pd.DataFrame, reason: str) -> Comparison:
    """A comparison that has records, which cannot settle it."""
    return Comparison(name, None, None, None, None, None, _names(rows), reason)


def _seeds(rows: pd.DataFrame) -> int:
    return int(rows.setting[rows.method != "base"].value_counts().max())


def _names(rows: pd.DataFrame) -> tuple[str, ...]:
    return tuple(f"{run}/{point}" for run, point in zip(rows.run_id, rows.checkpoint, strict=True))


@dataclass(frozen=True)
class Evidence:
    """The models of one source, scale and base model."""

    evidence_set: str
    models: pd.DataFrame
    """All of them, marked by `lvf.reporting.select.selection.select`."""
    finished: pd.DataFrame
    """The trained ones on the paper's domains that are cooled down, at all learning rates."""
    scores: pd.DataFrame
    """Rows of this set as of `lvf.records.store.load`, for what is no measure of learning or
    retention."""

    @property
    def chosen(self) -> pd.DataFrame:
        """The finished models at their variants' chosen learning rates."""
        return self.finished[self.finished.is_chosen]

    @property
    def main(self) -> pd.DataFrame:
        """Of those, the main methods."""
        return main_methods(self.chosen)

    def having(self, measures: tuple[str, ...]) -> Evidence:
        """The same, of its finished models only those that have these measures."""
        return replace(self, finished=self.finished.dropna(subset=list(measures)))

    def scored(self, name: str, task: str, metric: str) -> Evidence:
        """The same with another score as the measure `name`, the newest record of each model."""
        models, finished = (
            with_score(rows, self.scores, name, task, metric)
            for rows in (self.models, self.finished)
        )
        return replace(self, models=models, finished=finished).having((name,))

    def rows(self, domain: str, regime: str) -> pd.DataFrame:
        """Models of all main methods in one condition."""
        return self.main[(self.main.domain == domain) & (self.main.regime == regime)]

    def full(self, domain: str, regime: str) -> pd.DataFrame:
        """Full finetuning in one condition."""
        rows = self.rows(domain, regime)
        return rows[rows.method == "full"]

    def lora(self, domain: str, regime: str, rank: int) -> pd.DataFrame:
        """LoRA of one rank in one condition."""
        rows = self.rows(domain, regime)
        return rows[rows["rank"] == rank]

    def sides(self, domain: str, regime: str, rank: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Full finetuning, and LoRA of one rank, in one condition."""
        return self.full(domain, regime), self.lora(domain, regime, rank)

    def ranks(self, domain: str, regime: str) -> list[int]:
        """LoRA's ranks in one condition, rising."""
        return sorted(int(rank) for rank in self.rows(domain, regime)["rank"].dropna().unique())

    def methods(self, domain: str, regime: str) -> list[pd.DataFrame]:
        """The models of each main method in one condition."""
        rows = self.rows(domain, regime)
        return [method for _, method in rows.groupby("rank", dropna=False)]

    def base(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The base models beside these rows."""
        bases = self.models[self.models.method == "base"]
        return bases[bases.dataset.isin(rows.dataset)]

    def conditions(self, regime: str | None = None) -> Iterator[tuple[str, str]]:
        """(domain, regime) of every condition that has models."""
        conditions = self.main[["domain", "regime"]].drop_duplicates()
        for domain, its_regime in sorted(conditions.itertuples(index=False)):
            if regime in (None, its_regime):
                yield domain, its_regime

    def estimate(
        self, name: str, measure: str, *terms: tuple[float, pd.DataFrame]
    ) -> Iterator[Comparison]:
        """The comparison "sum of factor times mean of rows"; nothing where a term is missing."""
        if any(rows.empty for _, rows in terms):
            return
        weights = combined(*((factor, evenly(rows)) for factor, rows in terms))
        result = contrast(self.models, measure, weights)
        if result is not None:
            yield comparison(name, result, pd.concat([rows for _, rows in terms]))


def evidence_sets(models: pd.DataFrame, scores: pd.DataFrame) -> Iterator[Evidence]:
    """The evidence of each source, scale and base model that has trained models or benchmarks."""
    axes = ["source", "scale", "model"]
    known = pd.concat([models[models.method != "base"], scores[scores.task == "throughput"]])
    for key in sorted(set(known[axes].itertuples(index=False, name=None))):
        rows, its_scores = (
            frame[(frame[axes] == list(key)).all(axis=1)] for frame in (models, scores)
        )
        is_finished = (rows.method != "base") & rows.cooled_down & rows.domain.isin(DOMAINS)
        yield Evidence(evidence_set_name(*key), rows, rows[is_finished], its_scores)
