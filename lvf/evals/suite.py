"""Run lm-eval's official tasks on a loaded model, on local files or the hub's."""

from __future__ import annotations

import functools
import json
import logging
import random
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvf.config import EvalsConfig, LmEvalTaskConfig
from lvf.errors import UserError
from lvf.results.records import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASK_NAME = re.compile(rb"""^["']?task["']?:[ \t]*["']?([\w.-]+)["']?[ \t]*(#.*)?$""", re.M)
SPLITS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
BOOTSTRAP_ITERS = 1000  # for a metric without a closed form; the configured tasks have one


def run_lm_eval(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: LmEvalTaskConfig,
    evals: EvalsConfig,
    benchmarks: Path | None,
    native_json: Path | None = None,
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Score a model on one task as lm-eval's command line does: its prompts, filters and seeds.

    Args:
        model: Causal language model in eval mode, on the device where it is to run.
        tokenizer: Its tokenizer.
        task: Which task, how many shots, and its local files.
        evals: Takes `batch_size` and `limit`.
        benchmarks: Folder of the local files; None loads the task's data from the hub.
        native_json: Where lm-eval's own result goes, samples included but for their prompts, which
            repeat the shots for every choice.

    Returns:
        Metrics, named as by lm-eval (`acc`, `exact_match,strict-match`) with items in the order of
        the file, and what the task's definition says about itself.

    Raises:
        UserError: lm-eval has no such task, or its data cannot be loaded.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    _quieten_and_speed_up()
    # A cache of its own: `datasets` keys its shared one by modification times.
    with tempfile.TemporaryDirectory() as cache:
        loaded = _load_task(task, benchmarks, cache)
        (official,) = loaded["tasks"].values()
        _seed(official)
        lm = HFLM(
            pretrained=model,  # type: ignore[arg-type]
            tokenizer=tokenizer,  # type: ignore[arg-type]
            batch_size=evals.batch_size,
            softmax_dtype="float32",  # in bf16, scores of whole answers are multiples of 0.5
        )
        results: Any = evaluate(lm, loaded, limit=evals.limit, bootstrap_iters=BOOTSTRAP_ITERS)
    if native_json is not None:
        _write_native(native_json, results)
    about = {"task": task.task, "task_version": results["versions"].get(task.task)}
    return _metrics(results["results"][task.task], results["samples"][task.task]), about


def _load_task(task: LmEvalTaskConfig, benchmarks: Path | None, cache: str) -> dict[str, Any]:
    """Build the official task with its data source replaced, which lm-eval does for groups."""
    from lm_eval.tasks import TaskManager

    overrides: dict[str, Any] = {"task": task.task, "num_fewshot": task.num_fewshot}
    if benchmarks is not None:
        files = {split: str(benchmarks / name) for split, name in task.files.items()}
        overrides |= {"dataset_path": "json", "dataset_name": None}
        overrides["dataset_kwargs"] = {"data_files": files, "cache_dir": cache}
        if "train" not in files:
            if task.num_fewshot:
                raise UserError(f"{task.task}: {task.num_fewshot} shots need a file for `train`")
            overrides["fewshot_split"] = None
        # lm-eval opens every split that a definition names, also those that it does not need.
        overrides |= {key: None for key, split in SPLITS.items() if split not in files}
    # Indexing all of lm-eval's 14,000 task files takes 15 s, the one folder 0.1 s.
    manager = TaskManager(include_path=official_folder(task.task), include_defaults=False)
    try:
        return dict(manager.load([{"group": "lvf", "task": [overrides]}]))
    except (OSError, ValueError) as error:  # missing on the hub, no network; broken local file
        where = f"the files {task.files} in {benchmarks}" if benchmarks else "the hub"
        raise UserError(
            f"the data of lm-eval's {task.task} cannot be read from {where}: {error}. Check the "
            "network, or set evals.benchmarks to a folder with local files."
        ) from error


def official_folder(task: str) -> Path:
    """Folder within lm-eval that defines a task.

    Raises:
        UserError: there is no such task (names of groups are not tasks).
    """
    folder = _official_folders().get(task)
    if folder is None:
        raise UserError(
            f"lm-eval has no task {task!r}: `python -m lm_eval ls subtasks` lists its tasks; a "
            "group of tasks is measured by naming each of them in evals.lm_eval"
        )
    return folder


@functools.cache
def _official_folders() -> dict[str, Path]:
    import lm_eval.tasks

    folders: dict[str, Path] = {}
    for path in sorted(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")):
        for match in TASK_NAME.finditer(path.read_bytes()):
            folders.setdefault(match[1].decode(), path.parent)
    return folders


def _seed(official: Any) -> None:
    """Set the seeds that lm-eval's command line sets by default."""
    import numpy as np
    import torch
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    official.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


@functools.cache
def _quieten_and_speed_up() -> None:
    import lm_eval.utils

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # lm-eval compiles the same few templates anew for every item and every shot.
    templates: Any = lm_eval.utils.env
    templates.from_string = functools.lru_cache(maxsize=256)(templates.from_string)


def _metrics(scores: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Metric]:
    metrics = {}
    for key, value in scores.items():
        name, comma, filter_name = key.partition(",")
        if not comma or name.endswith("_stderr"):
            continue
        items = [sample[name] for sample in samples if sample["filter"] == filter_name]
        stderr = scores.get(f"{name}_stderr,{filter_name}")
        metrics[name if filter_name == "none" else key] = Metric(
            value=float(value),
            stderr=float(stderr) if isinstance(stderr, float) else None,
            n=len(items),
            items=[float(item) for item in items] if _are_numbers(items) else None,
        )
    return metrics


def _are_numbers(items: list[Any]) -> bool:
    return all(isinstance(item, int | float) for item in items)


def _write_native(path: Path, results: dict[str, Any]) -> None:
    from lm_eval.utils import handle_non_serializable

    samples = {
        name: [{key: sample[key] for key in sample if key != "arguments"} for sample in rows]
        for name, rows in results["samples"].items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results | {"samples": samples}, default=handle_non_serializable))
