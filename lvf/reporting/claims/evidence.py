"""What claims are judged by: the records of one evidence set, by condition and method."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pandas as pd

from lvf.records.estimate import Estimate
from lvf.reporting.select.compare import slope_weights, with_score
from lvf.reporting.select.scope import is_generated
from lvf.reporting.select.selection import evidence_set_name, main_methods
from lvf.reporting.stats.contrast import Contrast, combined, evenly, linear

DOMAINS = ("code", "math")
"""Those of the paper's main grid, on which its claims are."""
EVERY, HIGHEST, MIDDLE = slice(None), slice(-1, None), slice(1, -1)
"""Which of LoRA's ranks."""
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
    records: tuple[str, ...]
    seeds: int
    """Fewest runs of a compared setting that differ in their seed alone."""
    note: str = ""

    @property
    def estimate(self) -> Estimate | None:
        """The number with its error."""
        return None if self.contrast is None else self.contrast.estimate

    @property
    def strength(self) -> float:
        """The number in standard errors, or as it is without any; 0 where there is none."""
        if self.estimate is None:
            return 0.0
        return self.estimate.value / (self.estimate.stderr or 1.0)

    def text(self) -> str:
        """Name, value and 95 % interval in one line."""
        if self.estimate is None:
            return f"{self.name}: {self.note}"
        ends = self.estimate.interval()
        interval = "" if ends is None else f" [{ends[0]:+.3f}, {ends[1]:+.3f}]"
        return f"{self.name} {self.estimate.value:+.3f}{interval}"


def compared(name: str, outcome: Contrast | str, rows: pd.DataFrame, part: str = "") -> Comparison:
    """A comparison of some rows: a contrast of them, or why they cannot settle it."""
    return Comparison(
        name=name, condition=", ".join(sorted(set(rows.domain + " " + rows.regime))), part=part,
        contrast=None if isinstance(outcome, str) else outcome,
        note=outcome if isinstance(outcome, str) else "",
        records=tuple(rows.run_id + "/" + rows.checkpoint),
        seeds=int(rows.setting[rows.method != "base"].value_counts().min()),
    )  # fmt: skip


class Pair(NamedTuple):
    """Full finetuning and LoRA of one rank in one condition."""

    domain: str
    regime: str
    rank: int
    full: pd.DataFrame
    lora: pd.DataFrame

    @property
    def condition(self) -> str:
        """Domain and regime."""
        return f"{self.domain} {self.regime}"

    @property
    def name(self) -> str:
        """Condition and rank."""
        return f"{self.condition}, LoRA r={self.rank}"


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
    altered: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Checkpoints altered after training, as of `lvf.reporting.select.altered`."""

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

    def with_altered(self) -> Evidence:
        """The same, of which numbers can be made of altered checkpoints, too."""
        return replace(self, models=pd.concat([self.models, self.altered]))

    def scored(self, name: str, task: str, metric: str) -> Evidence:
        """The same with another score as the measure `name`, the newest record of each model."""
        models, finished = (
            with_score(rows, self.scores, name, task, metric)
            for rows in (self.models, self.finished)
        )
        return replace(self, models=models, finished=finished).having((name,))

    def methods(self, domain: str, regime: str) -> dict[int, pd.DataFrame]:
        """Models of each main method in one condition by rank, rising; 0 is full, the last."""
        rows = self.main[(self.main.domain == domain) & (self.main.regime == regime)]
        ranks = sorted(rows["rank"].dropna().unique())
        by_rank = {int(rank): rows[rows["rank"] == rank] for rank in ranks}
        full = rows[rows.method == "full"]
        return by_rank | {0: full} if len(full) else by_rank

    def full(self, domain: str, regime: str) -> pd.DataFrame:
        """Full finetuning in one condition."""
        return self.methods(domain, regime).get(0, self.main.iloc[:0])

    def pairs(
        self, regime: str | None = None, domain: str | None = None, ranks: slice = EVERY
    ) -> Iterator[Pair]:
        """Full finetuning with LoRA of each rank, in every condition of a regime and domain."""
        for its_domain, its_regime in self.conditions(regime):
            if domain in (None, its_domain):
                lora = self.methods(its_domain, its_regime)
                full = lora.pop(0, self.main.iloc[:0])
                for rank, rows in list(lora.items())[ranks]:
                    yield Pair(its_domain, its_regime, rank, full, rows)

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
        self, name: str, measure: str, *terms: tuple[float, pd.DataFrame], part: str = "",
        constant: float = 0.0,
    ) -> Iterator[Comparison]:  # fmt: skip
        """The comparison "constant plus the sum of factor times mean of rows".

        Nothing where a term has no rows, or a row lacks the measure.
        """
        sides = [rows for _, rows in terms]
        if all(map(len, sides)):
            weights = combined(*((factor, evenly(rows)) for factor, rows in terms))
            result = linear(self.models, measure, weights)
            if result is not None:
                result = replace(result, value=result.value + constant)
                yield compared(name, _ceiling(measure, sides) or result, pd.concat(sides), part)

    def slope(
        self, name: str, measure: str, *terms: tuple[float, pd.DataFrame]
    ) -> Iterator[Comparison]:
        """The comparison "sum of factor times slope over log2(duration)".

        Nothing where a term has rows of a single duration, or a row lacks the measure.
        """
        if all(rows.duration.nunique() > 1 for _, rows in terms):
            weights = combined(*((factor, slope_weights(rows)) for factor, rows in terms))
            result = linear(self.models, measure, weights)
            if result is not None:
                yield compared(name, result, pd.concat([rows for _, rows in terms]))


def _ceiling(measure: str, sides: list[pd.DataFrame]) -> str:
    """Why accuracies at their ceiling are not compared; empty where they are not there."""
    if measure not in ("target", "retention") and not measure.startswith("pass@"):
        return ""
    means = [rows[measure].mean() for rows in sides if (rows.method != "base").any()]
    if min(means) < CEILING:
        return ""
    return f"ceiling: all means are above {CEILING:g} ({', '.join(f'{x:.3f}' for x in means)})"


def evidence_sets(
    models: pd.DataFrame, scores: pd.DataFrame, altered: pd.DataFrame | None = None
) -> Iterator[Evidence]:
    """The evidence of each source, scale and base model that has trained models or benchmarks."""
    altered = pd.DataFrame() if altered is None else altered
    axes = ["source", "scale", "model"]
    known = pd.concat([models[models.method != "base"], scores[scores.task == "throughput"]])
    for key in sorted(set(known[axes].itertuples(index=False, name=None))):
        rows, its_scores, its_altered = (
            frame[(frame[axes] == list(key)).all(axis=1)] if len(frame) else frame
            for frame in (models, scores, altered)
        )
        is_finished = (rows.method != "base") & rows.cooled_down & rows.domain.isin(DOMAINS)
        yield Evidence(evidence_set_name(*key), rows, rows[is_finished], its_scores, its_altered)
