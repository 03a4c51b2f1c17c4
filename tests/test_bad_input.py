"""Bad input fails before any work with one message of cause and remedy, harming nothing."""

import json
import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.embedded.corpora import base_dir
from lvf.errors import UserError
from lvf.train import run
from lvf.training.trainer import check_optimizer


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{"query": f"What is {n} and 1?", "response": f"It is {n + 1}."} for n in range(80)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def settings(tmp_path: Path, *overrides: str) -> RunConfig:
    return compose(f"paths.runs={tmp_path}/runs", f"paths.shards={tmp_path}/shards", *overrides)


def refused(tmp_path: Path, words: str, *overrides: str) -> None:
    with pytest.raises(UserError, match=words):
        run(settings(tmp_path, *overrides))
    assert not list(tmp_path.glob("runs/*/exports")), "training had started"
    assert not list(tmp_path.glob("shards/*/recipe.json")), "bad shards were kept"


def test_a_rank_that_a_matrix_cannot_have(tmp_path: Path) -> None:
    refused(tmp_path, r"method.rank=256 exceeds .* at most 128", "method=lora_r256")


def test_a_missing_data_file(tmp_path: Path) -> None:
    refused(tmp_path, r"nowhere.jsonl does not exist", "data.train.path=/nowhere.jsonl")


def test_an_empty_data_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    refused(tmp_path, r"empty.jsonl is empty", f"data.train.path={empty}")


def test_a_wrong_column_is_named_with_those_there_are(tmp_path: Path, pairs: Path) -> None:
    words = r"no column question; there are query, response"
    splits = ["data.validation=null", "data.heldout=null"]
    refused(tmp_path, words, f"data.train.path={pairs}", "data.prompt_column=question", *splits)


def test_a_sequence_longer_than_the_models_context(tmp_path: Path) -> None:
    refused(tmp_path, r"training.seq_len=4096 exceeds the 512", "training.seq_len=4096")


def test_less_data_than_one_batch(tmp_path: Path, pairs: Path) -> None:
    words = r"fewer than the 400 of one batch"
    with pytest.raises(UserError, match=words):
        run(settings(tmp_path, f"data.train.path={pairs}", "training.global_batch_size=400"))
    assert not list(tmp_path.glob("runs/*/exports"))


def test_a_tokenizer_that_does_not_fit_the_model(tmp_path: Path) -> None:
    shape = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "small")
    AutoTokenizer.from_pretrained(base_dir()).save_pretrained(tmp_path / "tokenizer")
    refused(
        tmp_path,
        r"1280 tokens, more than the 100",
        f"model.path={tmp_path}/small",
        f"model.tokenizer={tmp_path}/tokenizer",
    )


def test_a_model_folder_without_a_model(tmp_path: Path) -> None:
    refused(tmp_path, r"no config.json in that folder", f"model.path={tmp_path}")


def test_programs_are_not_run_without_consent(tmp_path: Path) -> None:
    refused(tmp_path, r"evals.execute_code=true", "domain=code", "evals.execute_code=false")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "composer.loggers.file_logger.os.system",  # what an allowed module imports
        "lvf.training.metrics_log.json.dumps",
        "composer.loggersX.Logger",
        "torch.optim",
    ],
)
@pytest.mark.parametrize("group", ["optimizer", "logger.mine"])
def test_a_configuration_that_would_start_any_function(
    tmp_path: Path, group: str, target: str
) -> None:
    told = rf"{group[:6]}.*_target_='{target}' is not allowed.*TARGET_MODULES"
    refused(tmp_path, told, f"++{group}._target_={target}")
    refused(tmp_path, told, f"++{group}.inner.list=[{{deep: {{_target_: {target}}}}}]")


@pytest.mark.parametrize(
    "logger", ["~logger.jsonl._target_", "+logger.mine=3", "+logger.mine={a: 1}"]
)
def test_a_logger_without_a_class(tmp_path: Path, logger: str) -> None:
    refused(tmp_path, r"^logger\.\w+=.* has no _target_", logger)


@pytest.mark.parametrize("optimizer", ["~optimizer._target_", "+optimizer._partial_=true"])
def test_what_makes_no_optimiser(tmp_path: Path, optimizer: str) -> None:
    with pytest.raises(UserError, match="makes no torch.optim.Optimizer"):
        check_optimizer(settings(tmp_path, optimizer))


def test_the_optimisers_and_loggers_of_the_libraries_are_allowed(tmp_path: Path) -> None:
    for optimizer in ("torch.optim.SGD", "lion_pytorch.Lion", "composer.optim.DecoupledAdamW"):
        settings(tmp_path, f"optimizer._target_={optimizer}")
    for logger in ("jsonl", "tensorboard", "wandb", "mlflow", "none"):
        settings(tmp_path, f"logger={logger}")


def test_a_part_of_a_split(tmp_path: Path) -> None:
    part = "split='train[:10]'"
    refused(
        tmp_path, r"^data.train.split='train\[:10\]' .*data.max_documents=", f"data.train.{part}"
    )
    refused(tmp_path, r"^evals.source_text.split=.*evals.limit=", f"evals.source_text.{part}")
    assert settings(tmp_path, "data.train.split=train+test").data.train.split == "train+test"


def test_a_missing_benchmark_file_is_noticed_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gsm8k_test.jsonl is missing .* evals.benchmarks="):
        run(settings(tmp_path, f"evals.benchmarks={tmp_path}"))
    assert [path.name for path in tmp_path.glob("runs/*/*")] == ["refused.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir(mode=0o500)
    refused(tmp_path, r"cannot be written")


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("")
    with pytest.raises(UserError, match=r"shards cannot be written .* paths.shards="):
        run(settings(tmp_path))
