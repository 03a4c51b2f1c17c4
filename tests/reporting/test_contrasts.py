"""Weighted sums of models against closed forms, brute force and simulation."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from lvf.records.estimate import Estimate
from lvf.records.store import load
from lvf.reporting.select.selection import selected
from lvf.reporting.stats.contrast import combined, contrast, evenly

from .conftest import Write, axes


def found(folder: object, measure: str, full: float = 1.0, lora: float = -1.0) -> Estimate:
    """Full minus LoRA, or another weighting of their means."""
    rows = selected(load(folder))  # type: ignore[arg-type]
    sides = [rows[rows.method == method] for method in ("full", "lora")]
    told = contrast(rows, measure, combined((full, evenly(sides[0])), (lora, evenly(sides[1]))))
    assert told is not None
    return told


def test_item_noise_is_that_of_the_weighted_sum_item_by_item(write: Write) -> None:
    full, lora = np.array([1.0, 4, 2, 0, 3]), np.array([1.0, 1, 0, 2, 2])
    write(axes(), gsm8k=full)
    told = found(write(axes("lora"), gsm8k=lora), "target", 1.0, -0.9)
    means = [
        np.mean([full[i] - 0.9 * lora[i] for i in drawn])
        for drawn in itertools.product(range(5), repeat=5)
    ]
    assert told.value == pytest.approx(np.mean(means))
    assert told.stderr == pytest.approx(math.sqrt(np.var(means) * 5 / 4))


def test_an_average_adds_the_item_noise_of_its_parts(write: Write) -> None:
    parts = {"hellaswag": [1.0, 0, 1, 1], "arc_challenge": [1.0, 0, 0], "winogrande": [0.0, 1]}
    write(axes(), **parts)
    flipped = {name: [1 - x for x in scores] for name, scores in parts.items()}
    told = found(write(axes("lora"), **flipped), "retention")
    gaps = [np.array(scores) * 2 - 1 for scores in parts.values()]
    assert told.value == pytest.approx(sum(gap.mean() for gap in gaps) / 3)
    variances = [gap.var(ddof=1) / len(gap) for gap in gaps]
    assert told.stderr == pytest.approx(math.sqrt(sum(variances)) / 3)


def test_scores_without_items_are_independent_but_for_seeds_of_one_cell(write: Write) -> None:
    for seed in (0, 1):
        write(axes(seed=seed), gsm8k=0.5)
    told = found(write(axes("lora"), gsm8k=0.25), "target")
    assert told == Estimate(0.25, pytest.approx(math.hypot(0.01, 0.01)))


def test_seeds_add_their_variance_and_welchs_degrees_of_freedom(write: Write) -> None:
    for seed, score in enumerate((1.0, 2.0, 3.0)):
        write(axes(seed=seed), gsm8k=[score] * 3)
    for seed, score in enumerate((0.0, 4.0)):
        folder = write(axes("lora", seed=seed), gsm8k=[score] * 3)
    told = found(folder, "target")
    a, b = 1 / 3, 8 / 2
    assert told.value == pytest.approx(0) and told.stderr == pytest.approx(math.sqrt(a + b))
    assert told.dof == pytest.approx((a + b) ** 2 / (a * a / 2 + b * b / 1))


def test_a_cell_of_one_seed_takes_the_spread_of_the_others(write: Write) -> None:
    for seed, score in enumerate((1.0, 2.0, 3.0)):
        write(axes(seed=seed), gsm8k=[score] * 3)
    told = found(write(axes("lora"), gsm8k=[0.5] * 3), "target")
    assert told.stderr == pytest.approx(math.sqrt(1 / 3 + 1))  # variance 1 over seeds


def test_single_seeds_leave_item_noise_alone(write: Write) -> None:
    write(axes(), gsm8k=[1.0, 0.0])
    told = found(write(axes("lora"), gsm8k=[0.0, 0.0]), "target")
    assert told == Estimate(0.5, 0.5)


def test_without_an_error_the_sum_has_none(write: Write) -> None:
    write(axes(), gsm8k=0.5)
    rows = selected(load(write(axes("lora"), gsm8k=0.25)))
    rows["target_se"] = math.nan
    weights = pd.Series([1.0, -1.0], index=rows.index)
    told = contrast(rows, "target", weights)
    assert told is not None and told.stderr is None
    assert contrast(rows, "nll_source", weights) is None


def test_intervals_cover_the_truth_as_often_as_they_say(write: Write) -> None:
    folder = write(axes(), gsm8k=0.0)
    for seed in (1, 2):
        write(axes(seed=seed), gsm8k=0.0)
    for seed in range(3):
        write(axes("lora", seed=seed), gsm8k=0.0)
    rows = selected(load(folder))
    weights = pd.Series([1 / 3 if one == "full" else -1 / 3 for one in rows.method], rows.index)
    rows["target_se"] = 0.5 / math.sqrt(2)  # item noise of each method
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):  # three seeds each, seed noise 1, no difference
        items = rng.normal(scale=0.5 / math.sqrt(2), size=2)
        noise = np.where(rows.method == "full", *items)
        told = contrast(rows.assign(target=rng.normal(size=6) + noise), "target", weights)
        assert told is not None
        low, high = told.interval() or (0.0, 0.0)
        covered += low <= 0 <= high
    assert covered / 300 == pytest.approx(0.95, abs=0.03)
