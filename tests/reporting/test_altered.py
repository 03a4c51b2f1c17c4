"""Checkpoints altered after training stand beside the others and never among them."""

from dataclasses import replace
from pathlib import Path

import pytest

from lvf.records.checkpoints import models
from lvf.records.store import load
from lvf.report import ReportConfig, report
from lvf.reporting.figures.tradeoff import frontier
from lvf.reporting.select.selection import Selection, select
from lvf.reporting.select.settings import altered_settings, settings
from lvf.reporting.select.variant import with_variants
from lvf.reporting.stats.contrast import Contrast
from lvf.reporting.stats.frontier import along_strength
from lvf.reporting.tables.results import strength_sentences

from .conftest import Write, axes


def selection(folder: Path) -> Selection:
    scores = load(folder)
    return select(with_variants(models(scores)), scores)


@pytest.fixture
def folder(write: Write) -> Path:
    """Full finetuning with strengths on the line from the base, and LoRA above that line.

    At a target score of 0.4 full finetuning, scaled back, has a source NLL of 2.0, LoRA 1.5.
    """
    write(axes("base"), gsm8k=[0.0] * 4, nll_source=[1.0] * 4)
    for seed in range(2):
        full, name = axes("full", seed=seed), f"full{seed}"
        write(full, run_id=name, gsm8k=[0.8] * 4, nll_source=[3.0] * 4)
        for s in (0.0, 0.5, 1.0, 1.2):
            write(
                replace(full, strength=s), run_id=name, checkpoint=f"ba000400-strength{s:g}",
                gsm8k=[0.8 * s] * 4, nll_source=[1 + 2 * s] * 4,
            )  # fmt: skip
        write(
            replace(full, truncate=16), run_id=name, checkpoint="ba000400-truncate16",
            gsm8k=[0.7] * 4, nll_source=[1.25] * 4,
        )  # fmt: skip
        here = axes("lora", seed=seed)
        folder = write(here, run_id=f"lora{seed}", gsm8k=[0.4] * 4, nll_source=[1.5] * 4)
    return folder


def test_altered_checkpoints_are_no_models_of_a_comparison(folder: Path) -> None:
    found = selection(folder)
    assert sorted(found.models.checkpoint) == ["ba000400"] * 4 + ["base"]
    assert not found.left_out
    rows = settings(found.models)
    assert dict(zip(rows.label, rows.seeds, strict=True)) == {"base": 1, "full": 2, "LoRA r=8": 2}


def test_altered_checkpoints_are_means_over_the_seeds_of_one_alteration(folder: Path) -> None:
    found = selection(folder)
    rows = altered_settings(found.altered)
    assert (rows.seeds == 2).all() and (rows.label == "full").all()
    table = rows[["strength", "truncate", "target", "nll_source", "nll_source_delta"]]
    assert table.astype(float).fillna(-1).to_numpy().tolist() == [
        pytest.approx(row) for row in (
            [0.0, -1, 0.0, 1.0, 0.0], [0.5, -1, 0.4, 2.0, 1.0], [1.0, -1, 0.8, 3.0, 2.0],
            [1.2, -1, 0.96, 3.4, 2.4], [-1, 16, 0.7, 1.25, 0.25],
        )
    ]  # fmt: skip
    assert found.altered.setting.nunique() == 5
    assert not set(found.altered.setting) & set(found.models.setting)


def test_the_same_alteration_of_two_domains_is_two_settings(folder: Path, write: Write) -> None:
    code = axes("full", domain="code", dataset="code")
    write(axes("base", domain="code", dataset="code"), run_id="cb", humaneval=[0.0] * 4)
    write(code, run_id="c", humaneval=[0.6] * 4, nll_source=[3.0] * 4)
    write(
        replace(code, strength=0.5), run_id="c", checkpoint="ba000400-strength0.5",
        humaneval=[0.3] * 4, nll_source=[2.5] * 4,
    )  # fmt: skip
    rows = altered_settings(selection(folder).altered)
    halves = rows[rows.strength == 0.5].set_index("domain")
    assert halves.target.round(9).to_dict() == {"math": 0.4, "code": 0.3}
    assert halves.seeds.to_dict() == {"math": 2, "code": 1}


def test_altered_checkpoints_whose_run_does_not_count_are_left_out(
    folder: Path, write: Write
) -> None:
    alone = replace(axes("full", seed=7), strength=0.5)
    write(alone, run_id="alone", checkpoint="ba000400-strength0.5", gsm8k=[0.1] * 4)
    assert "alone" not in set(selection(folder).altered.run_id)


def test_a_line_along_strength_is_compared_with_lines_along_training(folder: Path) -> None:
    found = selection(folder)
    gaps = {trained: gap for _, trained, gap in along_strength(found.models, found.altered)}
    assert gaps.keys() == {"full", "LoRA r=8"}
    lora, full = gaps["LoRA r=8"], gaps["full"]
    assert isinstance(lora, Contrast) and lora.value == pytest.approx(1.5 - 2.0)
    assert isinstance(full, Contrast) and full.value == pytest.approx(0.0)
    lines = strength_sentences(found.models, found.altered)
    assert len(lines) == 2 and "score −0.500" in " ".join(lines)


def test_the_frontier_draws_lines_along_strength_and_marks_of_cut_updates(folder: Path) -> None:
    found = selection(folder)
    panel = frontier(found.models, "", found.altered).axes[0]
    lines = [line for line in panel.get_lines() if line.get_linestyle() == "-."]
    assert [list(zip(*line.get_data(), strict=True)) for line in lines] == [
        [(1.0, 0.0), (2.0, 0.4), (3.0, 0.8), (pytest.approx(3.4), pytest.approx(0.96))]
    ]
    marks = {line.get_marker(): line.get_data() for line in panel.get_lines()}
    assert [list(part) for part in marks["$r_{16}$"]] == [[1.25], [0.7]]
    plain = frontier(found.models, "").axes[0]
    assert not [line for line in plain.get_lines() if line.get_linestyle() == "-."]


def test_the_report_has_a_table_of_altered_checkpoints(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(ReportConfig(records=str(folder), out=str(tmp_path / "out")))
    printed = capsys.readouterr().out
    assert "altered after training" in printed and "strength 0.5" in printed
    assert "truncate 16" in printed and "full along strength" in printed
    assert (tmp_path / "out" / "altered.csv").read_text().count("\n") == 6
    assert "strength" not in (tmp_path / "out" / "summary.md").read_text().split("```")[0]


def test_runs_with_replay_are_a_variant_of_their_own(write: Write) -> None:
    write(axes("full"), gsm8k=0.5)
    folder = write(axes("full", replay=0.05), gsm8k=0.4)
    rows = selection(folder).models
    assert dict(zip(rows.label, rows.role, strict=True)) == {
        "full": "main", "full replay 0.05": "ablation"
    }  # fmt: skip
