"""A finetuned model whose update is scaled, cut to a low rank, or rid of intruder dimensions.

The altered model is written tensor by tensor, so that memory holds the largest matrix a few times
and never a model.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock

from lvf.analysis.changes import Change, Tuned, pieces
from lvf.analysis.eigen import gram, leading_vectors
from lvf.analysis.intruders import decompose, largest_cosines
from lvf.analysis.table import EPSILON, TOP_K
from lvf.analysis.tensors import Weights
from lvf.config.schema import ModelConfig, RunConfig
from lvf.errors import UserError
from lvf.evals.measure import Subject
from lvf.models.load import load_export

if TYPE_CHECKING:
    from torch import Tensor

    from lvf.evals.measure import Loaded

BESIDE_WEIGHTS = ("config.json", "generation_config.json", "*.py")
"""Files of a model folder that an altered model needs, too."""


@dataclass(frozen=True)
class Alteration:
    """What is done to the update of every matrix; one of the three."""

    strength: float | None = None
    """s of W0 + s (W - W0): 0 is the base, 1 the finetuned model."""
    truncate: int | None = None
    """Rank of the best approximation that replaces each matrix's update. Updates of vectors (norms,
    biases) stay: their rank is 1."""
    damp: float | None = None
    """Factor of the intruder dimensions u sigma v^T of each tuned matrix (Shuttleworth et al.,
    2410.21228, section 5): 1 leaves them, 0 removes them."""

    @property
    def name(self) -> str:
        """Such as `strength0.5`; the end of the altered checkpoint's name."""
        return next(f"{name}{v:g}" for name, v in vars(self).items() if v is not None)


def alterations(cfg: RunConfig) -> list[Alteration]:
    """What `strength`, `truncate` and `damp` ask for, each entry a model of its own."""
    return [
        *(Alteration(strength=one) for one in cfg.strength),
        *(Alteration(truncate=one) for one in cfg.truncate),
        *(Alteration(damp=one) for one in cfg.damp),
    ]


def altered_subjects(
    cfg: RunConfig, models: list[tuple[Subject, Path]], base: Path
) -> list[Subject]:
    """Every model with every alteration; weights are written when a subject is loaded.

    Args:
        cfg: takes `strength`, `truncate`, `damp` and `model`.
        models: who is altered, and the folder of its weights: a model or a PEFT adapter.
        base: folder of the weights that all were finetuned from.

    Raises:
        UserError: weights are missing, do not match the base, or are not plain LoRA.
    """
    for _, folder in models:
        Tuned(Weights(base), folder)
    return [
        _altered_subject(subject, folder, one, base, cfg.model)
        for subject, folder in models
        for one in alterations(cfg)
    ]


def _altered_subject(
    subject: Subject, folder: Path, alteration: Alteration, base: Path, model: ModelConfig
) -> Subject:
    side = subject.folder.with_name(f"{subject.folder.name}-{alteration.name}")

    def load() -> Loaded:
        target = side / "altered"
        side.mkdir(parents=True, exist_ok=True)
        with FileLock(side / ".lock"):
            shutil.rmtree(target, ignore_errors=True)  # of a process that was killed
            try:
                write_altered(base, folder, alteration, target)
                return load_export(target, model)
            finally:
                shutil.rmtree(target, ignore_errors=True)

    return replace(
        subject,
        checkpoint=f"{subject.checkpoint}-{alteration.name}",
        axes=replace(subject.axes, **vars(alteration)),
        load=load,
        folder=side,
    )


def write_altered(base: Path, tuned: Path, alteration: Alteration, target: Path) -> None:
    """Write a whole model in float32, a file a tensor, that transformers loads.

    At strength 1 it equals the finetuned model (an adapter as PEFT merges it, but for DoRA's
    rounding), at strength 0 the base, bit by bit.

    Args:
        base: folder of the base's weights.
        tuned: folder of a finetuned model or a PEFT LoRA adapter.
        alteration: what is done to the update.
        target: new folder.

    Raises:
        UserError: the two do not match, or the adapter is of a kind that is not known.
    """
    from safetensors.torch import save_file

    before = Weights(base)
    model = Tuned(before, tuned)
    whole, source = (model.weights, tuned) if model.lora is None else (before, base)
    names = [name for name in whole.files if name in before.files]
    ties = json.loads((source / "config.json").read_text()).get("tie_word_embeddings")
    if len(names) < len(whole.files) and not ties:
        odd = next(name for name in whole.files if name not in before.files)
        raise UserError(f"{tuned} has {odd}, which its base {base} lacks: nothing to compare with")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    target.mkdir(parents=True)
    for path in (path for pattern in BESIDE_WEIGHTS for path in source.glob(pattern)):
        shutil.copy(path, target)
    files = {}
    for number, name in enumerate(names, 1):
        files[name] = f"model-{number:05}-of-{len(names):05}.safetensors"
        tensor = _altered_tensor(model, name, alteration, device)
        save_file({name: tensor}, target / files[name], metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": files}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))


def _altered_tensor(
    model: Tuned, name: str, alteration: Alteration, device: torch.device
) -> Tensor:
    before = model.base.read(name)
    if name in model.names:
        return altered(model.merged(name, before, device), alteration).cpu()
    after = before if model.lora is not None else model.weights.read(name)
    if before.shape != after.shape:
        raise UserError(
            f"{model.weights.folder} was not finetuned from {model.base.folder}: {name} is "
            f"{list(after.shape)} there and {list(before.shape)} in the base"
        )
    if after.dim() > 2 and alteration.strength is None and not torch.equal(before, after):
        raise UserError(
            f"{model.weights.folder}: {name} has the shape {list(after.shape)}, and truncate and "
            "damp know matrices and vectors only; leave them out"
        )
    s = 1.0 if alteration.strength is None else alteration.strength
    return _between(before.double(), after.double(), s).float().contiguous()


def altered(change: Change, alteration: Alteration) -> Tensor:
    """A matrix [out, in] after an alteration, in float32.

    Args:
        change: the matrix before and after finetuning, both stored (no factors).
        alteration: what is done to it.
    """
    assert change.tuned is not None
    projected = None if alteration.strength is not None else _directions(change, alteration)
    result = torch.empty(change.base.shape, dtype=torch.float32, device=change.base.device)
    start = 0
    for b, t in zip(pieces(change.base), pieces(change.tuned), strict=True):
        if alteration.strength is not None:
            piece = _between(b, t, alteration.strength)
        elif projected is None:
            piece = t
        elif alteration.truncate is not None:
            piece = b + projected @ (projected.T @ (t - b))
        else:
            assert alteration.damp is not None
            piece = t + (alteration.damp - 1) * (projected @ (projected.T @ t))
        end = start + piece.shape[1]
        if change.wide:
            result[:, start:end] = piece
        else:
            result[start:end] = piece.T
        start = end
    return result


def _directions(change: Change, alteration: Alteration) -> Tensor | None:
    """Singular vectors [short, k] on which an update or its intruders lie; None to keep all."""
    rank = alteration.truncate
    if rank is None:
        base, tuned = decompose(pieces(change.base)), decompose(change.tuned_pieces(), TOP_K)
        return tuned.vectors[:, largest_cosines(change, base, tuned) < EPSILON]
    unchanged = change.tuned is not None and torch.equal(change.base, change.tuned)
    if rank >= min(change.base.shape) or unchanged:
        return None
    return leading_vectors(gram(change.update_pieces()), rank)


def _between(before: Tensor, after: Tensor, s: float) -> Tensor:
    """before + s (after - before), exact for s = 0 and s = 1."""
    return before * (1 - s) + after * s
