"""What claims are judged by: the records of one evidence set, by condition and method."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from lvf.records.estimate import Estimate
from lvf.reporting.select.compare import with_score
from lvf.reporting.select.scope import is_generated
from lvf.reporting.select.selection import evidence_set_name, main_methods
from lvf.reporting.stats.contrast import Contrast, combined, evenly, linear

DOMAINS = ("code", "math")
"""Those of the paper's main grid, on which its claims are."""
CEILING = 0.95
"""Accuracy above which methods are not compared: there is too little left to differ in."""


@dataclass(frozen=True)
class Comparison:
    """A number that is positive where the claim holds."""

    name: str
    condition: str
    """Domain and regime, or several of them: the conditions between which a claim may differ."""
    part: str
    """A claim of several parts holds where each of them does."""
    contrast: Contrast | None
    """None where the records cannot give the number; `note` says why."""
    estimate: Estimate | None
    records: tuple[str, ...]
    seeds: int
    """Fewest runs of a compared setting that differ in their seed alone."""
    note: str = ""

    def text(self) -> str:
        """Name, value and 95 % interval in one line."""
        if self.estimate is None:
            return f"{self.name}: {self.note}"
        ends = self.estimate.interval()
        interval = "" if ends is None else f" [{ends[0]:+.3f}, {ends[1]:+.3f}]"
        return f"{self.name} {self.estimate.value:+.3f}{interval}"


def compared(name: str, contrast: Contrast, rows: pd.DataFrame, part: str = "") -> Comparison:
    """A comparison of some rows by a contrast of them."""
    condition = _condition(rows)
    estimate = contrast.estimate
    return Comparison(name, condition, part, contrast, estimate, _names(rows), _seeds(rows))


def not_compared(name: str, rows: pd.DataFrame, reason: str, part: str = "") -> Comparison:
    """A comparison that has records, which cannot settle it."""
    return Comparison(
        name, _condition(rows), part, None, None, _names(rows), _seeds(rows), note=reason
    )


def _condition(rows: pd.DataFrame) -> str:
    return ", ".join(sorted(set(rows.domain + " " + rows.regime)))


def _seeds(rows: pd.DataFrame) -> int:
    return int(rows.setting[rows.method != "base"].value_counts().min())


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
    def is_published(self) -> bool:
        """Whether these are the paper's numbers, of single runs."""
        return self.evidence_set == "published"

    @property
    def is_generated(self) -> bool:
        """Whether all trained models are of generated data."""
        return is_generated(self.scores)

    @functools.cached_property
    def chosen(self) -> pd.DataFrame:
        """The finished models at their variants' chosen learning rates."""
        return self.finished[self.finished.is_chosen]

    @functools.cached_property
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
        self, name: str, measure: str, *terms: tuple[float, pd.DataFrame], part: str = ""
    ) -> Iterator[Comparison]:
        """The comparison "sum of factor times mean of rows"; nothing where a term is missing."""
        if any(rows.empty for _, rows in terms):
            return
        weights = combined(*((factor, evenly(rows)) for factor, rows in terms))
        result = linear(self.models, measure, weights)
        every = pd.concat([rows for _, rows in terms])
        if result is not None:
            ceiling = _ceiling(measure, [rows for _, rows in terms])
            if ceiling:
                yield not_compared(name, every, ceiling, part)
            else:
                yield compared(name, result, every, part)


def _ceiling(measure: str, sides: list[pd.DataFrame]) -> str:
    """Why accuracies at their ceiling are not compared; empty where they are not there."""
    if measure not in ("target", "retention") and not measure.startswith("pass@"):
        return ""
    means = [rows[measure].mean() for rows in sides if (rows.method != "base").any()]
    if min(means) < CEILING:
        return ""
    return f"ceiling: all means are above {CEILING:g} ({', '.join(f'{x:.3f}' for x in means)})"


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
