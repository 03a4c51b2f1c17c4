"""What claims are judged by: the records of one corpus, sorted into conditions and methods."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from lvf.results.cells import chosen_rate
from lvf.results.comparisons import Matched
from lvf.results.contrasts import combined, contrast, evenly
from lvf.results.measured import GROUP, names
from lvf.results.statistics import Estimate

NORMAL_QUANTILE = 1.959964
ALL_TARGETS = 7
"""Linear maps of a Llama block."""


@dataclass(frozen=True)
class Part:
    """One number that a claim stands or falls with; positive is as claimed."""

    name: str
    value: float
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
        interval = "" if self.low is None else f" [{self.low:+.3f}, {self.high:+.3f}]"
        return f"{self.name} {self.value:+.3f}{interval}"


def part(name: str, found: Estimate | Matched, rows: pd.DataFrame, note: str = "") -> Part:
    """A part from an estimate; a bootstrap interval gives its p by the normal approximation."""
    records = tuple(f"{one.run_id}/{one.checkpoint}" for one in rows.itertuples())
    if isinstance(found, Matched):
        interval: tuple[float, float] | None = (found.low, found.high)
        found = Estimate(found.value, (found.high - found.low) / 2 / NORMAL_QUANTILE)
    else:
        interval = found.interval()
    low, high = interval or (None, None)
    p_for = found.p_above()
    p_against = Estimate(-found.value, found.stderr, found.dof).p_above()
    return Part(name, found.value, low, high, p_for, p_against, records, note)


@dataclass(frozen=True)
class Evidence:
    """The models of one source, scale and base model."""

    corpus: str
    models: pd.DataFrame
    """All of them."""
    main: pd.DataFrame
    """The paper's methods, cooled down, each at its chosen rate; see `_main`."""

    def having(self, measures: tuple[str, ...]) -> Evidence:
        """The same, its main models only those that have these measures."""
        return replace(self, main=self.main.dropna(subset=list(measures)))

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


def corpora(models: pd.DataFrame) -> Iterator[Evidence]:
    """The evidence of each source, scale and base model that has trained models."""
    for (source, scale, model), rows in models.groupby(["source", "scale", "model"], sort=True):
        if (rows.method != "base").any():
            corpus = "paper" if source == "paper" else f"{scale} {model}" * (scale != model)
            yield Evidence(corpus or str(scale), rows, _main(rows))


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


def _main(rows: pd.DataFrame) -> pd.DataFrame:
    """Full finetuning, and LoRA with alpha = 2r on all linear maps, by the usual optimizer.

    Only finished runs of the domains with a target task; each (method, duration) at the rate of
    its lowest validation loss. A method with several rates and no validation loss is left out.
    """
    trained = rows[(rows.method != "base") & rows.cooled_down & rows.domain.isin(names().target)]
    usual = trained.optimizer.mode()
    if len(usual):
        trained = trained[trained.optimizer == usual[0]]
    everywhere = trained.targets.isna() | (trained.targets.str.count(",") + 1 == ALL_TARGETS)
    plain = "lora_r" + trained["rank"].astype("string")
    lora = (trained.method_name == plain) & (trained.alpha == 2 * trained["rank"]) & everywhere
    trained = trained[(trained.method_name == "full") | lora]
    kept = [trained.iloc[:0]]
    for _, one in trained.groupby([*GROUP, "label", "duration"], dropna=False, sort=False):
        rate = chosen_rate(one)
        if rate is not None:
            kept.append(one if math.isnan(rate) else one[one.lr_peak == rate])
    return pd.concat(kept)
