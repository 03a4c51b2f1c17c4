"""Statistics against closed forms and enumeration."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, ttest_1samp, ttest_ind
from statsmodels.formula.api import mixedlm

from lvf.records.estimate import (
    Estimate,
    mean_of,
    paired_difference,
)
from lvf.reporting.stats.pooling import holm, random_effects
from lvf.reporting.stats.variance import Runs, item_variance, seed_variance, together


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


def test_the_mean_of_parts_adds_their_variances() -> None:
    found = mean_of([Estimate(0.6, 0.03), Estimate(0.9, 0.04)])
    assert found.value == pytest.approx(0.75) and found.stderr == pytest.approx(0.025)
    assert mean_of([Estimate(0.6, 0.03), Estimate(0.9)]).stderr is None


def test_intervals_are_those_of_students_table() -> None:
    low, high = Estimate(1.0, 0.5, dof=4).interval() or (0, 0)
    assert high - 1 == pytest.approx(2.776445 * 0.5, rel=1e-5) and low == pytest.approx(2 - high)
    low, _ = Estimate(0.0, 1.0).interval() or (0, 0)
    assert low == pytest.approx(-1.959964, rel=1e-5)


def test_holm_rejects_as_the_step_down_procedure_by_hand() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.beta(0.3, 2, size=6).round(2)  # with ties
        rejected: set[int] = set()
        for step, index in enumerate(sorted(range(6), key=lambda i: p[i])):
            if p[index] > 0.05 / (6 - step):
                break
            rejected.add(index)
        assert {i for i, one in enumerate(holm(list(p))) if one <= 0.05 + 1e-12} == rejected
    assert holm([]) == [] and holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_one_sided_p_is_that_of_scipys_t_test() -> None:
    sample = np.array([0.3, -0.1, 0.8, 0.4, 0.2])
    expected = ttest_1samp(sample, 0, alternative="greater").pvalue
    stderr = float(sample.std(ddof=1) / math.sqrt(5))
    found = Estimate(float(sample.mean()), stderr, dof=4).p_above()
    assert found == pytest.approx(expected)
    assert Estimate(1.0, 1.0).p_above() == pytest.approx(norm.sf(1.0), rel=1e-6)
    assert Estimate(1.0).p_above() is None
    assert (Estimate(1.0, 0.0).p_above(), Estimate(0.0, 0.0).p_above()) == (0.0, 0.5)


def test_holm_counts_the_tests_that_were_planned_and_not_made() -> None:
    assert holm([0.01, 0.04], total=5) == pytest.approx([0.05, 0.16])


def test_a_random_effects_mean_without_noise_is_the_t_test_of_the_conditions() -> None:
    sample = np.array([0.3, -0.1, 0.8, 0.4, 0.2])
    expected = ttest_1samp(sample, 0)
    pooled = random_effects([Estimate(x, 1e-6) for x in sample], Estimate(sample.mean(), 1e-7))
    assert pooled.mean.p_two_sided() == pytest.approx(expected.pvalue, rel=1e-6)
    interval = expected.confidence_interval()
    assert pooled.mean.interval() == pytest.approx((interval.low, interval.high))
    assert pooled.spread == pytest.approx(sample.std(ddof=1), rel=1e-6) and pooled.p_spread < 1e-9


def test_noise_alone_leaves_no_spread_between_conditions() -> None:
    ours = [Estimate(0.10, 0.05, 8), Estimate(0.11, 0.05, 8)]
    mean = Estimate(0.105, 0.05 / math.sqrt(2), 16)
    pooled = random_effects(ours, mean)
    assert (pooled.mean, pooled.spread) == (mean, 0.0) and pooled.p_spread > 0.5


def test_the_spread_of_two_conditions_is_tested_by_welchs_t_test() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=5), rng.normal(1, 3, size=7)
    parts = [Estimate(x.mean(), x.std(ddof=1) / len(x) ** 0.5, len(x) - 1) for x in (ours, theirs)]
    found = random_effects(parts, Estimate(0.0, 1.0)).p_spread
    assert found == pytest.approx(ttest_ind(ours, theirs, equal_var=False).pvalue)


@pytest.mark.parametrize("draw", range(3))
def test_the_variance_of_a_mean_is_that_of_statsmodels_mixed_model(draw: int) -> None:
    """Items and seeds crossed; by restricted likelihood, which equals it for balanced data."""
    num_seeds, num_items = 5, 30
    random = np.random.default_rng(draw)
    scores = 0.5 + random.normal(0, 0.3, num_items) + random.normal(0, 0.2, (num_seeds, 1))
    scores = scores + random.normal(0, 0.1, (num_seeds, num_items))
    seed, item = np.indices(scores.shape)
    table = pd.DataFrame({"y": scores.ravel(), "seed": seed.ravel(), "item": item.ravel()})
    model = mixedlm(
        "y ~ 1", table, groups=np.zeros(len(table)),
        vc_formula={"item": "0 + C(item)", "seed": "0 + C(seed)"},
    )  # fmt: skip
    fitted = model.fit(reml=True)

    same, weights = np.zeros(num_seeds, dtype=int), np.full(num_seeds, 1 / num_seeds)
    runs = Runs(same, same, np.arange(num_seeds), same)
    items, interaction = item_variance(scores, weights, same)
    seeds, dof = seed_variance(scores.mean(axis=1)[:, None], weights[:, None], runs)
    total, _ = together(items, interaction, seeds, dof)
    assert total == pytest.approx(fitted.bse["Intercept"] ** 2, rel=1e-3)
    assert dof == num_seeds - 1
