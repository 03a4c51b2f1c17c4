"""The four recipes of CONTRIBUTING.md, each followed once: add something by one file and run it."""

import json
from pathlib import Path

import hydra
import pytest
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lvf.config.compose import to_run_config
from lvf.config.data_schema import SourceConfig
from lvf.config.schema import CONF_DIR, RunConfig
from lvf.data.sources import local_files
from lvf.embedded.corpora import base_dir
from lvf.records.schema import Record, read_record
from lvf.train import run

QUICK = [
    "duration=1",
    "data.max_documents=48",
    "evals.limit=4",
    "evals.tasks=[hellaswag,nll_target]",
]


def add(folder: Path, group: str, name: str, content: dict) -> None:
    path = folder / "conf" / group / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(content))


def composed(folder: Path, *overrides: str) -> RunConfig:
    places = [f"paths.runs={folder}/runs", f"paths.shards={folder}/shards"]
    search = f"hydra.searchpath=[file://{folder}/conf]"
    everything = [search, *QUICK, *places, f"paths.records={folder}/records", *overrides]
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return to_run_config(hydra.compose("train", overrides=everything))


def measured(cfg: RunConfig) -> dict[tuple[str, str], Record]:
    run(cfg)
    records = [read_record(path) for path in Path(cfg.paths.records).rglob("*.json")]
    return {(r.axes.method_name, r.task): r for r in records}


@pytest.mark.slow
def test_a_method_is_added_by_one_file(tmp_path: Path) -> None:
    content = {
        "defaults": ["lora"],
        "name": "attention_only",
        "target_modules": ["q_proj", "v_proj"],
    }
    add(tmp_path, "method", "attention_only", content)
    records = measured(composed(tmp_path, "method=attention_only"))
    record = records["attention_only", "nll_target"]
    assert record.axes.target_modules == ["q_proj", "v_proj"]
    # q and v of 4 layers, 128 wide, rank 8
    assert record.training["trainable_parameters"] == 4 * 2 * 8 * (128 + 128)


@pytest.mark.slow
def test_a_data_set_is_added_by_one_file(tmp_path: Path) -> None:
    rows = [{"ask": f"What follows {n}?", "reply": f"{n + 1} follows."} for n in range(200)]
    (tmp_path / "numbers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    content = {
        "name": "numbers",
        "train": {"path": str(tmp_path / "numbers.jsonl")},
        "split_documents": 8,
        "prompt_column": "ask",
        "response_column": "reply",
        "template": "question_answer",
    }
    add(tmp_path, "data", "numbers", content)
    overrides = ["data=numbers", "data.max_documents=null", "training.seq_len=64"]
    records = measured(composed(tmp_path, *overrides))
    trained, base = records["lora_r8", "nll_target"], records["base", "nll_target"]
    assert trained.axes.dataset == "numbers"
    assert trained.metrics["nll_per_token"].value < base.metrics["nll_per_token"].value


@pytest.mark.slow
def test_a_benchmark_is_added_by_one_file(tmp_path: Path) -> None:
    (test_file,) = local_files(SourceConfig(path="embedded:benchmarks/arc_challenge_test")) or ()
    content = {
        "defaults": ["embedded", "_self_"],
        "lm_eval": {
            "easy": {"task": "arc_easy", "num_fewshot": 0, "files": {"test": test_file.name}}
        },
    }
    add(tmp_path, "evals", "with_arc_easy", content)
    records = measured(composed(tmp_path, "evals=with_arc_easy", "evals.tasks=[easy]"))
    assert records["lora_r8", "easy"].metrics["acc"].n == 4


@pytest.mark.slow
def test_a_model_is_added_by_one_file(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_dir())
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    add(tmp_path, "model", "tiny", {"name": "tiny", "path": str(tmp_path / "tiny")})
    records = measured(composed(tmp_path, "model=tiny", "method=full"))
    assert records["full", "hellaswag"].axes.model == "tiny"
