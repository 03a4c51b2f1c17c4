"""Models and tokenizers are not trusted: refuses files of theirs that would fetch or run code.

transformers 4.57 does what such files ask for (CVE-2026-4372: a kernel of the hub named in
config.json; CVE-2026-9856: a chat template saved under a name that leaves the folder).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lvf.errors import UserError
from lvf.models.hub import ask_hub
from lvf.models.relatives import ADAPTERS

READ_FIRST = [
    "*config*.json", "chat_template*.json", "special_tokens_map*.json",
    "additional_chat_templates/*.jinja", "*.safetensors.index.json", "custom_generate/*",
]  # fmt: skip
"""What is downloaded and checked before anything of a model on the hub is loaded."""
IMPLEMENTATION = re.compile(r"(attn|attention|experts?)_implementation")
BUILT_IN = (None, False, True, "eager", "sdpa", "grouped_mm", "batched_mm")
"""Values of such a field that make transformers fetch nothing."""
OWN_CODE = ("auto_map", "custom_pipelines")
"""Fields that name Python files of the model's own."""
READ_BY_TRANSFORMERS = ("*config*.json", "chat_template*.json", "special_tokens_map*.json")
"""Of the last, version 4 gives every field to the tokenizer, chat templates included."""
TEMPLATE_NAME = re.compile(r"\w[\w .-]*")
WEIGHTS_FILE = re.compile(r"\w[\w.-]*\.safetensors")
VERSIONED_CONFIG = re.compile(r"config\.[\w.]+\.json")
FIRST_SAFE_PICKLES = (2, 10)
"""Before this torch, weights that are pickles could harm even when loaded as mere weights
(CVE-2026-24747)."""


def check_model(
    key: str,
    path: str,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    local_files_only: bool = False,
) -> str | None:
    """Refuse a model, tokenizer or adapter whose files name code, or places outside its folder.

    Args:
        key: Setting that named it, for messages.
        path: Folder, or id on the hub, of which only the small files of `READ_FIRST` are fetched.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether the model may bring Python files of its own.
        local_files_only: Whether the hub is not to be asked.

    Returns:
        The revision to load: for an id on the hub the commit that was checked.

    Raises:
        UserError: it is refused; names the file, the field and the remedy.
        OSError, ValueError: the hub does not give it.
    """
    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        fetched = ask_hub(
            lambda: snapshot_download(
                path,
                revision=revision,
                allow_patterns=READ_FIRST,
                local_files_only=local_files_only,
            )
        )
        folder = Path(fetched)
        revision = folder.name
    for problem in _problems(folder, key, trust_remote_code):
        raise UserError(f"{key}={path} is refused: {problem}")
    return revision


def needs_safetensors() -> bool:
    """Whether this torch is too old to load weights of strangers that are pickles."""
    import torch

    return tuple(map(int, torch.__version__.split(".")[:2])) < FIRST_SAFE_PICKLES


def _problems(folder: Path, key: str, trust_remote_code: bool) -> Iterator[str]:
    for file in sorted(file for names in READ_BY_TRANSFORMERS for file in folder.glob(names)):
        tree, problem = _read(file)
        if problem:
            yield problem
            return
        for place, name, value in _fields(tree):
            field = f"{file.name} has {place}={json.dumps(value)[:200]}"
            if name in OWN_CODE and value and not trust_remote_code:
                yield _own_code(field)
            elif (IMPLEMENTATION.search(name) and value not in BUILT_IN) or (
                "kernel" in name and "/" in json.dumps(value)
            ):
                yield (
                    f"{field}, which can make transformers fetch and run code. Save the model in a "
                    "folder of yours and take the field out there (allowed are eager and sdpa)"
                )
            elif name == "chat_template" and (bad := _bad_template_names(value)):
                yield _bad_template(f"{file.name} names a chat template {bad[0]!r}")
            elif name == "configuration_files" and _not_all(VERSIONED_CONFIG, value):
                yield f"{field}, which is not a list of names such as config.4.0.0.json"
    if not trust_remote_code and any(folder.glob("custom_generate/*.py")):
        yield _own_code("it holds custom_generate/")
    for file in folder.glob("additional_chat_templates/*.jinja"):
        if _not_all(TEMPLATE_NAME, [file.stem]):
            yield _bad_template(f"additional_chat_templates holds a template {file.stem!r}")
    for file in folder.glob("*.safetensors.index.json"):
        index, problem = _read(file)
        if problem:
            yield problem
            return
        shards = index.get("weight_map", {})
        if not isinstance(shards, dict) or _not_all(WEIGHTS_FILE, list(shards.values())):
            yield f"{file.name} names other files than .safetensors files beside it"
    is_adapter = (folder / "adapter_config.json").is_file()
    weights = folder.glob("adapter_model.safetensors" if is_adapter else "*.safetensors")
    if any(folder.glob("*.bin")) and not any(weights) and needs_safetensors():
        yield (
            "its weights are pickles (.bin), which this version of torch cannot load safely. "
            "Install torch 2.10 or later, or have them saved as .safetensors"
        )
    yield from _problems_of_adapter(folder, key)


def _problems_of_adapter(folder: Path, key: str) -> Iterator[str]:
    file = folder / "adapter_config.json"
    if not file.is_file():
        return
    if key == "model.path":  # transformers would load the model that the adapter names
        yield (
            "it holds an adapter (adapter_config.json). Give the base model, or merge the adapter "
            "into it with PEFT's merge_and_unload and save that"
        )
    config, _ = _read(file)  # which was read before
    allowed = [kind.upper() for kind in ADAPTERS] if key == "export" else ["LORA"]
    if config.get("peft_type") not in allowed:
        yield f"{file.name} has peft_type={config.get('peft_type')!r}; allowed is {allowed[0]}"
    if config.get("megatron_config"):
        yield f"{file.name} has megatron_config, for which PEFT imports a module that it names"


def _read(file: Path) -> tuple[dict[str, Any], str]:
    """The JSON object in a file, or what is wrong with it."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{file.name} cannot be read: {type(error).__name__}: {error}"
    return (tree, "") if isinstance(tree, dict) else ({}, f"{file.name} is no JSON object")


def _own_code(what: str) -> str:
    return (
        f"{what}: Python code of the model's own, which would run with your rights. Read it; if "
        "you trust it, set model.trust_remote_code=true"
    )


def _bad_template(what: str) -> str:
    return (
        f"{what}. The name becomes the name of a file: allowed are letters, digits, '_', '-', '.' "
        "and spaces, and no '.' in front. Rename it in a copy of the tokenizer"
    )


def _bad_template_names(templates: Any) -> list[Any]:
    """Of templates as a list of name and template, or by name; a single text has no name."""
    if isinstance(templates, list):
        names = [one.get("name") if isinstance(one, dict) else one for one in templates]
    else:
        names = list(templates) if isinstance(templates, dict) else []
    return [name for name in names if _not_all(TEMPLATE_NAME, [name])]


def _not_all(pattern: re.Pattern[str], names: Any) -> bool:
    return not isinstance(names, list) or not all(
        isinstance(name, str) and pattern.fullmatch(name) for name in names
    )


def _fields(tree: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every field at any depth: where it is, its name and its value."""
    inner = tree.items() if isinstance(tree, dict) else ()
    for name, value in inner:
        here = f"{place}.{name}" if place else name
        yield here, name, value
        yield from _fields(value, here)
    for number, value in enumerate(tree if isinstance(tree, list) else ()):
        yield from _fields(value, f"{place}[{number}]")
