"""Ranks that the records support, and none beyond."""

import numpy as np
import pandas as pd
import pytest

from lvf.records.store import load, load_paper
from lvf.reporting.select.selection import selected
from lvf.reporting.select.settings import groups
from lvf.reporting.stats.bootstrap import resampled_settings
from lvf.reporting.stats.contrast import combined, contrast, evenly
from lvf.reporting.tables.leaderboard import leaderboard

from .conftest import Write, axes


def ladder(write: Write, method: str, kept: float, noise: np.ndarray, **where: object) -> object:
    """Two rates, target 0.3 and 0.6, source NLL rising by 1 from `kept`."""
    for rate, target in ((1e-3, 0.3), (4e-3, 0.6)):
        items = {"gsm8k": [target] * len(noise), "nll_source": kept + 2 * target + noise}
        folder = write(axes(method, lr_peak=rate, **where), **items)
    return folder


def test_methods_are_ranked_where_intervals_part_them_and_tied_where_not(write: Write) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.1, size=(3, 200))
    ladder(write, "full", 2.0, noise[0])
    ladder(write, "lora", 1.0, noise[1], rank=8)
    folder = ladder(write, "lora", 1.001, noise[2], rank=32)
    ((name, group),) = groups(selected(load(folder)))  # type: ignore[arg-type]
    board = leaderboard(group, name).set_index("method")
    assert list(board.index) == ["LoRA r=8", "LoRA r=32", "full"]
    ranks = list(zip(board.best, board.worst, strict=True))
    assert ranks == [(1, 2), (1, 2), (3, 3)]
    gap = noise[1].mean() - noise[0].mean() - 1.0
    assert board.gap["LoRA r=8"] == pytest.approx(gap) and board.measure.iloc[0] == "nll_source"
    assert board.low["LoRA r=8"] < gap < board.high["LoRA r=8"] < 0


def test_without_shared_levels_nothing_is_ranked() -> None:
    group = dict(groups(selected(load_paper())))["paper-math_ift"]
    board = leaderboard(group, "maths")
    assert set(board.best) == {1} and set(board.worst) == {4} and board.gap.isna().all()


def test_published_code_ift_puts_full_finetuning_last_at_equal_learning() -> None:
    group = dict(groups(selected(load_paper())))["paper-code_ift"]
    board = leaderboard(group, "code").set_index("method")
    assert (board.best["full"], board.worst["full"]) == (4, 4)
    assert (board.gap.drop("full") > 0).all()


def test_the_paired_bootstrap_over_items_and_seeds_has_the_spread_of_the_closed_form(
    write: Write,
) -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=400)
    for method in ("full", "lora"):
        for seed in range(3):
            scores = shared + rng.normal(scale=0.1, size=400) + rng.normal(scale=0.05)
            folder = write(axes(method, seed=seed), nll_source=list(scores))
    rows = selected(load(folder))
    sides = [rows[rows.method == method] for method in ("full", "lora")]
    draws = [resampled_settings(side, ["nll_source"], 4000) for side in sides]
    assert draws[0] is not None and draws[1] is not None
    gaps = draws[0][0][0] - draws[1][0][0]
    weights = combined((1, evenly(sides[0])), (-1, evenly(sides[1])))
    exact = contrast(pd.concat(sides), "nll_source", weights)
    assert exact is not None and exact.stderr is not None
    assert gaps.mean() == pytest.approx(exact.value, abs=exact.stderr / 5)
    assert gaps.std() == pytest.approx(exact.stderr, rel=0.1)
    assert exact.stderr < 0.5 * np.hypot(*(side.nll_source_se.mean() for side in sides))  # paired
