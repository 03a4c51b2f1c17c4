"""Comparisons of methods against brute force, and the verdicts drawn from them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lvf.records.store import load, load_paper
from lvf.reporting.claims.judge import judge
from lvf.reporting.claims.table import sentences
from lvf.reporting.select.selection import selected
from lvf.reporting.select.settings import groups
from lvf.reporting.stats.contrast import Contrast
from lvf.reporting.stats.frontier import (
    area,
    frontier,
    gap_at_equal_learning,
    hypervolume,
    matched_learning,
)

from .conftest import Write, axes


def matched(folder: Path, learning: str = "target") -> Contrast | str:
    """LoRA against full finetuning."""
    found = selected(load(folder))
    sides = (found[found.method == method] for method in ("lora", "full"))
    return matched_learning(found, *sides, learning)


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
    assert gap == pytest.approx(0.1)


def test_frontiers_that_share_no_level_give_no_gap() -> None:
    ours = np.array([0.2, 0.3]), np.array([0.9, 0.8])
    theirs = np.array([0.5, 0.6]), np.array([0.9, 0.8])
    assert gap_at_equal_learning(ours, theirs) is None


def test_matched_learning_has_the_exact_error_where_the_gap_is_a_mean_over_items(
    write: Write,
) -> None:
    # Learning is without noise, so the gap at LoRA's single level is a mean over items.
    low, high = np.array([2.0, 1.0, 3.0, 2.5, 1.5]), np.array([4.0, 4.0, 7.0, 3.0, 5.0])
    lora = np.array([2.0, 2.5, 4.0, 2.2, 1.0])
    for seed in range(5):
        write(axes(lr_peak=1e-3, seed=seed), gsm8k=[0.2] * 5, nll_source=low)
        write(axes(lr_peak=4e-3, seed=seed), gsm8k=[0.6] * 5, nll_source=high)
        folder = write(axes("lora", seed=seed), gsm8k=[0.3] * 5, nll_source=lora)
    gap = matched(folder)
    gaps = 0.75 * low + 0.25 * high - lora  # positive: LoRA forgets less
    assert isinstance(gap, Contrast) and gap.value == pytest.approx(gaps.mean())
    assert gap.estimate.stderr == pytest.approx(gaps.std(ddof=1) / 5**0.5, rel=1e-5)


def test_matched_learning_has_the_delta_methods_error_of_seeds(write: Write) -> None:
    # The frontier of full rises by 5 nats per unit of learning; LoRA's single point lies between.
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.normal(size=(3, 2, 5))
    for seed in range(5):
        for rate, where in ((1e-3, (0.2, 2.0)), (4e-3, (0.6, 4.0))):
            t, s = (where[i] + noise[int(rate > 2e-3), i, seed] for i in range(2))
            write(axes(lr_peak=rate, seed=seed), gsm8k=[t] * 4, nll_source=[s] * 4)
        t, s = 0.4 + noise[2, 0, seed], 1.0 + noise[2, 1, seed]
        folder = write(axes("lora", seed=seed), gsm8k=[t] * 4, nll_source=[s] * 4)
    gap = matched(folder)
    mean = noise.mean(axis=2) + [[0.2, 2.0], [0.6, 4.0], [0.4, 1.0]]
    slope = (mean[1, 1] - mean[0, 1]) / (mean[1, 0] - mean[0, 0])
    share = (mean[2, 0] - mean[0, 0]) / (mean[1, 0] - mean[0, 0])
    weights = np.array([[-slope * (1 - share), 1 - share], [-slope * share, share], [slope, -1]])
    by_seed = np.einsum("pm,pms->ps", weights, noise)
    assert isinstance(gap, Contrast)
    variance = by_seed.var(axis=1, ddof=1).sum() / 5
    assert gap.estimate.stderr == pytest.approx(variance**0.5, rel=1e-3)


def test_matched_learning_says_why_it_cannot_answer(write: Write) -> None:
    write(axes(), gsm8k=[0.9] * 4, nll_source=[1.0] * 4)
    found = matched(write(axes("lora"), gsm8k=[0.2] * 4, nll_source=[0.5] * 4))
    assert isinstance(found, str) and "no shared level" in found
    assert isinstance(matched(write(axes("lora"), gsm8k=0.9), "nll_target"), str)


def test_the_base_covers_nothing_beyond_itself(write: Write) -> None:
    """Against (0, 0) a base that keeps everything covers more than a method that has learned."""
    folder = write(axes("base"), gsm8k=0.2, nll_source=0.1)
    folder = write(axes("lora"), gsm8k=0.5, nll_source=1.0)
    rows = selected(load(folder))
    areas = {
        method: hypervolume(rows, rows[rows.method == method], "nll_source", 0.2)
        for method in ("base", "lora")
    }
    assert areas["base"] is not None and areas["base"].value == pytest.approx(0, abs=1e-12)
    assert areas["lora"] is not None and areas["lora"].value == pytest.approx(0.3 * np.exp(-1))
    assert area(np.array([0.2, 0.1]), np.array([0.5, 1.0])) == pytest.approx(0.1 + 0.1 * 0.5)


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
    assert "learns more (target score): cannot be told from seed noise" in lines
    assert "forgets less (source NLL): LoRA r=8 (math ift, LoRA r=8 +1." in lines


def test_single_runs_have_a_direction_and_no_better(write: Write) -> None:
    rng = np.random.default_rng(0)
    write(axes(), gsm8k=0.9 + rng.normal(scale=0.01, size=50))
    lines = said(load(write(axes("lora"), gsm8k=0.5 + rng.normal(scale=0.01, size=50))))
    assert "cannot be told from seed noise (math ift, LoRA r=8 +0." in lines


def test_published_numbers_have_a_direction_only() -> None:
    lines = said(load_paper(), "paper-code_ift")
    full = np.array([0.302, 0.464, 0.470, 0.497, 0.416])
    lora = np.array([0.197, 0.275, 0.358, 0.338, 0.324])
    gap = full.mean() - lora.mean()
    assert f"cannot be told from seed noise (code ift, LoRA r=16 {gap:+.3f})" in lines
