"""Statistics against closed forms and enumeration."""

import itertools
import math

import numpy as np
import pytest

from lvf.results.statistics import (
    Estimate,
    difference_of_groups,
    mean_of,
    over_seeds,
    paired_difference,
)


def test_a_paired_difference_has_the_standard_error_of_the_mean_of_differences() -> None:
    found = paired_difference(np.array([1.0, 1, 0, 1]), np.array([0.0, 1, 0, 0]))
    assert found.value == 0.5
    assert found.stderr == pytest.approx(math.sqrt(4 * 0.25 / 3 / 4))


def test_the_paired_variance_is_that_of_all_resamples_up_to_bessels_factor() -> None:
    ours, theirs = np.array([1.0, 4, 2, 0, 3]), np.array([1.0, 1, 0, 2, 2])
    means = [
        np.mean([ours[i] - theirs[i] for i in drawn])
        for drawn in itertools.product(range(5), repeat=5)
    ]
    stderr = paired_difference(ours, theirs).stderr
    assert stderr is not None and stderr**2 == pytest.approx(np.var(means) * 5 / 4)


def test_items_of_different_number_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="shapes"):
        paired_difference(np.zeros(3), np.zeros(4))


def test_one_seed_has_no_spread_and_three_have_that_of_their_mean() -> None:
    assert over_seeds([0.5]).stderr is None
    found = over_seeds([1.0, 2.0, 6.0])
    assert (found.value, found.dof) == (3.0, 2)
    assert found.stderr == pytest.approx(math.sqrt((4 + 1 + 9) / 2 / 3))


def test_the_mean_of_parts_adds_their_variances() -> None:
    found = mean_of([Estimate(0.6, 0.03), Estimate(0.9, 0.04)])
    assert found.value == pytest.approx(0.75) and found.stderr == pytest.approx(0.025)
    assert mean_of([Estimate(0.6, 0.03), Estimate(0.9)]).stderr is None


def test_intervals_are_those_of_students_table() -> None:
    low, high = Estimate(1.0, 0.5, dof=4).interval() or (0, 0)
    assert high - 1 == pytest.approx(2.776445 * 0.5, rel=1e-5) and low == pytest.approx(2 - high)
    low, _ = Estimate(0.0, 1.0).interval() or (0, 0)
    assert low == pytest.approx(-1.959964, rel=1e-5)


def test_a_sign_is_given_only_where_the_interval_leaves_out_zero() -> None:
    assert Estimate(1.0, 0.5).sign == 1 and Estimate(-1.0, 0.5).sign == -1
    assert Estimate(1.0, 0.5, dof=2).sign == 0  # t = 4.30
    assert Estimate(1.0).sign == 0


def test_groups_of_seeds_add_item_noise_and_take_welchs_degrees_of_freedom() -> None:
    found = difference_of_groups([1.0, 2.0, 3.0], [0.0, 4.0], item_stderr=None)
    a, b = 1 / 3, 8 / 2
    assert found.value == 0 and found.stderr == pytest.approx(math.sqrt(a + b))
    assert found.dof == pytest.approx((a + b) ** 2 / (a * a / 2 + b * b / 1))
    both = difference_of_groups([1.0, 2.0, 3.0], [0.0, 4.0], item_stderr=2.0)
    assert both.stderr == pytest.approx(math.sqrt(a + b + 4)) and both.dof > found.dof


def test_single_seeds_leave_item_noise_alone() -> None:
    assert difference_of_groups([1.0], [0.25], 0.1) == Estimate(0.75, 0.1)
    assert difference_of_groups([1.0], [0.25], None).stderr is None


def test_intervals_of_differences_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):  # three seeds each, seed noise 1 and item noise 0.5, no difference
        shared = rng.normal(scale=0.5)
        found = difference_of_groups(
            list(rng.normal(size=3) + shared), list(rng.normal(size=3)), 0.5
        )
        covered += found.sign == 0
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)
