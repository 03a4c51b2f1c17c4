"""Contents instead of paths: what a model, a tokenizer or a corpus is, as short hashes.

A file is read once; its hash is remembered under its path, size and time of change, so that a later
start does not read 27 GB of weights again. A model or corpus of the hub is its commit.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvf.config.schema import ModelConfig, stable_hash
from lvf.embedded.files import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterable

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_SECONDS = 10.0
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "config.json")
TOKENIZER = ("tokenizer*", "*.model", "vocab*", "merges.txt", "special_tokens_map.json",
             "added_tokens.json", "chat_template*")  # fmt: skip


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, remembered while its size and time of change stay the same.

    Raises:
        OSError: the file cannot be read.
    """
    path = path.resolve()
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    known = _remembered("hashes", str(path))
    if known and known["stamp"] == stamp:
        return str(known["sha256"])
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    _remember("hashes", str(path), {"stamp": stamp, "sha256": digest.hexdigest()})
    return digest.hexdigest()


def _note(kind: str, key: str) -> Path:
    return cache_dir() / kind / f"{stable_hash(key)}.json"


def _remembered(kind: str, key: str) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        return json.loads(_note(kind, key).read_text())
    return None


def _remember(kind: str, key: str, facts: dict[str, Any]) -> None:
    note = _note(kind, key)
    temporary = note.with_suffix(f".{os.getpid()}")
    with suppress(OSError):  # a home that cannot be written: it is found out again next time
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(facts))
        temporary.replace(note)


def folder_hash(folder: Path, patterns: Iterable[str]) -> str:
    """Hash of the names and contents of a folder's files that match any of the patterns."""
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return stable_hash([[path.name, file_hash(path)] for path in sorted(files)])


@functools.cache
def hub_commit(repository: str, revision: str | None, kind: str) -> str | None:
    """Commit of a model or data set (`kind`) of the hub, found out once and then remembered.

    So a run keeps its commit on nodes without a network, and when the hub has a newer one. The
    commit in the hub's own cache comes before the newest. None where neither is to be had.
    """
    if revision and COMMIT.fullmatch(revision):
        return revision
    key = f"{kind} {repository} {revision}"
    known = _remembered("commits", key)
    commit = known["commit"] if known else _find_commit(repository, revision, kind)
    if commit and not known:
        _remember("commits", key, {"commit": commit})
    return commit


def _find_commit(repository: str, revision: str | None, kind: str) -> str | None:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind)
    with suppress(OSError):
        return (cached / "refs" / (revision or "main")).read_text().strip()
    with suppress(Exception):  # no network, no right: of other kinds in each version of the client
        info = HfApi().repo_info(repository, revision=revision, repo_type=kind, timeout=HUB_SECONDS)
        return info.sha
    return None


def model_fingerprint(model: ModelConfig) -> dict[str, object]:
    """What the weights and the tokenizer of a model are, wherever they lie."""
    from lvf.models.load import model_source

    place = model_source(model)
    if Path(place).is_file():  # of GGUF
        weights: object = file_hash(Path(place))
    elif model.random_weights:
        weights = asdict(model.shape) if model.shape else _config_of(place)
    elif Path(place).is_dir():
        weights = folder_hash(Path(place), WEIGHTS)
    else:
        weights = hub_commit(place, model.revision, "model") or [place, model.revision]
    tokenizer = Path(model.tokenizer or place).expanduser()
    if tokenizer.is_dir():
        return {"weights": weights, "tokenizer": folder_hash(tokenizer, TOKENIZER)}
    if model.tokenizer is None:  # it comes with the weights
        return {"weights": weights}
    commit = hub_commit(model.tokenizer, None, "model")
    return {"weights": weights, "tokenizer": commit or model.tokenizer}


def _config_of(place: str) -> str:
    config = Path(place) / "config.json"
    return file_hash(config) if config.is_file() else place
