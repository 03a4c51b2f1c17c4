"""Keeps token shards on disk: made once for each set of inputs, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvf.config import RunConfig, stable_hash
from lvf.data.build import build
from lvf.data.recipe import check_fits, recipe_inputs
from lvf.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RECIPE = "recipe.json"


@dataclass(frozen=True)
class Prepared:
    """Token shards on disk, complete."""

    folder: Path
    train: Path
    """MDS folder of packed rows: `input_ids`, `loss_mask`, `segment_ids`, each [seq_len]."""
    validation: Path
    heldout: Path
    """JSONL files of {"prompt", "response"}: text after templating, never trained on."""
    num_rows: int
    num_tokens: int
    """Without padding."""
    num_loss_tokens: int
    stats: dict[str, Any]
    """What preparing counted and cut."""


def prepare(cfg: RunConfig) -> Prepared:
    """Make the shards of a run, or find those that the same inputs gave before.

    Several processes may call this together: one works, the others wait for it.

    Raises:
        UserError: bad input, no room on disk, or fewer rows than one batch.
    """
    from lvf.models.load import load_tokenizer

    tokenizer = load_tokenizer(cfg.model)
    check_fits(cfg.model, tokenizer, cfg.training.seq_len)
    inputs = recipe_inputs(cfg, tokenizer)
    folder = Path(cfg.paths.shards) / f"{cfg.data.name}-{stable_hash(inputs)}"
    if not (folder / RECIPE).is_file():
        with _telling_disk_trouble(folder):
            _prepare_alone(folder, cfg, tokenizer, inputs)
    prepared = load_prepared(folder)
    _check_enough(prepared, cfg)
    return prepared


def load_prepared(folder: Path) -> Prepared:
    """Open prepared shards.

    Raises:
        UserError: they are incomplete or damaged.
    """
    try:
        stats = json.loads((folder / RECIPE).read_text())["stats"]
        shards = json.loads((folder / "train" / "index.json").read_text())["shards"]
        damaged = [
            shard["raw_data"]["basename"]
            for shard in shards
            if (folder / "train" / shard["raw_data"]["basename"]).stat().st_size
            != shard["raw_data"]["bytes"]
        ]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is damaged ({error}): {_rebuild(folder)}") from error
    if damaged:
        raise UserError(f"{folder}/train: {', '.join(damaged)} damaged: {_rebuild(folder)}")
    return Prepared(
        folder=folder,
        train=folder / "train",
        validation=folder / "validation.jsonl",
        heldout=folder / "heldout.jsonl",
        num_rows=stats["num_rows"],
        num_tokens=stats["num_tokens"],
        num_loss_tokens=stats["num_loss_tokens"],
        stats=stats,
    )


def _rebuild(folder: Path) -> str:
    return f"delete it (rm -r {folder}) and start again"


def _check_enough(prepared: Prepared, cfg: RunConfig) -> None:
    rows, needed = prepared.num_rows, cfg.training.global_batch_rows
    if rows < needed:
        raise UserError(
            f"data {cfg.data.name} gives {rows} rows of {cfg.training.seq_len} tokens, fewer than "
            f"the {needed} of one batch. Set training.global_batch_rows={rows} or less, a smaller "
            "training.seq_len, or give more data."
        )
    capacity = rows * cfg.training.seq_len
    if cfg.regime.duration_unit == "tokens" and cfg.duration > capacity:
        print(
            f"{cfg.data.name} holds {capacity:,} tokens: a run of {cfg.duration:,.0f} goes through "
            f"it {cfg.duration / capacity:.1f} times"
        )


@contextmanager
def _telling_disk_trouble(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"shards cannot be written to {folder}: {error.strerror or error}. Make room or get "
            "leave to write there, or set paths.shards=/another/folder."
        ) from error


def _prepare_alone(
    folder: Path, cfg: RunConfig, tokenizer: PreTrainedTokenizerBase, inputs: dict[str, Any]
) -> None:
    """Build the shards aside under a lock, and give them their name when they are whole."""
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process prepares {folder}; waiting for it")
        lock.acquire()
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        if (folder / RECIPE).is_file():
            return
        if folder.exists():
            raise UserError(f"{folder} has no {RECIPE}, so it is incomplete: {_rebuild(folder)}")
        shutil.rmtree(partial, ignore_errors=True)  # of a preparation that was killed
        partial.mkdir()
        stats = build(partial, cfg, tokenizer, inputs["max_rows"])
        recipe = {"inputs": inputs, "data": _readable(cfg), "stats": stats}
        _write_synced(partial / RECIPE, json.dumps(recipe, indent=1))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        lock.release()


def _readable(cfg: RunConfig) -> dict[str, Any]:
    """What the hashes in a recipe stand for, in words."""
    return {**asdict(cfg.data), "tokenizer": cfg.model.tokenizer or cfg.model.path}


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
