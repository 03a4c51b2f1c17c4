"""Run lm-eval's official tasks on a loaded model, and turn its answers into metrics."""

from __future__ import annotations

import functools
import gzip
import json
import math
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lvf.config.evals_schema import EvalsConfig, LmEvalTaskConfig
from lvf.errors import UserError
from lvf.evals.official import load_tasks
from lvf.log import silence_own_handlers
from lvf.records.schema import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BOOTSTRAP_ITERS = 1000  # for a metric without a closed form; the configured tasks have one
MAX_GEN_TOKS = 256  # lm-eval's default (HFLM.max_gen_toks)
Request = tuple[str, str]
"""Context and continuation."""


def run_lm_eval(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: LmEvalTaskConfig,
    evals: EvalsConfig,
    benchmarks: Path | None,
    native_json: Path | None = None,
    prompt_of: Callable[[str], str] | None = None,
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Score a model on one task as lm-eval's command line does: its prompts, filters and seeds.

    Multiple choice has three scores, each an accuracy of the choice that is best by: `acc`, the
    continuation's summed log-likelihood; `acc_norm`, that divided by its length (in characters, as
    lm-eval has it; in bytes where lm-eval lacks it); `acc_mean_token`, that divided by its tokens
    as lm-eval encodes it. The last is how MosaicML's Gauntlet, and so the paper, scores (section
    3.3). On WinoGrande both take the probability of the same end of a sentence behind either option
    (partial evaluation; the Gauntlet's `schema`), so that the three agree.

    Args:
        model: Causal language model in eval mode, on the device where it is to run.
        tokenizer: Its tokenizer.
        task: Which task or group, how many shots, and its local files.
        evals: Takes `batch_size` and `limit`.
        benchmarks: Folder of the local files; None loads the task's data from the hub.
        native_json: Where lm-eval's own result goes as it is, samples and prompts included, packed
            by gzip, since prompts repeat their shots for every choice.
        prompt_of: Makes a prompt of a question, where `task.training_prompt` is set.

    Returns:
        Metrics, named as by lm-eval (`acc`, `exact_match,strict-match`) with items in the order of
        the file, and what the definition says about itself. Of a group: the mean over its tasks,
        whose scores are the items; `NAME,weighted_by_size`, lm-eval's own mean; `NAME,TASK`.

    Raises:
        UserError: lm-eval has no such task, or its data cannot be loaded.
    """
    from lm_eval.evaluator import evaluate

    from lvf.evals.language_model import CountingLM

    _quieten_and_speed_up()
    with tempfile.TemporaryDirectory() as cache:
        loaded = load_tasks(task, benchmarks, cache, prompt_of)
        _seed(loaded["tasks"])
        lm = CountingLM(model, tokenizer, evals.batch_size)
        results: Any = evaluate(lm, loaded, limit=evals.limit, bootstrap_iters=BOOTSTRAP_ITERS)
    if native_json is not None:
        _write_native(native_json, results)
    by_task = {
        name: _metrics(official, results["results"][name], results["samples"][name], lm.num_tokens)
        for name, official in loaded["tasks"].items()
    }
    metrics = _of_group(by_task) if len(by_task) > 1 else next(iter(by_task.values()))
    if lm.num_generated:
        share = lm.num_ended / lm.num_generated
        metrics["ended_by_eos"] = Metric(value=share, n=lm.num_generated)
    if lm.num_cut:
        print(f"{task.task}: {lm.num_cut:,} prompts exceed the context and lose their beginning")
        metrics["prompts_cut"] = Metric(value=lm.num_cut)
    versions = {results["versions"].get(name) for name in by_task}
    return metrics, {
        "task": task.task,
        "task_version": versions.pop() if len(versions) == 1 else sorted(versions, key=str),
        "task_hash": _task_hash(results["samples"]),
    }


FIRST_ITEMS = 8
"""Items of a task that are made into prompts before a training."""


def check_task(
    task: LmEvalTaskConfig,
    evals: EvalsConfig,
    benchmarks: Path | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    prompt_of: Callable[[str], str] | None = None,
) -> None:
    """Make the first prompts of a task, so that what would fail after a training fails before it.

    Args:
        task: As of `run_lm_eval`; so are `evals`, `benchmarks`, `tokenizer` and `prompt_of`.
        evals: Takes `limit`.
        benchmarks: Folder of the local files.
        tokenizer: The model's.
        max_length: Tokens of its context.
        prompt_of: Makes a prompt of a question.

    Raises:
        UserError: a column is missing, there are fewer examples than shots, or none of the first
            prompts fits in the context.
    """
    _quieten_and_speed_up()
    with tempfile.TemporaryDirectory() as cache:
        try:
            loaded = load_tasks(task, benchmarks, cache, prompt_of)["tasks"]
            _seed(loaded)
            for official in loaded.values():
                official.build_all_requests(limit=min(evals.limit or FIRST_ITEMS, FIRST_ITEMS))
        except UserError:
            raise
        except Exception as error:  # whatever templates and functions of tasks raise
            files = f"the files {task.files} in {benchmarks}" if benchmarks else "the hub"
            raise UserError(
                f"no prompts of {task.task} with {task.num_fewshot} shots can be made of {files}: "
                f"{type(error).__name__}: {error}. Give files with the columns of the official "
                "ones and at least as many examples as shots, set num_fewshot lower, or leave "
                "the task out of evals.tasks"
            ) from error
        for name, official in loaded.items():
            room = max_length - _num_new_tokens(official)
            prompts = [instance.arguments[0] for instance in official.instances]
            if all(len(tokenizer(prompt)["input_ids"]) > room for prompt in prompts):
                raise UserError(
                    f"the prompts of {name} with {task.num_fewshot} shots do not fit in the "
                    f"{max_length} tokens of the model's context, of which {max_length - room} are "
                    "for the answer: they would lose their beginning. Set a lower num_fewshot "
                    "(evals.lm_eval.TASK.num_fewshot), or leave the task out of evals.tasks"
                )


def _num_new_tokens(official: Any) -> int:
    """Tokens that lm-eval keeps free for an answer; the choices of a question are short."""
    if official.OUTPUT_TYPE != "generate_until":
        return 0
    return int((official.config.generation_kwargs or {}).get("max_gen_toks", MAX_GEN_TOKS))


def _seed(tasks: dict[str, Any]) -> None:
    """Set the seeds that lm-eval's command line sets by default."""
    import torch
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    for official in tasks.values():
        official.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


@functools.cache
def _quieten_and_speed_up() -> None:
    import lm_eval.utils

    silence_own_handlers()  # of lm-eval and of datasets, which it imports
    # lm-eval compiles the same few templates anew for every item and every shot.
    templates: Any = lm_eval.utils.env
    templates.from_string = functools.lru_cache(maxsize=256)(templates.from_string)


def _metrics(
    official: Any,
    scores: dict[str, Any],
    samples: list[dict[str, Any]],
    num_tokens: dict[Request, int],
) -> dict[str, Metric]:
    """Those of lm-eval, and of multiple choice the scores that it does not have."""
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
    if official.OUTPUT_TYPE == "multiple_choice" and "acc" in metrics:
        if "acc_norm" not in metrics:
            metrics["acc_norm"] = _accuracy(official, samples, lambda one: len(one[1].encode()))
        metrics["acc_mean_token"] = _accuracy(official, samples, lambda one: num_tokens[one])
    return metrics


def _are_numbers(items: list[Any]) -> bool:
    return all(isinstance(item, int | float) for item in items)


def _accuracy(
    official: Any, samples: list[dict[str, Any]], length: Callable[[Request], int]
) -> Metric:
    """Accuracy of the choice whose log-likelihood divided by its length is best.

    lm-eval's own judgement of an item, given the divided log-likelihoods: so ties, several right
    answers and answers given as a text or as a number are as it has them.
    """
    items = []
    for sample in samples:
        mean_lls = [
            (ll / length(request), greedy)
            for request, (ll, greedy) in zip(
                sample["arguments"], sample["filtered_resps"], strict=True
            )
        ]
        items.append(float(official.process_results(sample["doc"], mean_lls)["acc"]))
    return _mean(items)


def _mean(items: Sequence[float], stderr: float | None = None) -> Metric:
    n = len(items)
    if stderr is None and n > 1:
        stderr = float(np.std(items, ddof=1)) / math.sqrt(n)
    return Metric(value=sum(items) / n, stderr=stderr, n=n, items=list(items))


def _of_group(by_task: dict[str, dict[str, Metric]]) -> dict[str, Metric]:
    """The mean of each score over tasks, over items, and each task's own."""
    names = list(next(iter(by_task.values())))
    metrics: dict[str, Metric] = {}
    for name in names:
        parts = [scores[name] for scores in by_task.values()]
        errors = [part.stderr for part in parts if part.stderr is not None]
        stderr = math.hypot(*errors) / len(parts) if len(errors) == len(parts) else None
        metrics[name] = _mean([part.value for part in parts], stderr)
    for name in names:
        parts = [scores[name] for scores in by_task.values()]
        total = sum(part.n or 0 for part in parts)
        shares = [(part.n or 0) / total for part in parts]
        weighted = sum(share * part.value for share, part in zip(shares, parts, strict=True))
        metrics[f"{name},weighted_by_size"] = Metric(value=weighted, n=total)
    for task, scores in by_task.items():
        metrics |= {f"{name},{task}": metric for name, metric in scores.items()}
    return metrics


def _task_hash(samples: dict[str, list[dict[str, Any]]]) -> str:
    """Hash of documents, prompts and targets, of one task the same as in lm-eval's results."""
    from lm_eval.utils import hash_string

    hashes = [
        hash_string("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in rows))
        for rows in samples.values()
    ]
    return hashes[0] if len(hashes) == 1 else hash_string("".join(hashes))


def _write_native(path: Path, results: dict[str, Any]) -> None:
    from lm_eval.utils import handle_non_serializable

    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump(results, file, default=handle_non_serializable, ensure_ascii=False)
