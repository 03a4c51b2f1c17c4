"""The whole road on real data: GSM8K's training split, real benchmarks, real tokenizers."""

from pathlib import Path

import pytest

from lvf.config.compose import compose
from lvf.records.schema import Record, read_record
from lvf.train import run
from tests.real_models import convert_stories260k, random_llama_with_llama2_tokenizer

FILES = {
    "hellaswag": "hellaswag_validation.jsonl",
    "arc_challenge": "arc_challenge_test.jsonl",
    "winogrande": "winogrande_validation.jsonl",
    "gsm8k": "gsm8k_test.jsonl",
}
SPLITS = {"arc_challenge": "test", "gsm8k": "test"}


def trained_and_measured(
    tmp_path: Path, shared_data: Path, model: Path, method: str, *more: str
) -> dict[tuple[str, str], Record]:
    files = [
        f"evals.lm_eval.{task}.files={{{SPLITS.get(task, 'validation')}: {name}}}"
        for task, name in FILES.items()
    ]
    dropped = [f"~evals.lm_eval.{task}.files.train" for task in FILES]
    cfg = compose(
        "+experiment=math_ift",
        f"method={method}",
        "model.name=real",
        f"model.path={model}",
        "data=metamathqa",
        f"data.train.path={shared_data}/train/math_ift.jsonl",
        "data.split_documents=32",
        "data.max_documents=400",
        "duration=1",
        "training.seq_len=512",
        f"evals.benchmarks={shared_data}/benchmarks",
        f"evals.source_text.path={shared_data}/text/wikitext2_test.txt",
        "evals.limit=8",
        "evals.tasks=[gsm8k,humaneval,hellaswag,arc_challenge,winogrande,nll_target,nll_source]",
        "evals.humaneval.file=null",
        "evals.humaneval.samples=2",
        "evals.humaneval.temperature=0.2",
        f"paths.runs={tmp_path}/runs",
        f"paths.shards={tmp_path}/shards",
        f"paths.records={tmp_path}/records",
        *files,
        *dropped,
        *more,
    )
    run(cfg)
    records = [read_record(path) for path in Path(cfg.paths.records).rglob("*.json")]
    return {(record.axes.method, record.task): record for record in records}


def check(records: dict[tuple[str, str], Record], method: str) -> None:
    metrics = {key: record.metrics for key, record in records.items()}
    before = metrics["base", "nll_target"]["nll_per_token"]
    after = metrics[method, "nll_target"]["nll_per_token"]
    assert after.value < before.value - 0.1
    for task in ("hellaswag", "arc_challenge", "winogrande"):
        assert 0 <= metrics[method, task]["acc"].value <= 1
        assert metrics[method, task]["acc"].n == 8
    assert metrics[method, "gsm8k"]["exact_match,strict-match"].n == 8
    assert metrics[method, "humaneval"]["pass@1"].value == 0  # no such model can program


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_really_trained_llama_learns_from_gsm8k(
    tmp_path: Path, shared_data: Path, method: str
) -> None:
    model = convert_stories260k(shared_data / "models" / "stories260K", tmp_path / "stories")
    check(trained_and_measured(tmp_path, shared_data, model, method), method)


@pytest.mark.slow
def test_a_llama_behind_the_llama_2_tokenizer_learns_from_gsm8k(
    tmp_path: Path, shared_data: Path
) -> None:
    model = random_llama_with_llama2_tokenizer(shared_data, tmp_path / "random")
    records = trained_and_measured(tmp_path, shared_data, model, "full", "training.lr_peak=1e-3")
    check(records, "full")
