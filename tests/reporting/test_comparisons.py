"""Comparisons of methods against brute force, and the verdicts drawn from them."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lvf.records.estimate import Estimate
from lvf.records.store import load, load_paper
from lvf.reporting.claims.judge import judge
from lvf.reporting.claims.table import sentences
from lvf.reporting.select.selection import selected
from lvf.reporting.select.settings import groups
from lvf.reporting.stats.contrast import combined, contrast, evenly
from lvf.reporting.stats.matched import (
    Matched,
    Undecided,
    frontier,
    gap_at_equal_learning,
    matched_learning,
)

from .conftest import Write, axes


def sides(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Full finetuning and LoRA."""
    found = selected(load(folder))
    return found[found.method == "full"], found[found.method == "lora"]


def difference(first: pd.DataFrame, second: pd.DataFrame, measure: str) -> Estimate | None:
    """Mean of the first method's seeds minus the second's."""
    weights = combined((1, evenly(first)), (-1, evenly(second)))
    return contrast(pd.concat([first, second]), measure, weights)


def test_the_frontier_holds_the_points_that_no_other_beats() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        x, y = rng.integers(0, 6, size=(2, 8)).astype(float)  # with many ties
        points = set(zip(x, y, strict=True))
        expected = sorted(
            p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)
        )
        assert list(zip(*frontier(x, y), strict=True)) == expected


def test_parallel_frontiers_differ_by_their_distance() -> None:
    ours = np.array([0.2, 0.8]), np.array([0.9, 0.3])  # y = 1.1 - x
    theirs = np.array([0.4, 0.6, 1.0]), np.array([0.6, 0.4, 0.0])  # y = 1 - x
    gap = gap_at_equal_learning(ours, theirs)
    assert gap == pytest.approx((0.1, 0.4, 0.8))


def test_frontiers_that_share_no_level_give_no_gap() -> None:
    ours = np.array([0.2, 0.3]), np.array([0.9, 0.8])
    theirs = np.array([0.5, 0.6]), np.array([0.9, 0.8])
    assert gap_at_equal_learning(ours, theirs) is None


def test_the_difference_of_methods_is_paired_by_item_over_mean_seeds(write: Write) -> None:
    full = [[1.0, 1, 0, 1], [1.0, 1, 1, 1]]
    lora = [[0.0, 1, 0, 1], [0.0, 1, 0, 0]]
    for seed in (0, 1):
        write(axes(seed=seed), gsm8k=full[seed])
        folder = write(axes("lora", seed=seed), gsm8k=lora[seed])
    found = difference(*sides(folder), "target")
    assert found is not None and found.value == pytest.approx(0.875 - 0.375)
    items = np.mean(full, axis=0) - np.mean(lora, axis=0)
    seeds = np.var([0.75, 1.0], ddof=1) / 2 + np.var([0.5, 0.25], ddof=1) / 2
    assert found.stderr == pytest.approx(np.sqrt(items.var(ddof=1) / 4 + seeds))


def test_the_difference_is_unknown_where_a_measure_is(write: Write) -> None:
    write(axes(), gsm8k=0.5)
    assert difference(*sides(write(axes("lora"), nll_source=1.0)), "target") is None


def test_matched_learning_agrees_with_all_resamples_of_items(write: Write) -> None:
    # Learning is without noise, so the gap at LoRA's one level is a mean over items: enumerable.
    low, high = [2.0, 1.0, 3.0, 2.5, 1.5], [4.0, 4.0, 7.0, 3.0, 5.0]
    lora = [2.0, 2.5, 4.0, 2.2, 1.0]
    write(axes(lr_peak=1e-3), gsm8k=[0.2] * 5, nll_source=low)
    write(axes(lr_peak=4e-3), gsm8k=[0.6] * 5, nll_source=high)
    folder = write(axes("lora"), gsm8k=[0.3] * 5, nll_source=lora)
    found = matched_learning(*sides(folder), "target", "nll_source", num_draws=4000)
    gaps = 0.75 * np.array(low) + 0.25 * np.array(high) - np.array(lora)
    means = [gaps[list(drawn)].mean() for drawn in itertools.product(range(5), repeat=5)]
    assert isinstance(found, Matched)
    assert found.value == pytest.approx(gaps.mean()) and found.levels == (0.3, 0.3)
    expected = np.percentile(means, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx(expected, abs=0.06)


def test_matched_learning_has_the_spread_of_seeds(write: Write) -> None:
    # No item noise: the variance of the gap is that of two means over three seeds each.
    seeds = {"full": (1.0, 2.0, 3.0), "lora": (0.5, 1.5, 1.0)}
    for method, losses in seeds.items():
        for seed, loss in enumerate(losses):
            folder = write(axes(method, seed=seed), gsm8k=[0.5] * 4, nll_source=[loss] * 4)
    found = matched_learning(*sides(folder), "target", "nll_source", num_draws=4000)
    assert isinstance(found, Matched) and found.value == pytest.approx(1.0)
    variance = sum(np.var(losses, ddof=1) / 3 for losses in seeds.values())
    deviates = {  # the exact bootstrap distribution: 27 equally likely means a method
        method: [np.mean(drawn) - np.mean(losses) for drawn in itertools.product(losses, repeat=3)]
        for method, losses in seeds.items()
    }
    gaps = [
        1 + np.sqrt(3 / 2) * (a - b)
        for a, b in itertools.product(deviates["full"], deviates["lora"])
    ]
    assert np.var(gaps) == pytest.approx(variance)  # the widening makes it unbiased
    assert (found.low, found.high) == pytest.approx(np.percentile(gaps, [2.5, 97.5]), abs=0.1)


def test_matched_learning_says_why_it_cannot_answer(write: Write) -> None:
    write(axes(), gsm8k=[0.9] * 4, nll_source=[1.0] * 4)
    found = matched_learning(*sides(write(axes("lora"), gsm8k=[0.2] * 4, nll_source=[0.5] * 4)))
    assert isinstance(found, Undecided) and "no shared level" in found.reason
    found = matched_learning(*sides(write(axes("lora"), gsm8k=0.9, nll_source=0.5)))
    assert isinstance(found, Undecided)


def test_matched_learning_without_items_has_the_recorded_standard_errors(write: Write) -> None:
    # Every score has the error 0.01; the frontier of full rises by 5 nats per unit of learning.
    write(axes(lr_peak=1e-3), gsm8k=0.2, nll_source=2.0)
    write(axes(lr_peak=4e-3), gsm8k=0.6, nll_source=4.0)
    found = matched_learning(*sides(write(axes("lora"), gsm8k=0.4, nll_source=1.0)))
    assert isinstance(found, Matched) and found.value == pytest.approx(2.0)
    stderr = 0.01 * np.sqrt((1 + 0.5) * (1 + 5**2))  # delta method
    assert (found.low, found.high) == pytest.approx(
        (2 - 1.96 * stderr, 2 + 1.96 * stderr), abs=0.15 * stderr
    )


def test_matched_learning_needs_errors(write: Write) -> None:
    write(axes(), gsm8k=0.5, nll_source=1.0)
    rows = selected(load(write(axes("lora"), gsm8k=0.5, nll_source=0.5))).assign(target_se=np.nan)
    found = matched_learning(rows[rows.method == "full"], rows[rows.method == "lora"])
    assert isinstance(found, Undecided) and "no errors" in found.reason


def said(scores: pd.DataFrame, condition: str | None = None) -> str:
    """The sentences on one group."""
    found = selected(scores)
    by_name = dict(groups(found))
    group = by_name[condition] if condition else next(iter(by_name.values()))
    return "\n".join(sentences(judge(found, scores), group))


def test_a_sentence_names_the_better_only_where_the_interval_allows(write: Write) -> None:
    rng = np.random.default_rng(0)
    for seed in range(3):
        noise = rng.normal(scale=0.01, size=(4, 60))
        write(axes(seed=seed), gsm8k=0.6 + noise[0], nll_source=2.0 + noise[1])
        folder = write(axes("lora", seed=seed), gsm8k=0.6 + noise[2], nll_source=1.0 + noise[3])
    lines = said(load(folder))
    assert "single runs" not in lines
    assert "learns more (target score): undecided" in lines
    assert "forgets less (source NLL): LoRA r=8 (math ift, LoRA r=8 +1." in lines


def test_a_sentence_on_single_seeds_speaks_of_item_noise_only(write: Write) -> None:
    rng = np.random.default_rng(0)
    write(axes(), gsm8k=0.9 + rng.normal(scale=0.01, size=50))
    lines = said(load(write(axes("lora"), gsm8k=0.5 + rng.normal(scale=0.01, size=50))))
    assert "single runs, no seed noise" in lines and "learns more (target score): full" in lines


def test_published_numbers_are_ranked_only_beyond_their_binomial_noise() -> None:
    lines = said(load_paper(), "paper-code_ift")
    # Means over five lengths; errors of p (1 - p) / 8200 each (table S5).
    full = np.array([0.302, 0.464, 0.470, 0.497, 0.416])
    lora = np.array([0.197, 0.275, 0.358, 0.338, 0.324])
    gap = full.mean() - lora.mean()
    error = np.sqrt(sum((x * (1 - x)).sum() for x in (full, lora)) / 8200) / 5
    ends = f"[{gap - 1.959964 * error:+.3f}, {gap + 1.959964 * error:+.3f}]"
    assert f"learns more (target score): full (code ift, LoRA r=16 {gap:+.3f} {ends}" in lines
    assert "forgets less (source tasks): LoRA r=16" in lines and "single runs" in lines
