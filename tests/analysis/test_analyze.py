"""The command: a run's exports, a model from elsewhere, and what it prints."""

import subprocess
import sys
from pathlib import Path

import pytest

from lvf.analysis.table import matrices
from lvf.analyze import analyse_released, run
from lvf.config.compose import compose
from lvf.config.grid_schema import GridConfig, SweepConfig
from lvf.config.schema import ScaleConfig
from lvf.embedded.corpora import base_dir as packaged_base
from lvf.grid import run as grid
from lvf.records.schema import read_record
from lvf.runs.run_folder import TRAINED, open_run_folder, run_folder, write_json
from lvf.runs.sweep import runs_of
from tests.analysis.conftest import save_adapter

FACTS = {
    "cooled_down": True, "loss_tokens": 5, "train_flops": 6, "train_seconds": 7.0,
    "peak_memory_bytes": 8,
}  # fmt: skip


def test_every_export_of_a_run_gets_a_record_with_the_axes_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = compose(
        "+experiment=math_ift", "method.rank=2", "seed=3",
        f"paths.runs={tmp_path}/runs", f"paths.records={tmp_path}/records",
    )  # fmt: skip
    folder = run_folder(cfg)
    for batch, size in ((8, 0.01), (16, 0.02)):
        export = save_adapter(packaged_base(), folder.export(batch), size=size, r=2, lora_alpha=4)
        facts = FACTS | {"batch": batch, "tokens": 100 * batch, "duration": batch / 8}
        write_json(export / "export.json", facts)
    run(cfg)
    paths = sorted((tmp_path / "records").rglob("*.json"))
    records = [read_record(path) for path in paths]
    assert [one.checkpoint for one in records] == ["ba000008", "ba000016"]
    assert [one.axes.duration for one in records] == [1.0, 2.0]
    assert {(one.run_id, one.axes.seed, one.axes.rank) for one in records} == {
        (folder.path.name, 3, 2)
    }
    first, second = (one.metrics["frobenius_norm"].value for one in records)
    assert second == pytest.approx(2 * first)  # the same B, twice as large
    assert (matrices(paths[0]).singular_values.map(len) == 2).all()
    assert "q_proj" in capsys.readouterr().out


def test_one_line_analyses_what_is_trained_of_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = {"+experiment": ["math_ift"], "method.rank": [2], "seed": [0, 1, 2]}
    paths = [f"paths.runs={tmp_path}/runs", f"paths.records={tmp_path}/records"]
    sweep = SweepConfig(name="three", blocks={"seeds": axes}, overrides=paths)
    for cell in runs_of(sweep, [])[:2]:  # the third is not trained
        folder = open_run_folder(cell.cfg)
        export = save_adapter(packaged_base(), folder.export(8), r=2, lora_alpha=4)
        facts = FACTS | {"batch": 8, "tokens": 100, "duration": 1}
        write_json(export / "export.json", facts)
        folder.write_status(TRAINED)
    grid(GridConfig(scale=ScaleConfig(name="embedded"), sweep=sweep, analyze=True))
    records = [read_record(path) for path in (tmp_path / "records").rglob("*.json")]
    assert {(one.task, one.axes.seed) for one in records} == {("weights", 0), ("weights", 1)}
    assert "2 of 3 runs are trained and analysed" in capsys.readouterr().out


def test_the_line_takes_a_base_and_a_tuned_model(
    base_dir: Path, full_dir: Path, tmp_path: Path
) -> None:
    line = [sys.executable, "-m", "lvf.analyze", "+experiment=code_ift", f"model.path={base_dir}"]
    done = subprocess.run(
        [*line, f"tuned={full_dir}"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (path,) = (tmp_path / "runs" / "records").rglob("*.json")
    record = read_record(path)
    assert (record.axes.domain, record.axes.method, record.axes.lr_peak) == ("code", "full", None)
    assert "down_proj" in done.stdout and "matrix" in done.stderr
    refused = subprocess.run(
        [*line, "tuned=./nowhere"], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "tuned=./nowhere is no local folder" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_released_models_are_analysed_with_what_their_names_tell(tmp_path: Path) -> None:
    repository = tmp_path / "metamath-lora-rank-2-alpha-4"
    for epochs, size in ((4, 0.01), (16, 0.03)):
        save_adapter(packaged_base(), repository / f"epoch-{epochs}", size=size, r=2, lora_alpha=4)
    places = [f"paths.runs={tmp_path}/runs", f"paths.records={tmp_path}/records"]
    analyse_released(str(repository), ["scale=embedded", *places])
    records = [read_record(path) for path in (tmp_path / "records").rglob("*.json")]
    assert {one.source for one in records} == {"released"}
    norms = {one.axes.duration: one.metrics["frobenius_norm"].value for one in records}
    assert norms[16.0] == pytest.approx(3 * norms[4.0])  # the same B, three times as large
    assert {(one.axes.domain, one.axes.regime, one.axes.rank) for one in records} == {
        ("math", "ift", 2)
    }
