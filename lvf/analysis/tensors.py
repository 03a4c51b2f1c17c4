"""Weights in Hugging Face format, on disk or on the hub, read one tensor at a time."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lvf.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_CONFIG = "adapter_config.json"
WANTED = [
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"),
    ADAPTER_CONFIG,
]
LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, order=True)
class Place:
    """Where in the model a matrix is."""

    layer: int
    """Index of the transformer block; -1 outside of the blocks (embeddings, head)."""
    module: str
    """Last part of the name, such as `q_proj`."""


def place(name: str) -> Place:
    """`model.layers.3.self_attn.q_proj.weight` is layer 3, module `q_proj`."""
    found = LAYER.search(name)
    module = name.removesuffix(".weight").rsplit(".", 1)[-1]
    return Place(int(found[1]) if found else -1, module)


class Weights:
    """The tensors of a folder by name, in one safetensors file or several."""

    def __init__(self, folder: Path) -> None:
        """Look up which tensor is in which file.

        Raises:
            UserError: there is no safetensors file.
        """
        self.folder = folder
        index = next(folder.glob("*.safetensors.index.json"), None)
        if index is None:
            files = sorted(folder.glob("*.safetensors"))
            self.files = {name: path for path in files for name in _names(path)}
        else:
            shards = json.loads(index.read_text())["weight_map"]
            self.files = {name: folder / file for name, file in shards.items()}
        if not self.files:
            raise UserError(
                f"{folder} holds no .safetensors file; save the model again with transformers' "
                "save_pretrained(..., safe_serialization=True)"
            )

    def read(self, name: str) -> Tensor:
        """One tensor. Its file is opened for it alone, so that no other pages stay in memory."""
        from safetensors import safe_open

        with safe_open(self.files[name], framework="pt") as file:
            return file.get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        from safetensors import safe_open

        with safe_open(self.files[name], framework="pt") as file:
            return tuple(file.get_slice(name).get_shape())


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def weights_folder(path: str, revision: str | None, key: str) -> Path:
    """Local folder of a model: the one named, or the hub's files, downloaded if need be.

    Raises:
        UserError: neither a folder nor a model on the hub; names `key`, where the path was set.
    """
    from huggingface_hub import snapshot_download

    local = Path(path).expanduser()
    if local.is_dir():
        return local.resolve()
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=WANTED))
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(
            f"{key}={path} is no local folder and cannot be had from the hub: {first_line} Give a "
            f"folder in Hugging Face format ({key}=/path/to/folder), or log in with `hf auth "
            "login` where the hub asks it."
        ) from error
