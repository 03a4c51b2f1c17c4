"""The user's own line, from a fresh folder to records, and started again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lvf.config.compose import compose
from lvf.records.schema import read_record
from lvf.train import run

QUICK = ["duration=1", "data.max_documents=48", "evals.limit=4"]


def run_line(folder: Path, *more: str) -> str:
    line = [sys.executable, "-m", "lvf.train", "+experiment=math_ift", "method=lora", *QUICK]
    done = subprocess.run([*line, *more], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
def test_the_line_gives_records_and_started_again_does_nothing(tmp_path: Path) -> None:
    first = run_line(tmp_path)
    assert "fresh" in first and "next " in first
    records = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("records/*/*.json")}
    tasks = {path.name.split("--")[1] for path in records}
    forgetting = {"hellaswag", "arc_challenge", "winogrande"}
    likelihoods = {"nll_target", "nll_validation", "nll_source", "kl_base"}
    assert tasks == {"gsm8k", *forgetting, *likelihoods}
    # Of the finetuned model and of the base, which does not diverge from itself.
    assert len(records) == 2 * len(tasks) - 1
    weights = next(tmp_path.rglob("adapter_model.safetensors"))
    written = weights.stat().st_mtime_ns
    second = run_line(tmp_path)
    assert "trained already" in second
    assert {path: path.stat().st_mtime_ns for path in records} == records
    assert weights.stat().st_mtime_ns == written
    run_line(tmp_path, "evals.tasks=[nll_target]", "evals.limit=3")
    assert len(list(tmp_path.rglob("records/*/*.json"))) == len(records) + 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["method=full", "method.rank=2"])
@pytest.mark.parametrize("experiment", ["math_ift", "code_ift", "math_cpt", "code_cpt"])
def test_every_experiment_goes_from_corpus_to_records(
    tmp_path: Path, experiment: str, method: str
) -> None:
    duration = "8192" if experiment.endswith("cpt") else "1"  # tokens, or epochs
    cfg = compose(
        f"+experiment={experiment}",
        method,
        f"duration={duration}",
        "trunk.branch=false",
        "data.max_documents=64",
        "evals.limit=4",
        f"paths.runs={tmp_path}/runs",
        f"paths.shards={tmp_path}/shards",
        f"paths.records={tmp_path}/records",
    )
    run(cfg)
    records = [read_record(path) for path in (tmp_path / "records").rglob("*.json")]
    trained = {r.task: r for r in records if r.axes.method != "base"}
    assert set(trained) == set(cfg.evals.tasks)
    record = trained["nll_target"]
    assert record.axes.cooled_down and record.axes.duration == float(duration)
    if experiment.endswith("cpt"):
        assert record.training["tokens"] == 8192  # exact: rows are full


def test_a_run_of_a_multirun_that_is_refused_lets_the_others_run(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "lvf.train", "-m", "+experiment=math_ift", "method=lora"]
    ranks = "method.rank=100000,4"  # the first is refused
    done = subprocess.run(
        [*line, *QUICK, ranks, "runtime.measure=false"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "method.rank=100000 exceeds" in done.stderr and "1 of the runs failed" in done.stderr
    files = tmp_path.glob("runs/embedded-*/status.json")
    states = [json.loads(path.read_text())["state"] for path in files]
    assert states == ["trained"]


def test_a_start_by_torchrun_names_the_setting_that_replaces_it(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    line = ["--nproc-per-node=2", "-m", "lvf.train", "+experiment=math_ift", "method=lora"]
    done = subprocess.run(
        [*torchrun, *line, *QUICK], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "without torchrun, with runtime.nproc_per_node=2" in done.stderr
