"""What finetuning did to each matrix of a model, from full weights or from LoRA's factors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvf.analysis.tensors import ADAPTER_CONFIG, Weights, place
from lvf.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHUNK = 2048
"""Columns or rows of a matrix that are held in float64 at a time."""
PEFT_PREFIX = "base_model.model."
MAGNITUDE = ".lora_magnitude_vector"
"""What DoRA learns beside the factors: the norm of each row."""
KNOWN = (".lora_A.weight", ".lora_B.weight", MAGNITUDE)
BASE_KEEPING_INITS = (True, False, "gaussian", "eva", "orthogonal")
"""Initialisations of PEFT that leave the base weights as they are; PiSSA's kind does not."""


def pieces(matrix: Tensor) -> Iterator[Tensor]:
    """A matrix cut along its longer side into pieces [short, width] in float64.

    All lie in the same memory, which makes this ten times as fast: each is valid until the next.
    """
    import torch

    wide = matrix.shape[0] <= matrix.shape[1]
    shape = (len(matrix), CHUNK) if wide else (CHUNK, matrix.shape[1])
    memory = matrix.new_empty(shape, dtype=torch.float64)
    for part in _parts(matrix):
        cut = matrix[:, part] if wide else matrix[part]
        piece = memory[: cut.shape[0], : cut.shape[1]].copy_(cut)
        yield piece if wide else piece.T


def _parts(matrix: Tensor) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, max(matrix.shape), CHUNK)]


@dataclass(frozen=True)
class Change:
    """One matrix [out, in] before and after finetuning, in the data types that were stored."""

    base: Tensor
    tuned: Tensor | None = None
    factors: tuple[Tensor, Tensor] | None = None
    """Instead of `tuned`, scaled B [out, r] and A [r, in] in float64: tuned = base + B A."""

    @property
    def wide(self) -> bool:
        """Whether out <= in."""
        return self.base.shape[0] <= self.base.shape[1]

    def tuned_pieces(self) -> Iterator[Tensor]:
        """The tuned matrix, in the pieces of `pieces(base)`."""
        if self.factors is None:
            assert self.tuned is not None
            yield from pieces(self.tuned)
            return
        b, a = self.factors
        for part, piece in zip(_parts(self.base), pieces(self.base), strict=True):
            yield piece.add_(b @ a[:, part] if self.wide else (b[part] @ a).T)

    def rounding_energy(self) -> float:
        """Expected summed square of what storing the tuned matrix has rounded off.

        Rounding to values a step apart errs evenly within half a step, so by step^2 / 12 in the
        mean square; a step is eps times the power of two below the value. Of updates below half a
        step less is lost, but then all of it. 0 for LoRA's factors, whose product nobody has
        rounded.
        """
        import torch

        if self.tuned is None:
            return 0.0
        step = torch.finfo(self.tuned.dtype).eps / 2  # frexp's mantissa lies in [0.5, 1)
        energy = 0.0
        for piece in pieces(self.tuned):
            steps = piece.frexp().exponent.double().exp2_().mul_(step).mul_(piece != 0)
            energy += float(steps.square_().sum()) / 12
        return energy

    def update_pieces(self) -> Iterator[Tensor]:
        """Tuned minus base; float64 holds the difference of stored 16 or 32 bit values exactly."""
        for tuned, base in zip(self.tuned_pieces(), pieces(self.base), strict=True):
            yield tuned.sub_(base)


class Tuned:
    """A finetuned model beside its base; `names` are the matrices that can differ."""

    def __init__(self, base: Weights, folder: Path) -> None:
        """Match the matrices of `folder`, a model or a PEFT LoRA adapter, with the base's.

        Raises:
            UserError: no match, other shapes, or an adapter of a kind that is not known.
        """
        self.base, self.weights = base, Weights(folder)
        adapter = folder / ADAPTER_CONFIG
        self.lora = _lora_config(adapter, self.weights) if adapter.is_file() else None
        self.names = sorted(self._matrices(), key=lambda name: (place(name), name))

    def change(self, name: str, base: Tensor, device: torch.device) -> Change:
        """The matrix `name` before (`base`) and after finetuning, on `device`."""
        whole = name if self.lora is None else PEFT_PREFIX + name
        if whole in self.weights.files:
            return Change(base, tuned=self.weights.read(whole).to(device))
        assert self.lora is not None
        stem = whole.removesuffix(".weight")
        a = self.weights.read(f"{stem}.lora_A.weight").to(device).double()
        b = self.weights.read(f"{stem}.lora_B.weight").to(device).double()
        b *= lora_scale(self.lora, name, len(a))
        if f"{stem}{MAGNITUDE}" not in self.weights.files:
            return Change(base, factors=(b, a))
        magnitude = self.weights.read(f"{stem}{MAGNITUDE}").to(device).double()
        direction = base.double() + b @ a
        return Change(base, tuned=direction * (magnitude / direction.norm(dim=1))[:, None])

    def merged(self, name: str, base: Tensor, device: torch.device) -> Change:
        """As `change`, with the tuned matrix itself: an adapter merged in float32, as PEFT does."""
        change = self.change(name, base.to(device), device)
        if change.factors is None:
            return Change(change.base, tuned=change.tuned)
        assert self.lora is not None
        stem = (PEFT_PREFIX + name).removesuffix(".weight")
        a = self.weights.read(f"{stem}.lora_A.weight").float()
        b = self.weights.read(f"{stem}.lora_B.weight").float()
        update = (b @ a) * lora_scale(self.lora, name, len(a))
        return Change(change.base, tuned=(base.float() + update).to(device))

    def _matrices(self) -> list[str]:
        if self.lora is not None:
            names = {_adapted(name.removeprefix(PEFT_PREFIX)) for name in self.weights.files}
        else:
            names = {name for name in self.weights.files if len(self.weights.shape(name)) == 2}
            names &= set(self.base.files)
        known = self.base.files
        odd = sorted(n for n in names if n not in known or self._shape(n) != self.base.shape(n))
        if odd or not names:
            raise UserError(
                f"{self.weights.folder} was not finetuned from {self.base.folder}: "
                f"{odd[0] if odd else 'no matrix'} is not in both with one shape. Give its base "
                "with model.path=/path/to/folder or an id on the hub"
            )
        return list(names)

    def _shape(self, name: str) -> tuple[int, ...]:
        whole = name if self.lora is None else PEFT_PREFIX + name
        if whole in self.weights.files:
            return self.weights.shape(whole)
        stem = whole.removesuffix(".weight")
        out, _ = self.weights.shape(f"{stem}.lora_B.weight")
        return out, self.weights.shape(f"{stem}.lora_A.weight")[1]


def _adapted(name: str) -> str:
    """The base's name of what a tensor of an adapter changes, which may be a module as a whole."""
    return name if ".lora_" not in name else name.split(".lora_")[0] + ".weight"


def lora_scale(config: dict[str, Any], name: str, rank: int) -> float:
    """What PEFT multiplies B A with: alpha / r, or alpha / sqrt(r) for rsLoRA.

    Args:
        config: content of adapter_config.json.
        name: name of the base matrix; `alpha_pattern` may give it an alpha of its own.
        rank: r of this matrix.
    """
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    key = get_pattern_key(list(patterns), name.removesuffix(".weight"))
    alpha = patterns.get(key, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _lora_config(file: Path, weights: Weights) -> dict[str, Any]:
    """Configuration of an adapter whose effect its factors, DoRA's norms and whole modules are."""
    config = json.loads(file.read_text())
    odd = [n for n in weights.files if ".lora_" in n and not n.endswith(KNOWN)]
    odd += [n for n in weights.files if ".lora_" not in n and len(weights.shape(n)) != 2]
    if config.get("init_lora_weights", True) not in BASE_KEEPING_INITS:
        odd.append(f"init_lora_weights={config['init_lora_weights']}")
    odd += [k for k in ("fan_in_fan_out", "layer_replication") if config.get(k)]
    if odd or config["peft_type"] != "LORA":
        raise UserError(
            f"{file.parent} holds more than LoRA's factors, DoRA's norms and whole matrices "
            f"({odd[0] if odd else config['peft_type']}): merge it into its base with PEFT's "
            "merge_and_unload, save that, and analyse it as a full model"
        )
    return config
