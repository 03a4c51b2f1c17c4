"""Table cells against values worked out by hand."""

import math
from pathlib import Path

import pandas as pd
import pytest

from lvf.records.store import load, load_paper
from lvf.reporting.select.selection import chosen_learning_rate, selected
from lvf.reporting.select.settings import duration_text, groups, learning_rate_text, settings
from lvf.reporting.tables.results import (
    print_run,
    summary_markdown,
    summary_numbers,
)

from .conftest import Write, axes


def only_group(folder: Path) -> pd.DataFrame:
    ((_, group),) = groups(selected(load(folder)))
    return group


def markdown_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def three_seeds(write: Write) -> Path:
    """A base, three seeds of LoRA at one rate, one of full with an early checkpoint."""
    write(axes("base"), gsm8k=0.1, nll_source=0.5)
    for seed, score in enumerate((0.3, 0.5, 0.7)):
        write(axes("lora", lr_peak=5e-3, seed=seed), gsm8k=score, nll_source=0.75)
    write(axes(duration=2.0, cooled_down=False), run_id="full", checkpoint="ba1", gsm8k=0.4)
    return write(axes(), run_id="full", checkpoint="ba4", gsm8k=0.8, nll_source=1.5)


def test_a_cell_is_the_mean_over_seeds_with_item_and_seed_noise(three_seeds: Path) -> None:
    row = settings(only_group(three_seeds)).set_index("label").loc["LoRA r=8"]
    assert row.seeds == 3 and row.target == pytest.approx(0.5)
    assert (row.target_low, row.target_high) == (0.3, 0.7)
    # variance over seeds 0.04, three of them; every seed's item noise is 0.01 on the same items
    assert row.target_se == pytest.approx(math.sqrt(0.04 / 3 + 0.01**2))
    assert row.target_delta == pytest.approx(0.4)
    assert row.target_delta_se == pytest.approx(math.sqrt(0.04 / 3 + 2 * 0.01**2))


def test_a_cell_with_an_unmeasured_seed_has_no_mean(write: Write) -> None:
    write(axes(seed=0), gsm8k=0.3, nll_source=1.0)
    row = settings(only_group(write(axes(seed=1), gsm8k=0.5))).iloc[0]
    assert row.target == pytest.approx(0.4) and math.isnan(row.nll_source)


def test_both_matches_of_gsm8k_and_the_share_that_ends_stand_side_by_side(write: Write) -> None:
    for where, strict, flexible, ended in ((axes("base"), 0.1, 0.3, 0.5), (axes(), 0.4, 0.5, 0.9)):
        scores = {
            "exact_match,strict-match": strict,
            "exact_match,flexible-extract": flexible,
            "ended_by_eos": ended,
        }
        folder = write(where, gsm8k=scores)
    group = only_group(folder)
    head, _, base, full = markdown_rows(summary_markdown(group, "title"))
    assert "strict match" in head[3] and head[5:9:2] == ["flexible match ↑", "ended by itself"]
    assert base[3::2] == ["0.100 ±.010", "0.300 ±.010", "0.500 ±.010"]
    assert full[4::2] == ["+0.300 ±.014", "+0.200 ±.014", "+0.400 ±.014"]
    assert "flexible" in summary_markdown(group, "title")


def test_markdown_has_every_cell_and_difference(three_seeds: Path) -> None:
    text = summary_markdown(only_group(three_seeds), "title")
    head, _, *rows = markdown_rows(text)
    target = "generated maths problems (GSM8K format) strict match (target) ↑"
    assert head[:6] == ["method", "rate", "epochs", "seeds", target, "Δ"]
    assert rows == [
        ["base", "–", "–", "1", "0.100 ±.010", "–", "0.500 ±.010", "–"],
        ["LoRA r=8", "5e-3", "8", "3", "0.500 ±.116", "+0.400 ±.116", "0.750 ±.010",
         "+0.250 ±.014"],
        ["full", "1e-3", "2*", "1", "0.400 ±.010", "+0.300 ±.014", "–", "–"],
        ["full", "1e-3", "8", "1", "0.800 ±.010", "+0.700 ±.014", "1.500 ±.010", "+1.000 ±.014"],
    ]  # fmt: skip
    assert "* measured before the end of its schedule" in text


def test_csv_has_numbers_with_range_and_unit(three_seeds: Path) -> None:
    table = summary_numbers(only_group(three_seeds), "embedded-math_ift")
    lora = table[table.label == "LoRA r=8"].iloc[0]
    assert (lora.group, lora.duration_unit, lora["rank"]) == ("embedded-math_ift", "epochs", 8)
    assert lora.target_high == 0.7 and lora.nll_source_delta == pytest.approx(0.25)


def test_the_end_of_a_run_shows_its_checkpoints_beside_the_base(
    three_seeds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [path for path in three_seeds.rglob("*.json") if "lora" not in str(path)]
    print_run(paths)
    text = capsys.readouterr().out
    assert "base" in text and "2* epochs" in text and "8 epochs" in text
    assert "0.800 ±.010" in text and "+0.300 ±.014" in text


def test_groups_are_named_by_condition_and_by_data_where_that_is_not_enough(write: Write) -> None:
    write(axes(), gsm8k=0.1)
    folder = write(axes(domain="code", dataset="c"), humaneval=0.1)
    assert [name for name, _ in groups(selected(load(folder)))] == [
        "embedded-code_ift",
        "embedded-math_ift",
    ]
    folder = write(axes(dataset="other"), gsm8k=0.1)
    names = [name for name, _ in groups(selected(load(folder)))]
    assert "embedded-math_ift-tiny-other" in names and len(set(names)) == 3


def test_the_rate_of_the_lowest_validation_loss_is_chosen(write: Write) -> None:
    for rate, losses in ((1e-3, (1.0, 3.0)), (2e-3, (1.8, 1.9)), (4e-3, (0.5, 5.0))):
        for seed, loss in enumerate(losses):
            folder = write(axes(lr_peak=rate, seed=seed), nll_validation=loss, gsm8k=0.1)
    assert chosen_learning_rate(only_group(folder)) == 2e-3
    assert chosen_learning_rate(only_group(write(axes(lr_peak=8e-3), gsm8k=0.1))) is None


def test_the_papers_table_s5_comes_out_as_printed() -> None:
    published = dict(groups(selected(load_paper())))
    rows = markdown_rows(summary_markdown(published["paper-code_ift"], "S5 and S6"))[2:]
    scores = {(row[0], row[2]): (row[3].split()[0], row[5].split()[0]) for row in rows}
    assert scores["LoRA r=16", "1"] == ("0.197", "0.653")
    assert scores["LoRA r=64", "16"] == ("0.405", "0.510")
    assert scores["LoRA r=256", "4"] == ("0.498", "0.631")
    assert scores["full", "8"] == ("0.497", "0.446")
    assert scores["base", "–"] == ("0.138", "0.671")
    cpt = markdown_rows(summary_markdown(published["paper-math_cpt"], "S3 and S4"))[2:]
    assert ["full", "–", "20B", "0.293 ±.013"] in [row[:4] for row in cpt]
    assert ["LoRA r=64", "–", "0.25B", "0.163 ±.010"] in [row[:4] for row in cpt]


def test_rates_and_durations_are_written_as_people_do() -> None:
    assert [learning_rate_text(x) for x in (4e-3, 1.2e-2, 1e-5, math.nan)] == [
        "4e-3",
        "1.2e-2",
        "1e-5",
        "–",
    ]
    texts = [duration_text(x, True) for x in (8, 0.5, 800e3, 50e6, 0.25e9, 20e9)]
    assert texts == ["8", "0.5", "800k", "50M", "0.25B", "20B"]
    assert duration_text(4e9, False) == "4B*"
