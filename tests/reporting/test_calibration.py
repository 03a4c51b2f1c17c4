"""How often the statistics are wrong in simulated worlds whose truth is known."""

from functools import cache

import numpy as np
import pytest
from scipy.special import stdtr, stdtrit

from lvf.reporting.stats.variance import (
    MIN_DOF,
    Runs,
    item_variance,
    seed_variance,
    together,
)

METHODS = 4
"""Full finetuning and three ranks, as in the main grid."""
FIRST_STEP = 0.05 / 43
"""Nominal level at Holm's first step over 43 claims."""


@cache
def null_world(
    num_seeds: int, num_items: int, num_worlds: int, deviation: float = 0.02, durations: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """p values, and whether intervals hold the truth, of three ranks against full finetuning.

    A condition of the main grid in which nothing differs: a run's score of an item is item + item
    of the setting + seed + noise. Both (num_worlds, 3); the comparisons of a world share their full
    finetuning and their items.
    """
    rng = np.random.default_rng(num_seeds * 1000 + num_items)
    shape = METHODS, durations, num_seeds
    method, duration, seed = (x.ravel() for x in np.indices(shape))
    setting = method * durations + duration
    runs = Runs(setting, method, seed, np.zeros_like(seed))
    num_runs = len(seed)
    scores = 0.4 * rng.standard_normal((num_worlds, num_runs, num_items), dtype=np.float32)
    scores += 0.3 * rng.normal(size=(num_worlds, 1, num_items))
    own = 0.1 * rng.normal(size=(num_worlds, METHODS * durations, num_items))
    scores += own[:, setting] + deviation * rng.normal(size=(num_worlds, num_runs, 1))
    means = scores.mean(axis=2)
    p_values, covered = [], []
    for rank in range(1, METHODS):
        weights = ((method == 0) * 1.0 - (method == rank)) / (durations * num_seeds)
        used = weights != 0
        noise = item_variance(scores[:, used], weights[used], setting[used])
        seeds, dof = seed_variance(means[..., None], weights[:, None], runs)
        assert (dof >= MIN_DOF).all()
        total, dof = together(*noise, seeds, dof)
        away = np.abs(means @ weights) / np.sqrt(total)
        p_values.append(2 * stdtr(dof, -away))
        covered.append(away <= stdtrit(dof, 0.975))
    return np.stack(p_values, axis=1), np.stack(covered, axis=1)


@pytest.mark.parametrize(("num_items", "num_worlds"), [(50, 3000), (300, 400), (1000, 120)])
@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_true_nulls_are_rejected_as_often_as_they_say(
    num_seeds: int, num_items: int, num_worlds: int
) -> None:
    p_values, covered = null_world(num_seeds, num_items, num_worlds)
    chance = 3 * (0.05 * 0.95 / num_worlds) ** 0.5  # of the simulation
    assert (p_values < 0.05).mean() <= 0.06 + (chance if num_worlds < 1000 else 0)
    assert 0.93 - chance <= covered.mean() <= 0.97 + chance


@pytest.mark.parametrize("deviation", [0.0, 0.02, 0.1])
def test_holms_first_step_is_not_too_often_taken(deviation: float) -> None:
    rejected = [
        (null_world(num_seeds, 50, 3000, deviation)[0] < FIRST_STEP).mean()
        for num_seeds in (2, 3, 5)
    ]
    assert np.mean(rejected) <= 1.5 * FIRST_STEP


@pytest.mark.parametrize("comparisons", [1, 2, 3, 6, 9, 12])
@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_a_family_of_comparisons_has_its_level(num_seeds: int, comparisons: int) -> None:
    """Up to four conditions of three comparisons: Holm rejects any of them in 6 % at most."""
    p_values = null_world(num_seeds, 50, 3000)[0]
    families = p_values.reshape(750, 12)[:, :comparisons]
    chance = 2 * (0.05 * 0.95 / 750) ** 0.5
    assert (families.min(axis=1) < 0.05 / comparisons).mean() <= 0.06 + chance


def test_seeds_without_repeated_durations_share_the_variance_of_their_condition() -> None:
    """Three seeds of a single duration: eight degrees of freedom over four methods."""
    p_values, covered = null_world(3, 50, 3000, durations=1)
    assert (p_values < 0.05).mean() <= 0.06 and 0.93 <= covered.mean() <= 0.97
