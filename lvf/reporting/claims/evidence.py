"""What claims are judged by: the records of one corpus, sorted into conditions and methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lvf.records.estimate import Estimate
from lvf.reporting.select.variants import (
    as_variants,
    at_chosen_rates,
    main_methods,
    with_score,
)
from lvf.reporting.stats.contrast import combined, contrast, evenly
from lvf.reporting.stats.matched import Matched

DOMAINS = ("code", "math")
"""Those of the paper's main grid, on which its claims are."""


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
    seeds: int = 1
    """Most runs that differ in their seed alone; with one, the noise is that of items."""

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
    return Part(name, found.value, low, high, p_for, p_against, _names(rows), seeds=_seeds(rows))


def resampled_part(name: str, value: float, draws: np.ndarray, rows: pd.DataFrame) -> Part:
    """A part from bootstrap draws: percentiles, and p from the shares on either side of zero."""
    low, high = (float(x) for x in np.percentile(draws, [2.5, 97.5]))
    p_for, p_against = (
        float(1 + np.sum(side)) / (1 + len(draws)) for side in (draws <= 0, draws >= 0)
    )
    return Part(name, value, low, high, p_for, p_against, _names(rows), seeds=_seeds(rows))


def unknown_part(name: str, rows: pd.DataFrame, reason: str) -> Part:
    """A part that records are there for, but cannot settle."""
    return Part(name, None, None, None, None, None, _names(rows), reason)


def _seeds(rows: pd.DataFrame) -> int:
    return int(rows.cell[rows.method != "base"].value_counts().max())


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
    """Rows of this corpus as of `lvf.records.store.load`, for what is no measure of learning or
    forgetting."""

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


def corpora(models: pd.DataFrame, scores: pd.DataFrame) -> Iterator[Evidence]:
    """The evidence of each source, scale and base model that has trained models or benchmarks."""
    axes = ["source", "scale", "model"]
    told = pd.concat([models[models.method != "base"], scores[scores.task == "throughput"]])
    for source, scale, model in sorted(set(told[axes].itertuples(index=False, name=None))):
        rows, theirs = (
            one[(one.source == source) & (one.scale == scale) & (one.model == model)]
            for one in (models, scores)
        )
        ours = scale if scale == model else f"{scale} {model}"
        corpus = "published" if source == "paper" else str(ours)
        kept = (rows.method != "base") & rows.cooled_down & rows.domain.isin(DOMAINS)
        finished = as_variants(rows[kept])
        tuned = at_chosen_rates(finished)
        yield Evidence(corpus, rows, finished, tuned, main_methods(tuned), theirs)
