"""The paper's claims and rules on learning rates (its App. B and section 4.7)."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import Evidence, Part, resampled_part, unknown_part
from lvf.reporting.select.learning_rate import NUM_RATES, best_rate
from lvf.reporting.select.variants import usual

RANGE = (1e-5, 5e-4)
"""Rates that the paper recommends to sweep for LoRA."""


@claim(
    "10a", "App. B", "LoRA's best rate is about ten times full finetuning's (3.2 to 32 times)",
    needs="three rates or more of LoRA and of full finetuning, with validation loss",
    measures=("nll_validation",), unit="decades inside the range",
)  # fmt: skip
def lora_wants_ten_times_the_rate(evidence: Evidence) -> Iterator[Part]:
    """Half a decade minus the distance of log10(best LoRA rate / best full rate) from 1; a best
    rate is the vertex of the parabola through the lowest validation loss and its neighbours."""
    for name, full, lora in rate_ladders(evidence):
        ours, theirs = best_rate(lora), best_rate(full)
        rows = pd.concat([full, lora])
        if isinstance(ours, str) or isinstance(theirs, str):
            yield unknown_part(name, rows, ours if isinstance(ours, str) else str(theirs))
            continue
        ratio, draws = ours.value - theirs.value, ours.draws - theirs.draws
        told = f"{name}, {10**ratio:.1f} times"
        yield resampled_part(told, 0.5 - abs(ratio - 1), 0.5 - np.abs(draws - 1), rows)


@claim(
    "10b", "App. B", "LoRA is the more sensitive to its rate",
    needs="three neighbouring rates of LoRA and of full finetuning with target scores",
    measures=("target", "nll_validation"), unit="score lost by a step of the rate",
)  # fmt: skip
def lora_is_more_sensitive_to_rate(evidence: Evidence) -> Iterator[Part]:
    """Score lost one step of the rate to either side of the best, LoRA's minus full's."""
    for name, full, lora in rate_ladders(evidence):
        around = [_best_and_neighbours(rows) for rows in (full, lora)]
        found = [one for one in around if one is not None]
        if len(found) < 2:
            reason = "the best rate is at the end of the ladder"
            yield unknown_part(name, pd.concat([full, lora]), reason)
            continue
        (full_best, full_next), (lora_best, lora_next) = found
        terms = (1, lora_best), (-1, lora_next), (-1, full_best), (1, full_next)
        yield from evidence.estimate(name, "target", *terms)


@claim(
    "rule d", "4.7", "LoRA's best rate lies between 1e-5 and 5e-4",
    needs="three rates or more of LoRA and of full finetuning, with validation loss",
    measures=("nll_validation",), unit="decades inside the range",
)  # fmt: skip
def lora_rate_in_the_papers_range(evidence: Evidence) -> Iterator[Part]:
    """Distance of log10 of LoRA's best rate from the nearer end of the range, inside positive."""
    for name, _, lora in rate_ladders(evidence):
        found = best_rate(lora)
        if isinstance(found, str):
            yield unknown_part(name, lora, found)
            continue
        told = f"{name}, best {10**found.value:.1e}"
        inside = [_inside(np.atleast_1d(x)) for x in (found.value, found.draws)]
        yield resampled_part(told, float(inside[0][0]), inside[1], lora)


@claim(
    "rule e", "4.7", "Take LoRA's highest stable rate: the loss falls until runs diverge",
    needs="three rates or more of LoRA and of full finetuning, with validation loss",
    measures=("nll_validation",), unit="nats per token",
)  # fmt: skip
def highest_stable_rate_is_best(evidence: Evidence) -> Iterator[Part]:
    """Validation loss at the second highest rate minus that at the highest, none diverged."""
    for name, _, lora in rate_ladders(evidence):
        rates = sorted(set(lora.lr_peak))
        below, highest = (lora[lora.lr_peak == rate] for rate in rates[-2:])
        yield from evidence.estimate(name, "nll_validation", (1, below), (-1, highest))


def rate_ladders(evidence: Evidence) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Name, and full and each LoRA at the duration with most rates of both, at least three."""
    ladders = usual(evidence.finished)
    for (domain, regime), rows in ladders.groupby(["domain", "regime"]):
        full = rows[rows.label == "full"]
        for (label, *_), one in rows[rows.method == "lora"].groupby(["label", "alpha", "maps"]):
            rates = [side.groupby("duration").lr_peak.nunique() for side in (full, one)]
            fewer = pd.concat(rates, axis=1, join="inner").min(axis=1).sort_index()
            if fewer.max() >= NUM_RATES:
                most = fewer[fewer == fewer.max()].index[-1]
                sides = [side[side.duration == most] for side in (full, one)]
                yield f"{domain} {regime}, {label}", sides[0], sides[1]


def _best_and_neighbours(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Models of the rate with the highest mean target score, and of the rates beside it."""
    means = rows.groupby("lr_peak").target.mean()
    place = int(means.argmax())
    if place in (0, len(means) - 1):
        return None
    best, beside = means.index[place], [means.index[place - 1], means.index[place + 1]]
    return rows[rows.lr_peak == best], rows[rows.lr_peak.isin(beside)]


def _inside(log_rates: np.ndarray) -> np.ndarray:
    """Decades from the nearer end of the recommended range."""
    low, high = np.log10(RANGE)
    return np.minimum(log_rates - low, high - log_rates)


CLAIMS = (
    lora_wants_ten_times_the_rate,
    lora_is_more_sensitive_to_rate,
    lora_rate_in_the_papers_range,
    highest_stable_rate_is_best,
)
