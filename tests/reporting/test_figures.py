"""Figures of learning and forgetting by the data they draw, not by their pixels."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from lvf.records.store import PAPER_CSV, load, load_paper
from lvf.reporting.claims.judge import judge
from lvf.reporting.claims.learning import lora_learns_less
from lvf.reporting.figures.curves import (
    CONDITIONS,
    all_measures,
    over_durations,
    retention_by_task,
    tulu,
)
from lvf.reporting.figures.equal_learning import at_equal_learning, hypervolumes
from lvf.reporting.figures.forest import forest as draw_forest
from lvf.reporting.figures.style import save
from lvf.reporting.figures.tradeoff import frontier, pareto
from lvf.reporting.select.selection import selected
from lvf.reporting.select.settings import groups
from lvf.reporting.stats.frontier import area

from .conftest import Write, axes
from .drawn import Curve, curves, texts

TABLES = {
    ("code", "cpt"): ("S1", "S2"),
    ("code", "ift"): ("S5", "S6"),
    ("math", "cpt"): ("S3", "S4"),
    ("math", "ift"): ("S7", "S8"),
}


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return selected(load_paper())


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


def points(panel: Axes) -> dict[tuple[float, float], tuple[str, str, bool]]:
    """Drawn markers: place to colour, marker, and whether it is filled."""
    found = {}
    for container in panel.containers:
        line = container[0]
        look = to_hex(line.get_color()), str(line.get_marker()), line.get_markerfacecolor()
        for x, y in zip(*line.get_data(), strict=True):
            found[round(float(x), 6), round(float(y), 6)] = (*look[:2], look[2] != "white")
    return found


def forest(panel: Axes) -> tuple[list[float], list[tuple[float, float]]]:
    """Values and intervals of a forest plot, from the top."""
    lines = [line for line in panel.get_lines() if line.get_linestyle() != "--"]
    marks = [line for line in lines if line.get_marker() == "s"]
    spans = [line for line in lines if line.get_marker() != "s"]
    values = [float(mark.get_xdata()[0]) for mark in marks]
    return values, [(float(x[0]), float(x[1])) for x in (line.get_xdata() for line in spans)]


def table(name: str) -> dict[str, Curve]:
    """A published table, read without the project's code: condition to (duration, value)."""
    found: dict[str, Curve] = defaultdict(list)
    with PAPER_CSV.open() as file:
        for row in csv.DictReader(file):
            if row["table"] == name:
                label = "full" if row["method"] == "full" else f"LoRA r={row['rank']}"
                found[label].append((float(row["duration"]), float(row["value"])))
    return dict(found)


def test_figures_1_and_2_draw_the_papers_tables(published: pd.DataFrame) -> None:
    for index, measure in enumerate(("target", "retention")):
        figure = over_durations(published, measure, "")
        assert len(figure.axes) == 4
        for panel, condition in zip(figure.axes, CONDITIONS, strict=True):
            assert curves(panel) == table(TABLES[condition][index])
            assert panel.get_xscale() == "log"
        ticks = [text.get_text() for text in figure.axes[0].get_xticklabels()]
        assert ticks == ["0.25B", "0.5B", "1B", "2B", "4B", "8B", "16B", "20B"]
        base = [line for line in figure.axes[0].get_lines() if line.get_linestyle() == "--"]
        assert [line.get_ydata()[0] for line in base] == [(0.138, 0.671)[index]]


def test_figure_3_draws_the_tables_against_each_other(published: pd.DataFrame) -> None:
    figure = pareto(published, "")
    for panel, condition in zip(figure.axes, CONDITIONS, strict=True):
        learned, kept = (table(name) for name in TABLES[condition])
        for label, line in curves(panel).items():
            pairs = [(y[1], x[1]) for x, y in zip(learned[label], kept[label], strict=True)]
            assert line == sorted(pairs)
    sizes = [c[0].get_markersize() for c in figure.axes[1].containers if c.get_label() == "full"]
    assert sizes == sorted(sizes) and len(set(sizes)) == 5


def test_figures_s4_to_s6_draw_the_papers_tables(published: pd.DataFrame) -> None:
    tasks = ["mt_bench", "gsm8k", "mmlu", "retention"]
    figure = tulu(published, load_paper(), tasks, "")
    for panel, name in zip(figure.axes, ("S10", "S12", "S11", "S13"), strict=True):
        assert curves(panel) == table(name)
        joined = [line for line in panel.get_lines() if line.get_linestyle() == ":"]
        assert len(joined) == 4 and all(len(line.get_xdata()) == 3 for line in joined)


def test_panels_without_records_say_so(grid: Path) -> None:
    figure = over_durations(selected(load(grid)), "target", "")
    for name in ("code CPT", "code IFT", "math CPT"):
        assert f"no records for\n{name}" in texts(figure)
    assert (
        "math IFT" not in texts(figure)
        and curves(figure.axes[3])["full"] == [(8, 0.9), (8, 0.8)][::-1]
    )


def test_each_part_of_retention_has_its_panels(grid: Path) -> None:
    figure = retention_by_task(selected(load(grid)), "")
    assert len(figure.axes) == 12
    hellaswag, arc = figure.axes[3], figure.axes[7]
    assert curves(hellaswag)["LoRA r=32"] == [(8, 0.6)] and curves(arc)["LoRA r=32"] == [(8, 0.9)]


def test_published_and_own_curves_stand_side_by_side(write: Write) -> None:
    own = axes(
        "lora", rank=16, scale="paper", model="llama2_7b", dataset="metamathqa", duration=2.0
    )
    both = pd.concat([load(write(own, gsm8k=0.5)), load_paper()], ignore_index=True)
    drawn = curves(over_durations(selected(both), "target", "").axes[3])
    assert drawn["LoRA r=16 (published)"] == table("S7")["LoRA r=16"]
    assert drawn["LoRA r=16"] == [(2, 0.5)]


def test_the_frontier_draws_each_model_at_its_scores(grid: Path) -> None:
    ((_, group),) = groups(selected(load(grid)))
    average, source = frontier(group, "").axes
    assert set(points(average)) == {
        (0.8, 0.8), (0.7, 0.9), (0.8, 0.5), (0.8, 0.6), (0.8, 0.7), (0.8, 0.3),
    }  # fmt: skip
    drawn = points(source)
    assert drawn[0.75, 0.8] == (to_hex("black"), "s", True)
    assert drawn[1.0, 0.5] == (to_hex("plum"), "o", True)
    assert drawn[1.0, 0.6] == (to_hex("slateblue"), "^", True)
    assert drawn[1.0, 0.7] == (to_hex("navy"), "D", True)
    assert drawn[0.625, 0.3] == (to_hex("slateblue"), "^", False)  # not cooled down


def test_one_line_joins_the_rates_of_a_method_and_the_base_is_dashed(grid: Path) -> None:
    ((_, group),) = groups(selected(load(grid)))
    panel = frontier(group, "").axes[1]
    drawn = [
        (list(line.get_xdata()), list(line.get_ydata()), line.get_linestyle())
        for line in panel.get_lines()
    ]
    assert ([0.75, 2.0], [0.8, 0.9], "-") in drawn
    assert ([0, 1], [0.1, 0.1], "--") in drawn and ([0.5, 0.5], [0, 1], "--") in drawn


def test_right_is_less_forgetting_in_both_panels(grid: Path) -> None:
    ((_, group),) = groups(selected(load(grid)))
    average, source = frontier(group, "").axes
    assert average.get_xlim()[0] < average.get_xlim()[1]
    assert source.get_xlim()[0] > source.get_xlim()[1]
    rates = [text.get_text() for text in source.texts]
    assert sorted(rates) == ["1e-3"] * 4 + ["4e-3"]  # every cooled-down model is told its rate


def test_all_measures_of_a_group_are_drawn_over_durations(grid: Path) -> None:
    ((_, group),) = groups(selected(load(grid)))
    figure = all_measures(group, "")
    assert len(figure.axes) == 3
    assert {(2.0, 0.3), (8.0, 0.5), (8.0, 0.6), (8.0, 0.7)} <= set(points(figure.axes[0]))
    assert points(figure.axes[2])[2.0, 0.625] == (to_hex("slateblue"), "^", False)


def test_gaps_at_equal_learning_have_intervals_where_items_are_kept(write: Write) -> None:
    """Both learn 0.2 to 0.8; along it LoRA keeps 0.1 more of every benchmark at each end."""
    rng = np.random.default_rng(0)

    def answers(share: float) -> list[float]:
        return list(rng.permutation([1.0] * round(400 * share) + [0.0] * round(400 * (1 - share))))

    tasks = ("hellaswag", "arc_challenge", "winogrande")
    for rate, learned, kept in ((1e-4, 0.2, 0.8), (1e-3, 0.8, 0.6)):
        for lower, method in ((0.1, "full"), (0.0, "lora")):
            for seed in range(3):
                scores = {task: answers(kept - lower) for task in tasks}
                one = axes(method, lr_peak=rate, seed=seed)
                folder = write(one, gsm8k=answers(learned), **scores)
    panel = at_equal_learning(selected(load(folder)), "").axes[0]
    (value,), ((low, high),) = forest(panel)
    assert value == pytest.approx(0.1) and 0 < low < 0.1 < high


def test_published_gaps_at_equal_learning_are_drawn_or_say_why_not(
    published: pd.DataFrame,
) -> None:
    """Code IFT, full against r=256, whose undominated points start at 0.385."""
    condition = published[(published.domain == "code") & (published.regime == "ift")]
    values, spans = forest(at_equal_learning(condition, "").axes[0])
    assert len(values) == 3 and spans == []  # of single runs
    learned, kept = (table(name) for name in ("S5", "S6"))
    levels = np.linspace(0.385, 0.497, 21)

    def along(label: str) -> np.ndarray:
        both = [(x, y) for (_, x), (_, y) in zip(learned[label], kept[label], strict=True)]
        best = [p for p in both if not any(q[0] >= p[0] and q[1] > p[1] for q in both)]
        xs, ys = zip(*sorted(best), strict=True)
        return np.interp(levels, xs, ys)

    assert values[2] == pytest.approx(np.mean(along("LoRA r=256") - along("full")))
    other = published[(published.domain == "math") & (published.regime == "ift")]
    assert "no shared level of learning" in texts(at_equal_learning(other, ""))


def test_hypervolumes_are_areas_below_the_frontier(grid: Path) -> None:
    """Beyond the base's 0.1. Full: 0.8 at 0.8 and 0.9 at 0.7. LoRA's single point each."""
    panel = hypervolumes(selected(load(grid)), "").axes[0]
    values, spans = forest(panel)
    assert values == pytest.approx([0.4 * 0.8, 0.5 * 0.8, 0.6 * 0.8, 0.7 * 0.8 + 0.1 * 0.7])
    assert spans == []  # of single runs


def test_an_area_is_that_of_the_union_of_rectangles() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 12))
    grid = (np.arange(400) + 0.5) / 400
    covered = (grid[:, None, None] < x) & (grid[None, :, None] < y)
    assert area(x, y) == pytest.approx(covered.any(axis=2).mean(), abs=0.01)


def test_a_figure_is_saved_as_pdf_and_png(published: pd.DataFrame, tmp_path: Path) -> None:
    pdf, png = save(over_durations(published, "target", "Fig. 1"), tmp_path / "new" / "fig1")
    assert pdf.read_bytes()[:5] == b"%PDF-" and png.read_bytes()[1:4] == b"PNG"


def test_without_target_scores_learning_is_the_targets_loss_on_a_reversed_axis(grid: Path) -> None:
    ((_, group),) = groups(selected(load(grid)))
    losses = 3 - 2 * group.target
    errors = {"nll_target_se": 0.5, "nll_target_delta": losses - 3, "nll_target_delta_se": 0.1}
    bare = group.assign(target=np.nan, nll_target=losses, **errors)
    by_score, by_loss = (frontier(models, "").axes for models in (group, bare))
    for score, loss in zip(by_score, by_loss, strict=True):
        expected = {(x, round(3 - 2 * y, 9)): look for (x, y), look in points(score).items()}
        assert {(x, round(y, 9)): look for (x, y), look in points(loss).items()} == expected
        assert loss.get_ylim()[0] > loss.get_ylim()[1]
    heights = [
        np.ptp(segment[:, 1])
        for bars in by_loss[0].containers
        for segment in bars.lines[2][-1].get_segments()
    ]
    assert heights == pytest.approx([0.2] * len(heights))  # paired: not 2 x 0.5
    assert len(all_measures(bare, "").axes) == 3


def test_a_group_without_target_scores_can_still_be_drawn(published: pd.DataFrame) -> None:
    group = published[published.dataset == "tulu_v2_mix"].assign(target=np.nan)
    assert len(all_measures(group, "Tülu").axes) == 1
    bare = group.assign(retention=np.nan)
    assert "no records" in texts(all_measures(bare, "")) and "no records" in texts(
        frontier(bare, "")
    )


def test_a_forest_has_every_comparison_and_the_mean_of_the_claim(write: Write) -> None:
    noise = np.random.default_rng(0).normal(scale=0.01, size=(3, 2))
    for seed in range(3):
        write(axes(seed=seed), gsm8k=0.6 + noise[seed, 0])
        folder = write(axes("lora", seed=seed), gsm8k=0.4 + noise[seed, 1])
    scores = load(folder)
    (verdict,) = judge(selected(scores), scores, [lora_learns_less])
    figure = draw_forest(verdict)
    values, spans = forest(figure.axes[0])
    assert values == [pytest.approx(verdict.effect)] and spans[0] == (verdict.low, verdict.high)
    (diamond,) = figure.axes[0].patches
    corners = diamond.get_xy()[:, 0]
    assert (corners.min(), corners.max()) == (verdict.low, verdict.high)
    assert "1 of 1 comparisons agree" in figure.axes[0].get_title(loc="left")
