"""Figures by the data they draw, not by their pixels."""

import math
import re
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lvf.results.cells import groups
from lvf.results.figures import frontier, learning_curve
from lvf.results.measured import models
from lvf.results.store import load, load_paper
from lvf.results.terminal import terminal_frontier

from .conftest import Write, axes


@pytest.fixture
def grid(write: Write) -> Path:
    """Base, full at two rates, three ranks; one early checkpoint."""
    forgotten = {"arc_challenge": 0.9, "winogrande": 0.9}
    write(axes("base"), gsm8k=0.1, nll_source=0.5, hellaswag=0.9, **forgotten)
    write(axes(lr_peak=1e-3), gsm8k=0.8, nll_source=0.75, hellaswag=0.6, **forgotten)
    write(axes(lr_peak=4e-3), gsm8k=0.9, nll_source=2.0, hellaswag=0.3, **forgotten)
    for rank, score in ((2, 0.5), (8, 0.6), (32, 0.7)):
        write(axes("lora", rank=rank), gsm8k=score, nll_source=1.0, hellaswag=0.6, **forgotten)
    early = axes("lora", rank=8, duration=2.0, cooled_down=False)
    return write(early, checkpoint="ba1", gsm8k=0.3, nll_source=0.625, hellaswag=0.6, **forgotten)


def points(figure: Figure, panel: int) -> dict[tuple[float, float], tuple[str, str, bool]]:
    """Drawn markers: place to colour, marker, and whether it is filled."""
    found = {}
    for line in figure.axes[panel].get_lines():
        if line.get_marker() in ("None", "_", "|", "", None) or line.get_marker() in (0, 1, 2, 3):
            continue
        look = to_hex(line.get_color()), str(line.get_marker()), line.get_markerfacecolor()
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
            place = (round(float(x), 6), round(float(y), 6))
            found[place] = (look[0], look[1], look[2] != "white")
    return found


def test_the_frontier_draws_each_model_at_its_scores(grid: Path, tmp_path: Path) -> None:
    ((name, group),) = groups(models(load(grid)))
    path = tmp_path / "frontier.png"
    figure = frontier(group, path, name)
    assert path.stat().st_size > 10_000
    assert set(points(figure, 0)) == {
        (0.8, 0.8), (0.7, 0.9), (0.8, 0.5), (0.8, 0.6), (0.8, 0.7), (0.8, 0.3),
    }  # fmt: skip
    source = points(figure, 1)
    assert source[0.75, 0.8] == (to_hex("black"), "s", True)
    assert source[1.0, 0.5] == (to_hex("plum"), "o", True)
    assert source[1.0, 0.6] == (to_hex("slateblue"), "^", True)
    assert source[1.0, 0.7] == (to_hex("navy"), "D", True)
    assert source[0.625, 0.3] == (to_hex("slateblue"), "^", False)  # not cooled down


def test_one_line_joins_the_rates_of_a_method_and_the_base_is_dashed(
    grid: Path, tmp_path: Path
) -> None:
    ((name, group),) = groups(models(load(grid)))
    panel = frontier(group, tmp_path / "f.png", name).axes[1]
    drawn = [
        (list(line.get_xdata()), list(line.get_ydata()), line.get_linestyle())
        for line in panel.get_lines()
    ]
    assert ([0.75, 2.0], [0.8, 0.9], "-") in drawn
    assert ([0, 1], [0.1, 0.1], "--") in drawn and ([0.5, 0.5], [0, 1], "--") in drawn


def test_right_is_less_forgetting_in_both_panels(grid: Path, tmp_path: Path) -> None:
    ((name, group),) = groups(models(load(grid)))
    average, source = frontier(group, tmp_path / "f.png", name).axes
    assert average.get_xlim()[0] < average.get_xlim()[1]
    assert source.get_xlim()[0] > source.get_xlim()[1]
    texts = [text.get_text() for text in source.texts]
    assert sorted(texts) == ["1e-3"] * 4 + ["4e-3"]  # every cooled-down model is told its rate


def test_the_learning_curve_draws_scores_over_durations(grid: Path, tmp_path: Path) -> None:
    ((name, group),) = groups(models(load(grid)))
    path = tmp_path / "learning.png"
    figure = learning_curve(group, path, name)
    assert path.exists() and len(figure.axes) == 3
    assert {(2.0, 0.3), (8.0, 0.5), (8.0, 0.6), (8.0, 0.7)} <= set(points(figure, 0))
    assert points(figure, 2)[2.0, 0.625] == (to_hex("slateblue"), "^", False)


def test_published_curves_go_through_the_papers_points(tmp_path: Path) -> None:
    published = dict(groups(models(load_paper())))
    figure = learning_curve(published["paper-code_cpt"], tmp_path / "l.png", "Fig. 1A")
    assert {(20e9, 0.263), (8e9, 0.208), (0.25e9, 0.143)} <= set(points(figure, 0))
    figure = frontier(published["paper-math_ift"], tmp_path / "f.png", "Fig. 3")
    assert {(0.590, 0.642), (0.584, 0.634), (0.596, 0.569)} <= set(points(figure, 0))
    joined = [list(line.get_ydata()) for line in figure.axes[0].get_lines()]
    assert [0.604, 0.641, 0.642, 0.619, 0.599] in joined


def test_a_group_without_target_scores_can_still_be_drawn(tmp_path: Path) -> None:
    group = dict(groups(models(load_paper())))["paper-chat_ift"].assign(target=math.nan)
    learning_curve(group, tmp_path / "l.png", "Tülu")
    assert "no model has both" in terminal_frontier(group)


def test_the_terminal_shows_one_mark_a_model_within_96_columns(grid: Path) -> None:
    ((_, group),) = groups(models(load(grid)))
    text = terminal_frontier(group)
    plot, legend = text.split("\n\n")[0], text.splitlines()[-1]
    assert max(len(line) for line in text.splitlines()) <= 96
    assert "\x1b" not in text and "■ full" in legend and "open: not cooled down" in legend
    assert {mark: plot.count(mark) for mark in "■●▲△◆"} == {"■": 2, "●": 1, "▲": 1, "△": 1, "◆": 1}
    ticks = [float(x) for x in re.findall(r"\d\.\d+", plot.splitlines()[-2])]
    assert ticks == sorted(ticks, reverse=True)
