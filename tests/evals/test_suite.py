"""Scores are those of lm-eval's own command line on the same files."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lvf.config.evals_schema import LmEvalTaskConfig
from lvf.config.schema import RunConfig
from lvf.data.prompts import TEMPLATES, encode_examples, prompt_ids
from lvf.errors import UserError
from lvf.evals.measure import prompt_of_question
from lvf.evals.official import load_tasks, local_files, task_names
from lvf.evals.suite import check_task, run_lm_eval

TASKS = ("gsm8k", "arc_challenge", "hellaswag", "winogrande")
MMLU = "mmlu_social_sciences"  # twelve of the subjects, as a group
LIMIT, BATCH_SIZE, SHOTS = 20, 8, 2


@pytest.fixture(scope="module")
def native(
    model_dir: Path, benchmarks: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What lm-eval's command line writes: its results, and the samples of each task."""
    folder = tmp_path_factory.mktemp("native")
    evaluated = {"gsm8k": "test", "arc_challenge": "test"}
    members = [
        {
            "task": task,
            "dataset_path": "json",
            "dataset_name": None,
            "num_fewshot": SHOTS,
            "dataset_kwargs": {
                "data_files": {
                    split: str(benchmarks / f"{task}_{split}.jsonl")
                    for split in ("train", evaluated.get(task, "validation"))
                }
            },
        }
        for task in TASKS
    ]
    members += [
        {
            "task": f"mmlu_{subject.name}",
            "dataset_path": "json",
            "dataset_name": None,
            "num_fewshot": SHOTS,
            "dataset_kwargs": {
                "data_files": {split: str(subject / f"{split}.jsonl") for split in ("dev", "test")}
            },
        }
        for subject in sorted((benchmarks / "mmlu").iterdir())
    ]
    (folder / "group.yaml").write_text(yaml.safe_dump({"group": "local", "task": members}))
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"),
        *("--model_args", f"pretrained={model_dir},dtype=float32"),
        *("--tasks", str(folder / "group.yaml"), "--limit", str(LIMIT)),
        *("--batch_size", str(BATCH_SIZE), "--log_samples", "--output_path", str(folder / "out")),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=os.environ | offline)
    (results,) = (folder / "out").rglob("results_*.json")
    answer: dict[str, Any] = json.loads(results.read_text())
    for task in (member["task"] for member in members):
        (samples,) = (folder / "out").rglob(f"samples_{task}_*.jsonl")
        answer[task] = [json.loads(line) for line in samples.read_text().splitlines()]
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_item_scores_as_on_lm_evals_command_line(
    native: dict[str, Any],
    task: str,
    model: Any,
    tokenizer: Any,
    cfg: RunConfig,
    benchmarks: Path,
    tmp_path: Path,
) -> None:
    evals = replace(cfg.evals, limit=LIMIT, batch_size=BATCH_SIZE)
    definition = replace(evals.lm_eval[task], num_fewshot=SHOTS)
    side_file = tmp_path / "native.json.gz"
    metrics, about = run_lm_eval(model, tokenizer, definition, evals, benchmarks, side_file)

    theirs = native["results"][task]
    ours_alone = {"acc_mean_token", "ended_by_eos"} | (
        {"acc_norm"} if task == "winogrande" else set()
    )
    for name, metric in metrics.items():
        assert metric.n == LIMIT
        if name in ours_alone:
            continue
        key = name if "," in name else f"{name},none"
        assert metric.value == theirs[key]
        assert metric.stderr == pytest.approx(theirs[key.replace(",", "_stderr,")])
        metric_name, filter_name = key.split(",")
        items = [s for s in native[task] if s["filter"] == filter_name]
        items.sort(key=lambda sample: sample["doc_id"])
        assert metric.items == [item[metric_name] for item in items]
    assert {f"{name},none" if "," not in name else name for name in set(metrics) - ours_alone} == {
        key for key in theirs if "," in key and "_stderr" not in key
    }
    assert about["task_version"] is not None
    assert about["task_hash"] == native["task_hashes"][task]
    ours = json.loads(gzip.decompress(side_file.read_bytes()))["samples"][task]
    for mine, official in zip(_in_order(ours), _in_order(native[task]), strict=True):
        assert mine["prompt_hash"] == official["prompt_hash"]
        assert [pair[0] for pair in mine["arguments"]] == [
            pair["arg_0"] for pair in official["arguments"].values()
        ]
        if task == "gsm8k":
            assert mine["resps"] == official["resps"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["arc_challenge", "hellaswag", "winogrande"])
def test_the_choice_by_mean_token_likelihood_is_that_of_brute_force(
    native: dict[str, Any],
    task: str,
    model: Any,
    tokenizer: Any,
    cfg: RunConfig,
    benchmarks: Path,
) -> None:
    evals = replace(cfg.evals, limit=LIMIT, batch_size=BATCH_SIZE)
    definition = replace(evals.lm_eval[task], num_fewshot=SHOTS)
    metrics, _ = run_lm_eval(model, tokenizer, definition, evals, benchmarks)
    truth = []
    for sample in _in_order(native[task]):
        means = []
        for pair, (likelihood, _) in zip(
            sample["arguments"].values(), sample["filtered_resps"], strict=True
        ):
            whole = tokenizer(pair["arg_0"] + pair["arg_1"])["input_ids"]
            num_tokens = len(whole) - len(tokenizer(pair["arg_0"])["input_ids"])
            means.append(float(likelihood) / num_tokens)
        doc = sample["doc"]
        right = int(doc["answer"]) - 1 if task == "winogrande" else int(sample["target"])
        truth.append(float(means.index(max(means)) == right))
    assert metrics["acc_mean_token"].items == truth
    assert metrics["acc_mean_token"].value == pytest.approx(sum(truth) / LIMIT)
    assert set(metrics) == {"acc", "acc_norm", "acc_mean_token"}
    if task == "winogrande":  # the same end behind either option: there is nothing to normalise
        assert metrics["acc_norm"].items == metrics["acc"].items == truth


@pytest.mark.slow
def test_a_group_scores_the_mean_over_its_tasks(
    native: dict[str, Any], model: Any, tokenizer: Any, cfg: RunConfig, benchmarks: Path
) -> None:
    official = cfg.evals.lm_eval["mmlu"]
    files = {split: f"mmlu/{{subset}}/{split}.jsonl" for split in ("dev", "test")}
    definition = replace(official, task=MMLU, num_fewshot=SHOTS, files=files)
    evals = replace(cfg.evals, batch_size=BATCH_SIZE)
    metrics, about = run_lm_eval(model, tokenizer, definition, evals, benchmarks)
    tasks = [f"mmlu_{subject.name}" for subject in (benchmarks / "mmlu").iterdir()]
    assert len(tasks) == 12
    items = []
    for task in tasks:
        theirs = [sample["acc"] for sample in _in_order(native[task])]
        assert metrics[f"acc,{task}"].items == theirs
        assert metrics[f"acc,{task}"].value == native["results"][task]["acc,none"]
        items += theirs
    means = [native["results"][task]["acc,none"] for task in tasks]
    assert metrics["acc"].value == pytest.approx(sum(means) / 12)
    assert sorted(metrics["acc"].items or []) == sorted(means)
    assert metrics["acc,weighted_by_size"].value == pytest.approx(sum(items) / len(items))
    assert len({len(native[task]) for task in tasks}) > 1  # else both means would be one
    assert about["task_version"] == 1.0


def test_mmlu_has_its_57_subjects_and_names_a_file_that_is_missing(
    cfg: RunConfig, tmp_path: Path
) -> None:
    assert len(task_names("mmlu")) == 57
    with pytest.raises(UserError, match="dev-00000-of-00001.parquet is missing in .*/mmlu/"):
        local_files(cfg.evals.lm_eval["mmlu"], tmp_path)


def test_only_shots_need_the_file_that_they_come_from(
    cfg: RunConfig, benchmarks: Path, tmp_path: Path
) -> None:
    validation = "hellaswag_validation.jsonl"
    shutil.copy(benchmarks / validation, tmp_path)
    task = cfg.evals.lm_eval["hellaswag"]
    cache = tmp_path / "cache"
    cache.mkdir()
    loaded = load_tasks(replace(task, num_fewshot=0), tmp_path, str(cache))
    rows = (tmp_path / validation).read_text().splitlines()
    assert len(list(loaded["tasks"]["hellaswag"].eval_docs)) == len(rows) > 1
    with pytest.raises(UserError, match="hellaswag_train.jsonl is missing"):
        load_tasks(replace(task, num_fewshot=1), tmp_path, str(cache))


def _in_order(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(samples, key=lambda sample: (sample["filter"], sample["doc_id"]))


def test_a_changed_file_is_read_anew_even_if_its_time_did_not_change(
    model: Any, tokenizer: Any, cfg: RunConfig, benchmarks: Path, tmp_path: Path
) -> None:
    definition = cfg.evals.lm_eval["winogrande"]
    validation = tmp_path / "winogrande_validation.jsonl"
    (tmp_path / "winogrande_train.jsonl").write_text(
        (benchmarks / "winogrande_train.jsonl").read_text()
    )
    validation.write_text((benchmarks / validation.name).read_text())
    before, _ = run_lm_eval(model, tokenizer, definition, cfg.evals, tmp_path)
    moment = validation.stat().st_mtime_ns
    swapped = {'"answer": "1"': '"answer": "2"', '"answer": "2"': '"answer": "1"'}
    lines = validation.read_text().splitlines()
    flipped = [line.replace(old, swapped[old]) for line in lines for old in swapped if old in line]
    validation.write_text("\n".join(flipped) + "\n")
    os.utime(validation, ns=(moment, moment))
    after, _ = run_lm_eval(model, tokenizer, definition, cfg.evals, tmp_path)
    assert before["acc"].items is not None
    assert after["acc"].items == [1 - item for item in before["acc"].items]


def test_zero_shots_need_no_training_file(
    model: Any, tokenizer: Any, cfg: RunConfig, benchmarks: Path
) -> None:
    official = cfg.evals.lm_eval["gsm8k"]
    alone = replace(official, files={"test": official.files["test"]}, num_fewshot=0)
    evals = replace(cfg.evals, limit=2)
    with_train, _ = run_lm_eval(
        model, tokenizer, replace(official, num_fewshot=0), evals, benchmarks
    )
    assert run_lm_eval(model, tokenizer, alone, evals, benchmarks)[0] == with_train
    with pytest.raises(UserError, match="2 shots"):
        run_lm_eval(model, tokenizer, replace(alone, num_fewshot=2), evals, benchmarks)


def test_a_task_that_lm_eval_does_not_have_is_a_user_error(
    model: Any, tokenizer: Any, cfg: RunConfig
) -> None:
    unknown = LmEvalTaskConfig(task="no_such_task", num_fewshot=0)
    with pytest.raises(UserError, match="no_such_task"):
        run_lm_eval(model, tokenizer, unknown, cfg.evals, None)


@pytest.mark.parametrize("name", ["a[1]", "{b}", "c=d", "e *?", "f'g\"h"])
def test_the_name_of_a_benchmark_folder_changes_no_score(
    name: str, model: Any, tokenizer: Any, cfg: RunConfig, benchmarks: Path, tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for file in benchmarks.glob("winogrande_*.jsonl"):
        shutil.copy(file, folder)
    definition = cfg.evals.lm_eval["winogrande"]
    metrics, about = run_lm_eval(model, tokenizer, definition, cfg.evals, folder)
    assert (metrics, about) == run_lm_eval(model, tokenizer, definition, cfg.evals, benchmarks)


def checked(cfg: RunConfig, task: str, folder: Path, tokenizer: Any, shots: int = 0) -> None:
    definition = replace(cfg.evals.lm_eval[task], num_fewshot=shots)
    check_task(definition, cfg.evals, folder, tokenizer, 1024, prompt_of_question(cfg))


@pytest.mark.parametrize(
    ("task", "column"),
    [
        ("gsm8k", "question"), ("gsm8k", "answer"), ("arc_challenge", "choices"),
        ("arc_challenge", "answerKey"), ("hellaswag", "endings"), ("winogrande", "option2"),
        ("gsm8k_training_prompt", "question"),
    ],
)  # fmt: skip
def test_a_missing_column_is_noticed_without_a_model(
    task: str, column: str, tokenizer: Any, cfg: RunConfig, benchmarks: Path, tmp_path: Path
) -> None:
    checked(cfg, task, benchmarks, tokenizer)
    for file in benchmarks.glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        kept = ({key: value for key, value in row.items() if key != column} for row in rows)
        (tmp_path / file.name).write_text("\n".join(map(json.dumps, kept)))
    with pytest.raises(UserError, match=f"no prompts of .* can be made .*{column}"):
        checked(cfg, task, tmp_path, tokenizer)


def test_more_shots_than_examples_are_refused(
    tokenizer: Any, cfg: RunConfig, benchmarks: Path
) -> None:
    with pytest.raises(UserError, match="25 shots .*as many examples as shots"):
        checked(cfg, "gsm8k", benchmarks, tokenizer, shots=25)  # of 24


def test_prompts_that_do_not_fit_are_refused_before_and_counted_after(
    model: Any, tokenizer: Any, cfg: RunConfig, benchmarks: Path
) -> None:
    definition = replace(cfg.evals.lm_eval["gsm8k"], num_fewshot=20)
    asked = [(definition, cfg.evals, benchmarks, tokenizer)]
    with pytest.raises(UserError, match="20 shots do not fit in the 300 tokens"):
        check_task(*asked[0], 300)
    longest = model.config.max_position_embeddings
    evals = replace(cfg.evals, limit=5)
    model.config.max_position_embeddings = 300
    try:
        metrics, _ = run_lm_eval(model, tokenizer, definition, evals, benchmarks)
    finally:
        model.config.max_position_embeddings = longest
    assert metrics["prompts_cut"].value == 5
    plain, _ = run_lm_eval(model, tokenizer, replace(definition, num_fewshot=0), evals, benchmarks)
    assert "prompts_cut" not in plain


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_the_training_prompt_of_an_item_is_that_of_the_training(
    template: str, model: Any, tokenizer: Any, cfg: RunConfig, benchmarks: Path, tmp_path: Path
) -> None:
    cfg.data = replace(
        cfg.data, template=template, text_column=None, prompt_column="q", response_column="a"
    )
    side = tmp_path / "side.json.gz"
    evals = replace(cfg.evals, limit=4)
    task = cfg.evals.lm_eval["gsm8k_training_prompt"]
    metrics, _ = run_lm_eval(
        model, tokenizer, task, evals, benchmarks, side, prompt_of_question(cfg)
    )
    with gzip.open(side, "rt") as file:
        (samples,) = json.load(file)["samples"].values()
    before, after = TEMPLATES[template]
    for sample in samples:
        asked = sample["arguments"][0][0]
        question, answer = sample["doc"]["question"], sample["doc"]["answer"]
        assert asked == before.format(prompt=question)
        pair = (asked, after.format(response=answer))
        ((ids, in_loss),) = encode_examples(tokenizer, [pair], tokenizer.eos_token_id)
        num_prompt = int(in_loss.argmax())
        assert ids[:num_prompt].tolist() == prompt_ids(tokenizer, asked)[:num_prompt]
    assert {"exact_match,strict-match", "exact_match,flexible-extract"} <= metrics.keys()


@pytest.mark.parametrize("ends", [True, False])
def test_the_share_of_answers_that_the_model_ends_itself(
    ends: bool, model: Any, tokenizer: Any, cfg: RunConfig, benchmarks: Path
) -> None:
    always = tokenizer.eos_token_id if ends else 5

    def forced(_module: Any, _inputs: Any, logits: Any) -> Any:
        logits = logits * 0
        logits[..., always] = 1
        return logits

    hook = model.lm_head.register_forward_hook(forced)
    try:
        evals = replace(cfg.evals, limit=4)
        definition = replace(cfg.evals.lm_eval["gsm8k"], num_fewshot=0)
        metrics, _ = run_lm_eval(model, tokenizer, definition, evals, benchmarks)
    finally:
        hook.remove()
    assert (metrics["ended_by_eos"].value, metrics["ended_by_eos"].n) == (float(ends), 4)
