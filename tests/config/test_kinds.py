"""Numbers, paths and lists of a configuration are checked when it is composed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lvf.config.compose import compose
from lvf.config.schema import CONF_DIR
from lvf.errors import UserError

REFUSED = (
    "evals.limit=0", "evals.limit=-1", "evals.batch_size=0", "evals.humaneval.samples=0",
    "evals.humaneval.temperature=-0.1", "evals.humaneval.temperature=nan",
    "evals.humaneval.top_p=0", "evals.humaneval.top_p=1.5", "evals.humaneval.batch_rows=0",
    "evals.humaneval.timeout_seconds=0", "evals.lm_eval.gsm8k.num_fewshot=-1",
    "seed=-1", "seed=4294967296", "duration=0", "duration=inf", "measure_at=[0.5,-1]",
    "training.lr_peak=nan", "training.lr_peak=inf", "training.lr_peak=-1e-3",
    "training.lr_multiplier=0", "training.lr_by_method.lora=nan", "training.seq_len=1",
    "training.global_batch_size=-8", "training.packing_ratio=0", "training.grad_clip_norm=0",
    "training.attention_dropout=1", "method.rank=0", "method.alpha=-1", "method.dropout=1",
    "method.dropout=-0.1", "method.lr_ratio_b=0", "data.max_documents=-5",
    "data.split_documents=-1", "schedule.warmup=-1", "schedule.final_lr_ratio=-0.1",
    "schedule.cooldown=1.5", "runtime.num_workers=-1", "runtime.device_microbatch_size=0",
    "runtime.loss_chunk_tokens=0", "bench.steps=0", "bench.padding=1",
    "optimizer.weight_decay=nan", "optimizer.weight_decay=-1", "optimizer.betas=[0.9,-1]",
)  # fmt: skip


@pytest.mark.parametrize("setting", REFUSED)
def test_a_number_outside_of_its_range_is_refused_by_its_key_and_value(setting: str) -> None:
    key, value = setting.split("=")
    name = re.escape(key) + r"(\[\d\])?="
    with pytest.raises(UserError, match=rf"^{name}.* (must|is not)") as refusal:
        compose(setting)
    said = re.sub(name, "", str(refusal.value)).split(" must")[0]
    expected = [float(number) for number in value.strip("[]").split(",")]
    assert str(expected[-1]) in str([float(number) for number in said.strip("[]").split(",")])


@pytest.mark.parametrize(
    "setting",
    ["evals.humaneval.temperature=0", "evals.humaneval.top_p=1", "seed=4294967295", "method.rank=1",
     "method.dropout=0", "data.split_documents=0", "runtime.num_workers=0", "schedule.warmup=0"],
)  # fmt: skip
def test_the_ends_of_a_range_are_allowed(setting: str) -> None:
    compose(setting)


def test_all_wrong_numbers_are_named_together() -> None:
    with pytest.raises(UserError, match=r"seed=-1 .*\n(.*\n)*evals.limit=0 must be at least 1"):
        compose("seed=-1", "evals.limit=0")


PATHS = (
    "paths.runs", "paths.shards", "paths.shards_cache", "paths.records", "model.path",
    "model.tokenizer", "data.train.path", "data.validation.path", "evals.benchmarks",
    "evals.source_text.path", "released", "tuned",
)  # fmt: skip


@pytest.mark.parametrize("key", PATHS)
def test_a_tilde_is_the_home_folder(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    value = compose(f"{key}=~/a b")
    for name in key.split("."):
        value = getattr(value, name)
    assert str(value) == "/home/anna/a b"


def command(*words: str, verb: str = "train") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"lvf.{verb}", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=CONF_DIR.parent,
        env={name: value for name, value in os.environ.items() if name != "LVF_UNSET"},
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("evals.tasks=gsm8k", ("evals.tasks", "is not a ListConfig, list")),
        ("method.target_modules=q_proj", ("'q_proj' is neither a list of names", "all-linear")),
        ("data.train.path=[a,b]", ("data.train.path", "Cannot convert 'list' to string")),
        ("model.path=${oc.env:LVF_UNSET}", ("model.path: the environment variable LVF_UNSET",)),
        ("paths.runs=~/${oc.env:LVF_UNSET}", ("paths.runs: the environment variable LVF_UNSET",)),
        ("seed=-1", ("error: seed=-1 must be at least 0 and at most 4294967295",)),
    ],
)
def test_the_command_line_answers_with_one_message(setting: str, words: tuple[str, ...]) -> None:
    ended = command(setting)
    assert ended.returncode and "Traceback" not in ended.stderr
    assert all(part in ended.stderr for part in words), ended.stderr


def test_a_folder_of_own_settings_reaches_the_runs_of_a_sweep(tmp_path: Path) -> None:
    for group in ("method", "sweep"):
        (tmp_path / "my conf" / group).mkdir(parents=True)
    method = "defaults: [lora]\nname: mine\ntarget_modules: [q_proj]\n"
    (tmp_path / "my conf" / "method" / "mine.yaml").write_text(method)
    (tmp_path / "my conf" / "sweep" / "own.yaml").write_text(
        "name: own\nblocks: {all: {method: [mine], seed: [0, 1]}}\n"
    )
    ended = command(
        f"hydra.searchpath=['file://{tmp_path}/my conf']",
        "sweep=own",
        f'overrides=["paths.runs={tmp_path}/runs"]',
        verb="grid",
    )
    assert "2 runs, 0 done, 2 to do" in ended.stdout, ended.stderr


@pytest.mark.parametrize("tasks", [[], ["hellaswag"], ["hellaswag", "mmlu", "winogrande", "gsm8k"]])
def test_forgetting_may_be_measured_by_any_number_of_tasks(tasks: list[str]) -> None:
    for scale, first in (("embedded", ["gsm8k"]), ("small", ["mmlu", "gsm8k"])):
        domain = ["domain=chat"] if first[0] == "mmlu" else []
        cfg = compose(f"scale={scale}", *domain, f"evals.forgetting={json.dumps(tasks)}")
        rest = ["nll_target", "nll_validation", "nll_source", "kl_base"]
        assert cfg.evals.tasks == [*first, *(task for task in tasks if task not in first), *rest]


def test_held_out_text_is_taken_from_the_data_that_were_given() -> None:
    packaged = compose("data=embedded_math_ift").data
    assert packaged.validation and packaged.heldout
    own = compose("data=embedded_math_ift", "data.train.path=/data/mine.jsonl").data
    assert own.validation is None and own.heldout is None
    given = compose("data.train.path=/data/mine.jsonl", "data.heldout.path=/data/held.jsonl").data
    assert given.validation is None and given.heldout and given.heldout.path == "/data/held.jsonl"
    hub = compose("data=embedded_code_cpt", "regime=cpt", "data.train.path=some/corpus").data
    assert hub.validation is None and hub.heldout is None
