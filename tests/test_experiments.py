"""Every experiment and method beyond the main ones trains and measures on the embedded scale."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.data.shards import prepare
from lvf.planning.shapes import num_trainable_parameters, shape_of
from lvf.records.schema import Record, read_record
from lvf.runs.checkpoints import by_age, state_file
from lvf.runs.run_folder import RunFolder, open_run_folder
from lvf.train import run
from lvf.training.trainer import train

FEW = ("data.max_documents=48", "evals.limit=4", "evals.batch_size=4", "duration=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiments")


def composed(folder: Path, *overrides: str) -> RunConfig:
    places = (f"paths.runs={folder}/runs", f"paths.shards={folder}/shards")
    return compose(*FEW, *places, f"paths.records={folder}/records", *overrides)


def measured(cfg: RunConfig) -> dict[str, Record]:
    run(cfg)
    read = [read_record(path) for path in Path(cfg.paths.records).rglob("*.json")]
    return {one.task: one for one in read if one.axes.method_name == cfg.method.name}


def trained(cfg: RunConfig) -> RunFolder:
    folder = open_run_folder(cfg)
    train(cfg, prepare(cfg), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("+experiment=regularisation", "method=full", "training.attention_dropout=0.1"),
        ("+experiment=targets", "method=lora_mlp"),
        ("+experiment=optimizers", "optimizer=adamw", "method=full"),
        ("+experiment=lr_sensitivity", "domain=math", "method=lora_v1"),
        ("+experiment=alpha_lr", "method=lora_alpha", "method.alpha=1"),
        ("+experiment=without_regret", "training.global_batch_size=4"),
    ],
    ids=lambda words: words[0].split("=")[1],
)
def test_an_ablation_goes_from_corpus_to_records(folder: Path, words: tuple[str, ...]) -> None:
    cfg = composed(folder, *words, "evals.tasks=[nll_target]")
    record = measured(cfg)["nll_target"]
    assert record.axes.method_name == cfg.method.name and record.axes.alpha == cfg.method.alpha
    shape = shape_of(cfg.model)
    assert shape is not None
    assert record.training["trainable_parameters"] == num_trainable_parameters(shape, cfg.method)


@pytest.mark.slow
def test_tulu_is_measured_hot_on_the_way(folder: Path) -> None:
    cfg = composed(folder, "+experiment=tulu", "duration=3", "measure_at=[1,2]", "method=full",
                   "evals.tasks=[nll_target]")  # fmt: skip
    run(cfg)
    read = [read_record(path) for path in (folder / "records").glob("*chat_ift-full*/*.json")]
    assert {(r.axes.duration, r.axes.cooled_down) for r in read} == {
        (1, False), (2, False), (3, True)
    }  # fmt: skip


@pytest.mark.slow
def test_the_curve_of_pass_at_k_is_sampled_from_the_run(folder: Path) -> None:
    few = ("evals.humaneval.samples=4", "evals.limit=2", "evals.humaneval.max_length_tokens=200")
    cfg = composed(folder, "+experiment=pass_at_k", *few, "duration=1")
    assert measured(cfg)["humaneval"].metrics["pass@1"].n == 2


@pytest.mark.slow
def test_throughput_times_twenty_steps_of_real_rows_and_keeps_no_weights(folder: Path) -> None:
    cfg = compose(
        "+experiment=throughput",
        "training.global_batch_size=2",
        "data.max_documents=60",
        "method.rank=2",
        f"paths.runs={folder}/runs",
        f"paths.shards={folder}/shards",
        f"paths.records={folder}/timed",
    )
    run(cfg)
    (path,) = (folder / "timed").rglob("*.json")
    record = read_record(path)
    assert record.task == "throughput" and record.training["batch"] == 20
    assert record.metrics["tokens_per_second"].n == 16
    assert record.settings["data"] == "real"
    assert not list((folder / "runs" / record.run_id).rglob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dora", "pissa", "lora_embeddings"])
def test_a_relative_of_lora_continues_from_its_checkpoint_as_if_it_had_not_stopped(
    folder: Path, tmp_path: Path, method: str
) -> None:
    words = (f"method={method}", "method.rank=2", "runtime.checkpoint_every_batches=2")
    shards = f"paths.shards={folder}/shards"
    whole = trained(composed(tmp_path / "whole", *words, shards))
    cfg = composed(tmp_path / "broken", *words, shards)
    stopped = trained(cfg)
    last = by_age(stopped.checkpoints)[-1]
    state = torch.load(state_file(last), weights_only=False)["state"]["model"]
    assert any("modules_to_save" in name for name in state) == (method == "lora_embeddings")
    for path in [last, *stopped.finished_exports()]:
        path.rename(tmp_path / path.name)
    resumed = trained(cfg)
    assert "resumed at batch" in resumed.status()["started_from"]
    found, expected = (
        load_file(one.finished_exports()[-1] / "adapter_model.safetensors")
        for one in (resumed, whole)
    )
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
