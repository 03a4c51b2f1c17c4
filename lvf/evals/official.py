"""lm-eval's own task definitions: finding them, and loading them on local files or the hub's."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lvf.config.evals_schema import LmEvalTaskConfig
from lvf.data.evaluation_items import SUBSET
from lvf.errors import UserError

NAME = re.compile(rb"""^["']?(?:task|group)["']?:[ \t]*["']?([\w.-]+)["']?[ \t]*(#.*)?$""", re.M)
SPLITS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def task_names(task: str) -> list[str]:
    """The tasks that a name of lm-eval stands for: itself, or the members of a group.

    Raises:
        UserError: there is no such task.
    """
    return _members(task, _manager(official_folder(task)).task_index)


def local_files(task: LmEvalTaskConfig, benchmarks: Path) -> dict[str, dict[str, Path]]:
    """Of every task that the definition stands for, split to file.

    Without shots, the file that they would come from may be missing. It is then not among a
    record's settings, so records with and without that file are of different settings.

    Raises:
        UserError: there is no such task, or a file is missing.
    """
    index = _manager(official_folder(task.task)).task_index
    files: dict[str, dict[str, Path]] = {}
    for name in task_names(task.task):
        definition: Any = index[name].cfg
        subset = str(definition.get("dataset_name"))
        files[name] = {
            split: benchmarks / file.replace(SUBSET, subset) for split, file in task.files.items()
        }
        shots = _shots_from(definition)
        if not task.num_fewshot and shots in files[name] and not files[name][shots].is_file():
            del files[name][shots]
    for path in (path for splits in files.values() for path in splits.values()):
        if not path.is_file():
            raise UserError(
                f"{path.name} is missing in {path.parent}: put it there, choose another folder "
                "with evals.benchmarks=..., or leave its task out of evals.tasks"
            )
        if path.suffix not in FORMATS:
            raise UserError(f"{path} is not one of {', '.join(FORMATS)}")
    return files


QUESTION = "question"
"""Column of an item that `training_prompt` asks."""


def load_tasks(
    task: LmEvalTaskConfig,
    benchmarks: Path | None,
    cache: str,
    prompt_of: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """Build the official tasks, their data source replaced, as lm-eval does it for groups.

    Args:
        task: Name, shots and files.
        benchmarks: Folder of the local files; None loads from the hub.
        cache: Folder for what `datasets` makes of local files. One of their own: it keys its shared
            one by modification times.

        prompt_of: Makes a prompt of a question, where `task.training_prompt` is set.

    Returns:
        What `lm_eval.evaluator.evaluate` takes; `tasks` maps a name to a task.

    Raises:
        UserError: lm-eval has no such task, or its data cannot be loaded.
    """
    manager = _manager(official_folder(task.task))
    files = local_files(task, benchmarks) if benchmarks else {}
    members = []
    for name in task_names(task.task):
        member: dict[str, Any] = {"task": name, "num_fewshot": task.num_fewshot}
        if files:
            definition: Any = manager.task_index[name].cfg
            member |= _on_local_files(task, definition, files[name], cache)
        if task.training_prompt:
            assert prompt_of is not None
            member |= _asked_as_in_training(prompt_of)
        members.append(member)
    try:
        return dict(manager.load([{"group": "lvf", "task": members}]))
    except (OSError, ValueError) as error:  # missing on the hub, no network; broken local file
        where = f"the files {task.files} in {benchmarks}" if benchmarks else "the hub"
        raise UserError(
            f"the data of lm-eval's {task.task} cannot be read from {where}: {error}. Check the "
            "network, or set evals.benchmarks to a folder with local files."
        ) from error


def _on_local_files(
    task: LmEvalTaskConfig, definition: dict[str, Any], files: dict[str, Path], cache: str
) -> dict[str, Any]:
    """What to change in a definition so that it reads these files."""
    shots_from = _shots_from(definition)
    (file_format,) = {FORMATS[path.suffix] for path in files.values()}
    # `datasets` takes a path for a pattern; a link's has no character that means something there.
    links = {split: _link(path, Path(cache)) for split, path in files.items()}
    kwargs = {"data_files": links, "cache_dir": cache}
    change = {"dataset_path": file_format, "dataset_name": None, "dataset_kwargs": kwargs}
    if shots_from not in files:
        if task.num_fewshot:
            raise UserError(f"{task.task}: {task.num_fewshot} shots need a file for `{shots_from}`")
        change["fewshot_split"] = None
    # lm-eval opens every split that a definition names, also those that it does not need.
    return change | {key: None for key, split in SPLITS.items() if split not in files}


def _shots_from(definition: dict[str, Any]) -> str:
    """The split of a definition that shots are drawn from."""
    return str(definition.get("fewshot_split") or SPLITS["training_split"])


def _asked_as_in_training(prompt_of: Callable[[str], str]) -> dict[str, Any]:
    """What to change in a definition so that a question is asked by a template."""

    def doc_to_text(doc: dict[str, Any]) -> str:
        return prompt_of(doc[QUESTION])

    generation = {"until": [], "do_sample": False, "temperature": 0.0}
    return {"doc_to_text": doc_to_text, "generation_kwargs": generation}


def _link(path: Path, cache: Path) -> str:
    """A link to a file, under a name that its own path gives."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    link = cache / f"{name}{path.suffix}"
    if not link.is_symlink():
        link.symlink_to(path.resolve())
    return str(link)


def official_folder(task: str) -> Path:
    """Folder within lm-eval that defines a task or group.

    Raises:
        UserError: there is none.
    """
    folder = _official_folders().get(task)
    if folder is None:
        raise UserError(
            f"lm-eval has no task {task!r}: `python -m lm_eval ls tasks` lists its tasks and groups"
        )
    return folder


@functools.cache
def _official_folders() -> dict[str, Path]:
    import lm_eval.tasks

    folders: dict[str, Path] = {}
    for path in sorted(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")):
        for match in NAME.finditer(path.read_bytes()):
            folders.setdefault(match[1].decode(), path.parent)
    return folders


@functools.cache
def _manager(folder: Path) -> Any:
    """Indexing all of lm-eval's 14,000 task files takes 15 s, one folder 0.1 s."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=False)


def _members(name: str, index: dict[str, Any]) -> list[str]:
    """Leaves below a task, a tag or a group, which must lie in one folder of lm-eval."""
    entry = index.get(name)
    if entry is None:
        raise UserError(
            f"{name} is defined in another folder of lm-eval than its group: name its tasks one "
            "by one in evals.lm_eval"
        )
    kind = entry.kind.name
    if kind not in ("GROUP", "TAG"):
        return [name]
    children = sorted(entry.tags) if kind == "TAG" else entry.cfg["task"]
    names = [child if isinstance(child, str) else child["task"] for child in children]
    return [leaf for child in names for leaf in _members(child, index)]
