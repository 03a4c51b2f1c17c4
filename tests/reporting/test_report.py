"""`python -m lvf.report` as its user meets it."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lvf.errors import UserError
from lvf.report import ReportConfig, quoted, report

from .conftest import Write, axes
from .test_claims_settings import benchmarked
from .worlds import ALL, SHARP


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "lvf.report", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def records(write: Write) -> Path:
    forgotten = {"hellaswag": 0.9, "arc_challenge": 0.8, "winogrande": 0.7}
    for domain, task in (("math", "gsm8k"), ("code", "humaneval")):
        where = {"domain": domain, "dataset": f"embedded_{domain}_ift"}
        base = axes("base", **where)
        write(base, nll_source=0.5, **{task: 0.1}, **forgotten)
        write(axes(**where), nll_source=2.0, **{task: 0.8}, **forgotten)
        folder = write(
            axes("lora", rank=8, target_modules=ALL, **where),
            nll_source=1.0,
            **{task: 0.5},
            **forgotten,
        )
    return folder


def test_the_command_writes_tables_and_figures_and_says_where(
    records: Path, tmp_path: Path
) -> None:
    where = "domain = 'math' and regime = 'ift'"
    done = run(tmp_path, f"records={records}", "out=report", f"where={where}")
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert written == [
        "claims.csv", "claims.md", "frontier-embedded-math_ift.png", "leaderboard.csv",
        "learning-embedded-math_ift.png", "models.csv", "summary.csv", "summary.md",
    ]  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) <= 60
    assert all(len(line) <= 120 for line in lines if not line.startswith("written to"))
    assert "written to report: " in done.stdout and all(name in done.stdout for name in written)
    assert "LoRA learns less: too few seeds to decide" in done.stdout
    summary = (tmp_path / "report" / "summary.md").read_text()
    assert "forgets less (source NLL): cannot be told from seed noise" in summary
    table = pd.read_csv(tmp_path / "report" / "summary.csv")
    assert list(table.label) == ["base", "LoRA r=8", "full"]
    assert list(table.target) == [0.1, 0.5, 0.8]
    assert "| full | 1e-3 | 8 | 0.800 ±.010 |" in (tmp_path / "report" / "summary.md").read_text()
    assert not (tmp_path / "report.log").exists() and not (tmp_path / "outputs").exists()


def test_the_claims_alone_are_judged_printed_and_written(records: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "claims", f"records={records}", "out=report", "export=true")
    assert done.returncode == 0, done.stderr
    assert "LoRA learns" in done.stdout and "too few seeds" in done.stdout
    written = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert written == ["claims.csv", "claims.md", "models.csv", "models.parquet", "scores.csv",
                       "scores.parquet"]  # fmt: skip
    table = pd.read_csv(tmp_path / "report" / "claims.csv").set_index("name")
    one = table.loc["lora_learns_less"]
    assert one.effect == pytest.approx(0.3) and pd.isna(one.low)
    assert one.verdict == "too few seeds" and len(one.records.split()) == 4
    text = (tmp_path / "report" / "claims.md").read_text()
    assert "| title a\\* | LoRA learns less than full finetuning | too few seeds | +0.300 |" in text


def test_diverged_and_failed_runs_are_told_and_left_out(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    (runs / "records").mkdir(parents=True)
    for path in records.glob("embedded_*"):
        shutil.copytree(path, runs / "records" / path.name)
    lost = next((runs / "records").glob("*lora*")).name
    (runs / lost).mkdir()
    (runs / lost / "status.json").write_text('{"state": "diverged", "error": "loss is nan"}')
    report(ReportConfig(records=str(runs / "records"), out=str(tmp_path / "o")))
    assert f"1 diverged: {lost} loss is nan" in capsys.readouterr().err
    assert lost not in set(pd.read_csv(tmp_path / "o" / "models.csv").run_id)
    assert list(pd.read_csv(tmp_path / "o" / "data_quality.csv").kind) == ["diverged"]


def test_an_empty_folder_names_the_command_that_makes_records(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert "no records" in done.stderr and "python -m lvf.train" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_lists_the_settings_without_heavy_imports(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0 and "records: runs/records" in done.stdout
    imported = "import sys, lvf.report; print({'pandas', 'matplotlib', 'torch'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "recods=elsewhere")
    assert done.returncode != 0 and "recods" in done.stderr


@pytest.mark.parametrize("where", ["nosuch = 1", "domain = 'math", "domain = 1.5.2"])
def test_a_condition_that_cannot_be_evaluated_is_quoted_with_the_columns(
    records: Path, tmp_path: Path, where: str
) -> None:
    config = ReportConfig(records=str(records), out=str(tmp_path / "out"), where=where)
    with pytest.raises(UserError) as caught:
        report(config)
    assert where in str(caught.value) and "lr_peak, seed" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_condition_that_leaves_nothing_is_an_error(records: Path, tmp_path: Path) -> None:
    config = ReportConfig(records=str(records), out=str(tmp_path), where="rank = 7")
    with pytest.raises(UserError, match="leaves none of 4"):
        report(config)


def test_a_condition_keeps_the_base_to_compare_with(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(ReportConfig(records=str(records), out=str(tmp_path / "o"), where="rank = 8"))
    table = pd.read_csv(tmp_path / "o" / "summary.csv")
    assert list(table.label) == ["base", "LoRA r=8"] * 2
    assert list(table.target_delta.dropna()) == pytest.approx([0.4, 0.4])
    assert "embedded-code_ift" in capsys.readouterr().out


def test_a_condition_stands_beside_the_verdicts_that_it_leads_to(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, where = tmp_path / "o", "domain = 'code'"
    report(ReportConfig(records=str(records), out=str(out), where=where, page=True))
    assert f"judged by the models with {where}, not by all" in capsys.readouterr().out
    assert f"Judged by the models with `{where}`" in (out / "claims.md").read_text()
    assert "<dt>only where</dt><dd>domain = &#39;code&#39;</dd>" in (out / "index.html").read_text()


def test_broken_files_are_told_and_do_not_stop_the_report(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (records / "torn.json").write_text("{")
    report(ReportConfig(records=str(records), out=str(tmp_path / "o"), where="domain = 'code'"))
    assert "torn.json" in capsys.readouterr().err


def test_benchmarks_alone_are_judged_and_the_report_says_that_it_needs_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmarked(tmp_path, 1, SHARP)
    records, out = str(tmp_path), tmp_path / "o"
    with pytest.raises(UserError, match="judge its benchmarks with python -m lvf.report claims"):
        report(ReportConfig(records=records, out=str(out)))
    report(ReportConfig(records=records, out=str(out), claims=True))
    told = pd.read_csv(out / "claims.csv").set_index("number").verdict
    assert sorted(told.index[told == "holds"]) == ["14a", "14b"]


def test_the_published_numbers_need_no_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, none = str(tmp_path / "o"), str(tmp_path / "none")
    report(ReportConfig(records=none, out=out, paper=True, where="regime = 'ift'"))
    text = capsys.readouterr().out
    assert "0.466" in text and "published records" in text and "tulu_v2_mix" in text
    assert (tmp_path / "o" / "frontier-paper-code_ift.png").exists()


def test_ours_stand_beside_the_published_numbers_of_one_condition(
    write: Write, tmp_path: Path
) -> None:
    ours = axes("lora", rank=16, scale="paper", model="llama2_7b", dataset="metamathqa")
    folder = write(ours, gsm8k=0.5)
    where = "dataset = 'metamathqa'"
    report(ReportConfig(records=str(folder), out=str(tmp_path / "o"), paper=True, where=where))
    table = pd.read_csv(tmp_path / "o" / "summary.csv")
    labels = set(table[table.group == "paper-math_ift"].label)
    assert {"LoRA r=16", "LoRA r=16 (published)"} <= labels


def test_conditions_need_no_second_quotes() -> None:
    assert quoted("out=x") == "out=x" and quoted("where=null") == "where=null"
    assert quoted("where=label = 'full'") == "where=\"label = 'full'\""
    assert quoted('where="rank = 8"') == 'where="rank = 8"'


def test_a_file_in_the_place_of_the_output_folder_is_refused(write: Write, tmp_path: Path) -> None:
    folder = write(axes("full"), run_id="m", gsm8k=[0.5] * 4)
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(UserError, match="taken is a file: name a folder"):
        report(ReportConfig(records=str(folder), out=str(tmp_path / "taken")))
    assert (tmp_path / "taken").read_text() == "mine"


def test_altered_checkpoints_alone_are_refused(write: Write, tmp_path: Path) -> None:
    folder = write(
        replace(axes("full"), strength=0.5), run_id="m", checkpoint="ba000400-strength0.5",
        gsm8k=[0.5] * 4,
    )  # fmt: skip
    with pytest.raises(UserError, match="no records of trained models .*altered checkpoints"):
        report(ReportConfig(records=str(folder), out=str(tmp_path / "out")))


def test_a_page_of_no_records_is_one_message(tmp_path: Path) -> None:
    words = [f"records={tmp_path}/none", "page=true", f"out={tmp_path}/out"]
    line = [sys.executable, "-m", "lvf.report", *words]
    ended = subprocess.run(line, capture_output=True, text=True)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1 and "none" in ended.stderr
