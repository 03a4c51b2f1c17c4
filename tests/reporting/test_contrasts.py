"""Weighted sums of models against closed forms, brute force and simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from lvf.records.estimate import Estimate
from lvf.records.store import load
from lvf.reporting.select.selection import selected
from lvf.reporting.stats.contrast import combined, evenly, linear

from .conftest import Write, axes


def found(folder: object, measure: str, full: float = 1.0, lora: float = -1.0) -> Estimate:
    """Full minus LoRA, or another weighting of their means."""
    rows = selected(load(folder))  # type: ignore[arg-type]
    sides = [rows[rows.method == method] for method in ("full", "lora")]
    told = linear(rows, measure, combined((full, evenly(sides[0])), (lora, evenly(sides[1]))))
    assert told is not None
    return told.estimate


def runs(write: Write, full: np.ndarray, lora: np.ndarray, **where: object) -> object:
    """Both methods' scores, (num_seeds, num_items)."""
    for method, scores in (("full", full), ("lora", lora)):
        for seed, items in enumerate(scores):
            folder = write(axes(method, seed=seed, **where), gsm8k=items)
    return folder


def test_seeds_without_item_noise_give_the_pooled_t_test_of_scipy(write: Write) -> None:
    full, lora = np.array([0.1, 0.5, 0.6]), np.array([0.3, 0.2, 0.25])
    told = found(runs(write, full[:, None] * np.ones(4), lora[:, None] * np.ones(4)), "target")
    expected = ttest_ind(full, lora)  # three seeds each are too few for variances of their own
    assert told.dof == pytest.approx(expected.df) and told.p_two_sided() == pytest.approx(
        expected.pvalue
    )


def test_five_seeds_give_each_method_its_own_variance_as_welch(write: Write) -> None:
    rng = np.random.default_rng(0)
    full, lora = rng.normal(scale=0.3, size=5), rng.normal(scale=0.1, size=5)
    told = found(runs(write, full[:, None] * np.ones(4), lora[:, None] * np.ones(4)), "target")
    expected = ttest_ind(full, lora, equal_var=False)
    assert told.dof == pytest.approx(expected.df)
    assert told.p_two_sided() == pytest.approx(expected.pvalue)


def test_the_variance_is_that_of_the_crossed_analysis_of_variance(write: Write) -> None:
    """By mean squares of the difference's table of seeds and items (Searle, 1992)."""
    rng = np.random.default_rng(0)
    k, n = 5, 40
    full, lora = (
        rng.normal(size=(k, 1)) + rng.normal(size=n) + rng.normal(size=(k, n)) for _ in range(2)
    )
    told = found(runs(write, full, lora), "target")
    table = full - lora  # seeds of both methods paired at random: their covariance has mean zero
    by_item = n * ((full.mean(0) - lora.mean(0)).var(ddof=1) / n)
    seeds = sum(x.mean(1).var(ddof=1) / k for x in (full, lora))
    rest = [x - x.mean(0) - x.mean(1, keepdims=True) + x.mean() for x in (full, lora)]
    interaction = sum((x**2).sum() / ((k - 1) * (n - 1)) for x in rest) / (k * n)
    assert told.value == pytest.approx(table.mean()) and told.stderr is not None
    assert told.stderr**2 == pytest.approx(by_item / n + seeds - interaction)


def test_an_average_adds_the_item_noise_of_its_parts(write: Write) -> None:
    parts = {"hellaswag": [1.0, 0, 1, 1], "arc_challenge": [1.0, 0, 0], "winogrande": [0.0, 1]}
    for seed in range(3):
        write(axes(seed=seed), **parts)
        flipped = {name: [1 - x for x in scores] for name, scores in parts.items()}
        folder = write(axes("lora", seed=seed), **flipped)
    told = found(folder, "retention")
    gaps = [np.array(scores) * 2 - 1 for scores in parts.values()]
    assert told.value == pytest.approx(sum(gap.mean() for gap in gaps) / 3)
    variances = [gap.var(ddof=1) / len(gap) for gap in gaps]
    assert told.stderr == pytest.approx(math.sqrt(sum(variances)) / 3)


def test_a_setting_of_one_seed_takes_the_spread_of_the_others(write: Write) -> None:
    for seed, score in enumerate((1.0, 2.0, 3.0, 4.0, 5.0)):
        write(axes(seed=seed), gsm8k=[score] * 3)
    told = found(write(axes("lora"), gsm8k=[0.5] * 3), "target")
    assert told.stderr == pytest.approx(math.sqrt(2.5 / 5 + 2.5))  # variance 2.5 over seeds


def test_single_runs_and_two_seeds_have_no_error(write: Write) -> None:
    folder = runs(write, np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]))
    assert found(folder, "target") == Estimate(0.5)
    folder = runs(write, np.eye(2), np.zeros((2, 2)))
    assert found(folder, "target").stderr is None  # two degrees of freedom


def test_the_seed_deviation_that_would_undo_a_single_run_is_told(write: Write) -> None:
    write(axes(), gsm8k=0.5)
    rows = selected(load(write(axes("lora"), gsm8k=0.25)))
    weights = pd.Series([1.0 if one == "full" else -1.0 for one in rows.method], rows.index)
    told = linear(rows, "target", weights)
    assert told is not None
    limit = told.seed_deviation_limit()
    assert limit is not None  # each score has the error .01 of its items
    assert 1.959964 * math.sqrt(2 * (0.01**2 + limit**2)) == pytest.approx(0.25)


def test_without_an_error_the_sum_has_none(write: Write) -> None:
    write(axes(), gsm8k=0.5)
    rows = selected(load(write(axes("lora"), gsm8k=0.25)))
    rows["target_se"] = math.nan
    weights = pd.Series([1.0, -1.0], index=rows.index)
    told = linear(rows, "target", weights)
    assert told is not None and told.estimate.stderr is None
    assert told.seed_deviation_limit() is None and linear(rows, "nll_source", weights) is None


def test_benchmarks_of_equal_size_are_not_paired(write: Write) -> None:
    """Maths and code of as many items: their noise adds, whatever the order of the items."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=30)
    for seed in range(5):
        write(axes(seed=seed), gsm8k=scores)
        folder = write(axes(seed=seed, domain="code", dataset="c"), humaneval=scores)
    rows = selected(load(folder))  # type: ignore[arg-type]
    weights = pd.Series([0.2 if one == "math" else -0.2 for one in rows.domain], rows.index)
    told = linear(rows, "target", weights)
    assert told is not None
    assert told.estimate.stderr == pytest.approx(math.sqrt(2 * scores.var(ddof=1) / 30))
