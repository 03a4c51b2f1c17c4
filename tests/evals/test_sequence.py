"""The second run of a sequence is measured on both tasks, and its table shows what is left."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lvf.config.compose import compose, first_of
from lvf.config.schema import RunConfig
from lvf.data.shards import prepare
from lvf.evals.likelihood import nll
from lvf.models.load import load_export
from lvf.records.checkpoints import models
from lvf.records.schema import Record, read_record
from lvf.records.store import load
from lvf.reporting.select.selection import Selection, select
from lvf.reporting.select.variant import with_variants
from lvf.runs.run_folder import run_folder
from lvf.runs.run_id import run_id
from lvf.train import run


def composed(folder: Path, *overrides: str) -> RunConfig:
    places = [f"paths.{name}={folder}/{name}" for name in ("runs", "shards", "records")]
    few = ["data.max_documents=48", "duration=1", "sequence.first.duration=1"]
    few += ["+sequence.first.data.max_documents=64", "evals.limit=4", "evals.batch_size=4"]
    return compose("+experiment=sequence", *few, *places, *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maths, then code, by LoRA with the first adapter merged; both runs measured."""
    folder = tmp_path_factory.mktemp("sequence")
    cfg = composed(folder, "method=lora")
    first = first_of(cfg)
    assert first is not None
    first.evals = replace(cfg.evals, tasks=first.evals.tasks)
    run(first)
    run(cfg)
    return folder


def records_of(folder: Path, cfg: RunConfig) -> dict[tuple[str, str], Record]:
    """By domain and task."""
    paths = (folder / "records" / run_id(cfg)).glob("*.json")
    return {(one.axes.domain, one.task): one for one in map(read_record, paths)}


def selection(folder: Path) -> Selection:
    scores = load(folder / "records")
    return select(with_variants(models(scores)), scores)


@pytest.mark.slow
def test_the_second_run_is_measured_on_both_tasks(folder: Path) -> None:
    cfg = composed(folder, "method=lora")
    first = first_of(cfg)
    assert first is not None
    second, before = records_of(folder, cfg), records_of(folder, first)
    assert {task for domain, task in second if domain == "math"} == {"gsm8k", "nll_target"}
    assert {task for domain, task in second if domain == "code"} == set(cfg.evals.tasks)
    assert {one.axes.first_run for one in second.values()} == {run_id(first)}
    assert {one.axes.first_adapter for one in second.values()} == {"merged"}
    after = second["math", "gsm8k"]
    assert after.axes.dataset == before["math", "gsm8k"].axes.dataset
    assert after.settings == before["math", "gsm8k"].settings
    assert len(after.metrics["exact_match,strict-match"].items or []) == 4


@pytest.mark.slow
def test_the_loss_on_the_first_task_is_that_of_the_second_model_on_the_firsts_texts(
    folder: Path,
) -> None:
    cfg = composed(folder, "method=lora")
    first = first_of(cfg)
    assert first is not None
    lines = prepare(first).heldout.read_text().splitlines()[:4]
    pairs = [(row["prompt"], row["response"]) for row in map(json.loads, lines)]
    model, tokenizer = load_export(run_folder(cfg).finished_exports()[-1], cfg.model)
    expected = nll(model.eval(), tokenizer, pairs, cfg.training.seq_len, 4)["nll_per_token"].value
    found = records_of(folder, cfg)["math", "nll_target"].metrics["nll_per_token"].value
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_table_has_the_records_numbers_and_no_comparison_has_the_second_run(
    folder: Path,
) -> None:
    cfg = composed(folder, "method=lora")
    first = first_of(cfg)
    assert first is not None
    found = selection(folder)
    assert set(found.models.run_id[found.models.method != "base"]) == {run_id(first)}
    assert not found.left_out
    (row,) = found.sequences.to_dict("records")
    second, before = records_of(folder, cfg), records_of(folder, first)
    strict = "exact_match,strict-match"
    assert row["first_before"] == before["math", "gsm8k"].metrics[strict].value
    assert row["first_after"] == second["math", "gsm8k"].metrics[strict].value
    assert row["second"] == second["code", "humaneval"].metrics["pass@1"].value
    source = second["code", "nll_source"].metrics["nll_per_token"].value
    base = next(
        read_record(path)
        for path in (folder / "records").glob("*code_ift-base-*/*nll_source*.json")
    )
    assert row["nll_source"] == source
    assert row["nll_source_delta"] == pytest.approx(source - base.metrics["nll_per_token"].value)
