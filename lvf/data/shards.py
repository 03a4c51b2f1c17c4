"""Keeps token shards on disk: made once for each set of inputs, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvf.config.schema import RunConfig, stable_hash
from lvf.data.build import build, machine_of
from lvf.data.part import OVERLAPS
from lvf.data.prompts import with_chat_template
from lvf.data.recipe import check_fits, largest_token_id, recipe_inputs
from lvf.data.remote import download, remote_of, upload
from lvf.data.replay import replay_source, source_run
from lvf.errors import PreparationInterruptedError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RECIPE = "recipe.json"
FILES = ("validation.jsonl", "heldout.jsonl", OVERLAPS, RECIPE)
"""What lies beside the rows; the recipe comes last, and says that all is there."""


@dataclass(frozen=True)
class Prepared:
    """Token shards on disk, complete."""

    folder: Path
    train: Path
    """MDS folder of packed rows: `input_ids`, `loss_mask`, `segment_ids`, each [seq_len]."""
    remote: str | None
    """Where the rows are if not in `train`, which then keeps copies of those in use."""
    validation: Path
    heldout: Path
    """JSONL files of {"prompt", "response"}: text after templating, never trained on."""
    num_rows: int
    num_tokens: int
    """Without padding."""
    num_loss_tokens: int
    stats: dict[str, Any]
    """What preparing counted and cut."""
    replay: Prepared | None = None
    """Source text of which each epoch takes some rows (`lvf.data.replay`)."""


def prepare(cfg: RunConfig) -> Prepared:
    """Make the shards of a run, or find those that the same inputs gave before.

    Several processes may call this together: one works, the others wait for it. What a killed
    one has finished is not made again.

    Raises:
        UserError: bad input, no room on disk, fewer rows than one batch, or parts that other
            machines have still to make (`runtime.prepare_part`).
    """
    prepared = prepare_own_part(cfg)
    if prepared is None:
        raise UserError(
            f"this machine's part {cfg.runtime.prepare_part} of {cfg.data.name} is ready, others' "
            "are not: wait for them, or set runtime.prepare_part=0/1 to make them here"
        )
    check_enough(prepared, cfg)
    return prepared


def prepare_own_part(cfg: RunConfig) -> Prepared | None:
    """As `prepare`, but None while parts that other machines are to make are missing.

    Raises:
        UserError: bad input, or no room on disk.
    """
    if cfg.data.replay:
        replay_source(cfg)
    prepared = _prepare_data(cfg)
    if prepared is None or not cfg.data.replay:
        return prepared
    return replace(prepared, replay=_prepare_data(source_run(cfg, prepared.num_rows)))


def _prepare_data(cfg: RunConfig) -> Prepared | None:
    cfg, tokenizer, inputs = _with_inputs(cfg)
    folder, place = _where(cfg, inputs)
    with _telling_disk_trouble(folder):
        if not (folder / RECIPE).is_file() and not (place and _fetch(place, folder)):
            _build_in_turn(folder, cfg, tokenizer, inputs, place)
    return load_prepared(folder, place) if (folder / RECIPE).is_file() else None


def is_prepared(cfg: RunConfig) -> bool:
    """Whether a run's shards are complete here; not so if its inputs cannot be had."""
    try:
        prepared = _opened(cfg)
        if prepared is None or not cfg.data.replay:
            return prepared is not None
        return _opened(source_run(cfg, prepared.num_rows)) is not None
    except UserError:
        return False


def _opened(cfg: RunConfig) -> Prepared | None:
    cfg, _, inputs = _with_inputs(cfg)
    folder, place = _where(cfg, inputs)
    there = (folder / RECIPE).is_file() or bool(place and _fetch(place, folder))
    return load_prepared(folder, place) if there else None


def _with_inputs(cfg: RunConfig) -> tuple[RunConfig, PreTrainedTokenizerBase, dict[str, Any]]:
    """The run with its chat template, its tokenizer, and all that enters its shards."""
    from lvf.models.load import load_model_config, load_tokenizer

    tokenizer = load_tokenizer(cfg.model)
    check_fits(cfg.model, tokenizer, cfg.training.seq_len)
    cfg = replace(cfg, data=with_chat_template(cfg.data, tokenizer))
    inputs = recipe_inputs(cfg, tokenizer)
    num_embeddings = load_model_config(cfg.model).vocab_size
    if largest_token_id(tokenizer) >= num_embeddings:  # else they serve models of any number
        inputs["num_embeddings"] = num_embeddings
    return cfg, tokenizer, inputs


def _where(cfg: RunConfig, inputs: dict[str, Any]) -> tuple[Path, str | None]:
    """The folder of shards, and where their rows are if on a remote."""
    name = f"{cfg.data.name}-{stable_hash(inputs)}"
    remote = remote_of(cfg.paths.shards)
    folder = Path(cfg.paths.shards_cache if remote else cfg.paths.shards) / name
    return folder, f"{remote}/{name}" if remote else None


def load_prepared(folder: Path, place: str | None = None) -> Prepared:
    """Open prepared shards, whose rows are at `place` if they are on a remote.

    Raises:
        UserError: they are incomplete or damaged.
    """
    try:
        stats = json.loads((folder / RECIPE).read_text())["stats"]
        damaged = [] if place else _damaged(folder / "train")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is damaged ({error}): {_rebuild(folder)}") from error
    if damaged:
        raise UserError(f"{folder}/train: {', '.join(damaged)} damaged: {_rebuild(folder)}")
    return Prepared(
        folder=folder,
        train=folder / "train",
        remote=place and f"{place}/train",
        validation=folder / "validation.jsonl",
        heldout=folder / "heldout.jsonl",
        num_rows=stats["num_rows"],
        num_tokens=stats["num_tokens"],
        num_loss_tokens=stats["num_loss_tokens"],
        stats=stats,
    )


def reopen(folder: Path, remote: str | None) -> Prepared:
    """What another process of a run has prepared, perhaps on another machine.

    Args:
        folder: As it is called there; of a remote's rows a cache, which this machine may lack.
        remote: Where the rows are if not in the folder (`Prepared.remote`).

    Raises:
        UserError: it is missing, incomplete or damaged.
    """
    place = remote and remote.removesuffix("/train")
    if place and not (folder / RECIPE).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _turn(folder, "fetch"):
            if not (folder / RECIPE).is_file():
                _fetch(place, folder)
    return load_prepared(folder, place)


def _damaged(train: Path) -> list[str]:
    """Shards that have not the size that the index says."""
    shards = [one["raw_data"] for one in json.loads((train / "index.json").read_text())["shards"]]
    return [
        shard["basename"]
        for shard in shards
        if (train / shard["basename"]).stat().st_size != shard["bytes"]
    ]


def _rebuild(folder: Path) -> str:
    return f"delete it (rm -r {folder}) and start again"


def check_enough(prepared: Prepared, cfg: RunConfig) -> None:
    """Refuse less than a batch; say how often a budget of tokens repeats the corpus.

    Raises:
        UserError: there are fewer rows than one batch.
    """
    rows, needed = prepared.num_rows, cfg.training.global_batch_size
    if rows < needed:
        raise UserError(
            f"data {cfg.data.name} gives {rows} rows of {cfg.training.seq_len} tokens, fewer than "
            f"the {needed} of one batch. Set training.global_batch_size={rows} or less, a smaller "
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


def _build_in_turn(
    folder: Path,
    cfg: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    inputs: dict[str, Any],
    place: str | None,
) -> None:
    """Build the shards aside under a lock, and give them their name when they are whole.

    Finished parts stay when the process dies, the network fails or the disk is full, so that the
    same command goes on from there; bad input leaves nothing.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    number, machines = machine_of(cfg)
    with _turn(folder, f"{number}-of-{machines}"):
        if (folder / RECIPE).is_file():
            return
        if folder.exists():
            raise UserError(f"{folder} has no {RECIPE}, so it is incomplete: {_rebuild(folder)}")
        try:
            corpus = build(partial, cfg, tokenizer, inputs["max_rows"], place)
            if corpus is None:
                return
            with _turn(folder, "join"):  # several machines may have finished together
                if not (folder / RECIPE).is_file():
                    recipe = {"inputs": inputs, "data": _readable(cfg), "stats": corpus.join()}
                    _write_synced(partial / RECIPE, json.dumps(recipe, indent=1))
                    if place:
                        upload(partial / "train", f"{place}/train", ["index.json"])
                        upload(partial, place, FILES)
                    partial.rename(folder)
        except UserError as error:
            kept = isinstance(error, PreparationInterruptedError)
            if not (kept and any((partial / "train").glob("*"))):
                shutil.rmtree(partial, ignore_errors=True)
            raise


def _fetch(place: str, folder: Path) -> bool:
    """Get the files beside the rows from the remote; False if it has no complete shards."""
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        found = download(place, partial, [RECIPE, *FILES])
        if found and not folder.exists():
            partial.rename(folder)
        return found
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _turn(folder: Path, name: str) -> Iterator[None]:
    """Hold while one process at a time may go on."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(f".{folder.name}.{name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process prepares {folder}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _readable(cfg: RunConfig) -> dict[str, Any]:
    """What the hashes in a recipe stand for, in words."""
    return {**asdict(cfg.data), "tokenizer": cfg.model.tokenizer or cfg.model.path}


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
