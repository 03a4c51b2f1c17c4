"""Ranks that the records support, and none beyond."""

import numpy as np
import pytest

from lvf.records.store import load, load_paper
from lvf.reporting.select.selection import selected
from lvf.reporting.select.settings import groups
from lvf.reporting.tables.leaderboard import leaderboard

from .conftest import Write, axes


def ladder(write: Write, method: str, kept: float, noise: np.ndarray, **where: object) -> object:
    """Two rates, target 0.3 and 0.6, source NLL rising by 1 from `kept`."""
    for rate, target in ((1e-3, 0.3), (4e-3, 0.6)):
        for seed in range(3):
            items = {"gsm8k": [target] * len(noise),
                     "nll_source": kept + 2 * target + noise + 0.01 * (seed - 1)}  # fmt: skip
            folder = write(axes(method, lr_peak=rate, seed=seed, **where), **items)
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
    gap = noise[0].mean() - noise[1].mean() + 1.0
    assert board.gap["LoRA r=8"] == pytest.approx(gap) and board.measure.iloc[0] == "nll_source"
    assert 0 < board.low["LoRA r=8"] < gap < board.high["LoRA r=8"]


def test_without_shared_levels_nothing_is_ranked() -> None:
    group = dict(groups(selected(load_paper())))["paper-math_ift"]
    board = leaderboard(group, "maths")
    assert set(board.best) == {1} and set(board.worst) == {4} and board.gap.isna().all()


def test_single_published_runs_are_not_ranked() -> None:
    group = dict(groups(selected(load_paper())))["paper-code_ift"]
    board = leaderboard(group, "code").set_index("method")
    assert set(board.best) == {1} and set(board.worst) == {4}
    assert (board.gap.drop("full") > 0).all() and board.low.isna().all()
