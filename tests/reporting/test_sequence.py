"""What is left of a first task after a second: the table's numbers are those of the records."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lvf.records.checkpoints import models
from lvf.records.store import load
from lvf.report import ReportConfig, report
from lvf.reporting.select.selection import Selection, select
from lvf.reporting.select.variant import with_variants
from lvf.reporting.tables.sequence import sequence_markdown, sequence_table

from .conftest import Write, axes

CODE = {"domain": "code", "dataset": "embedded_code_ift"}
SOURCE = {"hellaswag": 0.5, "arc_challenge": 0.5, "winogrande": 0.5}


def selection(folder: Path) -> Selection:
    scores = load(folder)
    return select(with_variants(models(scores)), scores)


@pytest.fixture
def folder(write: Write) -> Path:
    """Maths, then code: full finetuning keeps a quarter of maths, LoRA with both adapters half."""
    write(axes("base"), gsm8k=[0.0] * 4, nll_source=[1.0] * 4, **SOURCE)
    folder = write(axes("base", **CODE), humaneval=[0.0] * 4, nll_source=[1.0] * 4, **SOURCE)
    for seed in range(2):
        for method, adapters in (("full", [None]), ("lora", ["merged", "kept"])):
            name = f"maths-{method}{seed}"
            own = axes(method, seed=seed)
            write(own, run_id=name, gsm8k=[1.0, 1.0, 1.0, 1.0 - seed], nll_target=[0.1] * 4,
                  nll_source=[1.5] * 4)  # fmt: skip
            for adapter in adapters:
                later = f"code-{method}-{adapter}{seed}"
                there = replace(own, first_run=name, first_adapter=adapter)
                left = [1.0, 0.0, 0.0, 0.0] if method == "full" else [1.0, 1.0, 0.0, 0.0]
                write(there, run_id=later, gsm8k=left, nll_target=[0.4] * 4)
                write(replace(there, **CODE), run_id=later, humaneval=[1.0, 1.0, 0.0, 0.0],
                      nll_source=[2.0] * 4, **SOURCE)  # fmt: skip
    return folder


def test_each_method_has_a_row_with_the_means_over_its_seeds(folder: Path) -> None:
    rows = selection(folder).sequences
    assert list(zip(rows.label, rows.first_adapter.fillna("–"), strict=True)) == [
        ("full", "–"), ("LoRA r=8", "kept"), ("LoRA r=8", "merged"),
    ]  # fmt: skip
    assert (rows.seeds == 2).all()
    assert (rows.first_task == "math ift").all() and (rows.second_task == "code ift").all()
    full, kept, _ = rows.to_dict("records")
    # The first runs' scores are 1 and 3/4; after the second 1/4 of each, and 1/2 for LoRA.
    assert full["first_before"] == pytest.approx(0.875)
    assert full["first_after"] == 0.25 and kept["first_after"] == 0.5
    assert full["first_change"] == pytest.approx(-0.625)
    assert full["second"] == 0.5
    assert full["retention"] == 0.5 and full["retention_delta"] == 0.0
    assert full["nll_source_before"] == 1.5 and full["nll_source"] == 2.0
    assert full["nll_source_delta"] == 1.0
    assert full["first_nll_before"] == pytest.approx(0.1)
    assert full["first_nll_after"] == pytest.approx(0.4)


def test_the_error_of_the_change_pairs_items_and_counts_seeds(folder: Path) -> None:
    full = selection(folder).sequences.iloc[0]
    # Changes by item: (0, -1, -1, -1) and (0, -1, -1, 0): item errors 1/4 and sqrt(1/12);
    # means -3/4 and -1/2: variance 1/32, over two seeds.
    items = ((0.25 + (1 / 12) ** 0.5) / 2) ** 2
    assert full.first_change_se == pytest.approx((items + 1 / 32 / 2) ** 0.5)


def test_second_runs_take_no_part_in_comparisons(folder: Path) -> None:
    found = selection(folder)
    assert set(found.models.checkpoint[found.models.method != "base"]) == {"ba000400"}
    assert not found.models.run_id.str.startswith("code-").any()
    assert not found.left_out


def test_a_second_run_without_the_records_of_the_first_has_no_row(write: Write) -> None:
    there = axes("full", first_run="elsewhere")
    folder = write(there, run_id="later", gsm8k=[0.5] * 4)
    assert selection(write(axes("full"), gsm8k=[1.0] * 4)).sequences.empty
    assert folder.is_dir()


def test_the_tables_and_files_show_what_is_left(folder: Path, tmp_path: Path) -> None:
    rows = selection(folder).sequences
    screen = Console(width=100, record=True, file=(tmp_path / "screen").open("w"))
    screen.print(sequence_table(rows))
    shown = screen.export_text()
    for text in ("math ift,", "code ift", "LoRA r=8", "kept", "merged", "0.875", "−0.625"):
        assert text in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert "| math ift | code ift | full | – | 2 | 0.875" in sequence_markdown(rows)
    report(ReportConfig(records=str(folder), out=str(tmp_path / "report")))
    summary = (tmp_path / "report" / "summary.md").read_text()
    assert "## Two tasks, one after the other" in summary
    written = (tmp_path / "report" / "sequences.csv").read_text().splitlines()
    assert len(written) == 1 + len(rows)
