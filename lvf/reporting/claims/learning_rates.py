"""The paper's claims and rules on learning rates (its App. B and section 4.7)."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lvf.reporting.claims.claim import claim
from lvf.reporting.claims.evidence import Comparison, Evidence, compared
from lvf.reporting.stats.contrast import Contrast, linearised, negative, setting_labels

RANGE = (1e-5, 5e-4)
"""Rates that the paper recommends to sweep for LoRA."""
NUM_LEARNING_RATES = 3
"""Learning rates that a best rate between them needs."""


@claim(
    "10a", "App. B", "LoRA's best rate is about ten times full finetuning's (3.2 to 32 times)",
    needs="three rates or more of LoRA and of full finetuning, with validation loss",
    measures=("nll_validation",), unit="decades inside the range",
)  # fmt: skip
def lora_wants_ten_times_the_rate(evidence: Evidence) -> Iterator[Comparison]:
    """Half a decade minus the distance of log10(best LoRA rate / best full rate) from 1; a best
    rate is the vertex of the parabola through the lowest validation loss and its neighbours."""
    for name, full, lora in learning_rate_grids(evidence):
        rows = pd.concat([full, lora])
        ratio = best_learning_rates(evidence.models, (lora, full), (1, -1))
        if not isinstance(ratio, str):
            name += f", {10**ratio.value:.1f} times"
            ratio = _inside(ratio, (0.5, 1.5))
        yield compared(name, ratio, rows)


@claim(
    "10b", "App. B", "LoRA is the more sensitive to its rate",
    needs="three neighbouring rates of LoRA and of full finetuning with target scores",
    measures=("target", "nll_validation"), unit="score lost by a step of the rate",
)  # fmt: skip
def lora_is_more_sensitive_to_rate(evidence: Evidence) -> Iterator[Comparison]:
    """Score lost one step of the rate to either side of the best, LoRA's minus full's."""
    for name, full, lora in learning_rate_grids(evidence):
        around = [_best_and_neighbours(rows) for rows in (full, lora)]
        known = [models for models in around if models is not None]
        if len(known) < 2:
            reason = "the best learning rate is at the end of the grid"
            yield compared(name, reason, pd.concat([full, lora]))
            continue
        (full_best, full_next), (lora_best, lora_next) = known
        terms = (1, lora_best), (-1, lora_next), (-1, full_best), (1, full_next)
        yield from evidence.estimate(name, "target", *terms)


@claim(
    "rule d", "4.7", "LoRA's best rate lies between 1e-5 and 5e-4",
    needs="three rates or more of LoRA and of full finetuning, with validation loss",
    measures=("nll_validation",), unit="decades inside the range",
    bound_to="the size of the model and the optimiser",
)  # fmt: skip
def lora_rate_in_the_papers_range(evidence: Evidence) -> Iterator[Comparison]:
    """Distance of log10 of LoRA's best rate from the nearer end of the range, inside positive."""
    for name, _, lora in learning_rate_grids(evidence):
        best = best_learning_rates(evidence.models, (lora,), (1,))
        if not isinstance(best, str):
            name += f", best {10**best.value:.1e}"
            low, high = np.log10(RANGE)
            best = _inside(best, (float(low), float(high)))
        yield compared(name, best, lora)


@claim(
    "rule e", "4.7", "Take LoRA's highest stable rate: the loss falls until runs diverge",
    needs="three rates or more of LoRA and of full finetuning, with validation loss",
    measures=("nll_validation",), unit="nats per token",
)  # fmt: skip
def highest_stable_rate_is_best(evidence: Evidence) -> Iterator[Comparison]:
    """Validation loss at the second highest rate minus that at the highest, none diverged."""
    for name, _, lora in learning_rate_grids(evidence):
        rates = sorted(set(lora.lr_peak))
        below, highest = (lora[lora.lr_peak == rate] for rate in rates[-2:])
        yield from evidence.estimate(name, "nll_validation", (1, below), (-1, highest))


def best_learning_rates(
    models: pd.DataFrame, sides: Sequence[pd.DataFrame], factors: Sequence[float]
) -> Contrast | str:
    """Sum of factor times log10(best rate) over methods.

    A best rate is the vertex of the parabola through the lowest mean validation NLL and its
    neighbours, in log10(rate).

    Args:
        models: all models of the evidence set.
        sides: models of each method that differ in rate and seed, at least three rates.
        factors: of each method.

    Returns:
        Why there is none, where a lowest loss is at an end of the grid.
    """
    settings = [setting_labels(rows) for rows in sides]
    rates = [np.log10([models.lr_peak[labels[0]] for labels in of_side]) for of_side in settings]
    for rows, of_side in zip(sides, settings, strict=True):
        losses = [rows.nll_validation[labels].mean() for labels in of_side]
        if int(np.argmin(losses)) in (0, len(losses) - 1):
            return f"{rows.label.iloc[0]}'s lowest loss is at an end of its rates"
    ends = np.cumsum([len(of_side) for of_side in settings])[:-1]

    def total(means: np.ndarray) -> float:
        losses = np.split(means[:, 0], ends)
        return sum(f * vertex(x, y) for f, x, y in zip(factors, rates, losses, strict=True))

    return linearised(models, [one for x in settings for one in x], ("nll_validation",), total)


def vertex(x: np.ndarray, y: np.ndarray) -> float:
    """Place of the minimum of the parabola through the lowest of points and its two neighbours.

    The lowest point itself where it is at an end.

    Args:
        x: (num_points,), rising.
        y: (num_points,).
    """
    lowest = int(y.argmin())
    if lowest in (0, len(x) - 1):
        return float(x[lowest])
    near = slice(lowest - 1, lowest + 2)
    curve = np.polyfit(x[near] - x[lowest], y[near], 2)
    return float(x[lowest] - curve[1] / (2 * curve[0])) if curve[0] else float(x[lowest])


def learning_rate_grids(evidence: Evidence) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Name, and full and each LoRA at the duration where both have most rates, at least three."""
    grids = evidence.finished[evidence.finished.is_usual]
    for (domain, regime), rows in grids.groupby(["domain", "regime"]):
        full = rows[(rows.method == "full") & (rows.role == "main")]
        for (_, label), lora in rows[rows.method == "lora"].groupby(["variant", "label"]):
            rates = [side.groupby("duration").lr_peak.nunique() for side in (full, lora)]
            fewer = pd.concat(rates, axis=1, join="inner").min(axis=1).sort_index()
            if fewer.max() >= NUM_LEARNING_RATES:
                most = fewer[fewer == fewer.max()].index[-1]
                sides = [side[side.duration == most] for side in (full, lora)]
                yield f"{domain} {regime}, {label}", sides[0], sides[1]


def _best_and_neighbours(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Models of the rate with the highest mean target score, and of the rates beside it."""
    means = rows.groupby("lr_peak").target.mean()
    place = int(means.argmax())
    if place in (0, len(means) - 1):
        return None
    best, beside = means.index[place], [means.index[place - 1], means.index[place + 1]]
    return rows[rows.lr_peak == best], rows[rows.lr_peak.isin(beside)]


def _inside(number: Contrast, ends: tuple[float, float]) -> Contrast:
    """Distance of a number from the nearer end of a range, positive inside."""
    low, high = number.value - ends[0], ends[1] - number.value
    nearer = number if low < high else negative(number)
    return Contrast(min(low, high), nearer.terms)
