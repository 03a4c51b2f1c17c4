"""Names token shards by everything that enters them, and checks that it fits together."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lvf.config.schema import ModelConfig, RunConfig, stable_hash
from lvf.data.evaluation_items import evaluation_items
from lvf.data.prompts import template_of
from lvf.data.sources import PART_ROWS, local_files, source_fingerprint
from lvf.errors import UserError
from lvf.models.load import load_model_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCHEMA_VERSION = 4
"""Raise it whenever the same inputs would give other shards."""


def recipe_inputs(cfg: RunConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Everything that decides the content of the shards; its hash names their folder.

    Raises:
        UserError: a source is missing, or the template unknown.
    """
    data = cfg.data
    sources = {"train": data.train, "validation": data.validation, "heldout": data.heldout}
    return {
        "schema_version": SCHEMA_VERSION,
        "sources": {name: one and source_fingerprint(one) for name, one in sources.items()},
        "columns": [data.text_column, data.prompt_column, data.response_column],
        "template": None if data.text_column else template_of(data),
        "tokenizer": _tokenizer_hash(tokenizer),
        "seq_len": cfg.training.seq_len,
        "packing_ratio": cfg.training.packing_ratio,
        "part_rows": PART_ROWS,
        "max_documents": data.max_documents,
        "split_documents": data.split_documents,
        "max_rows": max_rows(cfg),
        "excluded": stable_hash(evaluation_items(cfg.evals)) if data.exclude_overlap else None,
    }


def sharing_key(cfg: RunConfig) -> str:
    """Name that runs of the same settings of data share, without a look at corpus or tokenizer."""
    model, training = cfg.model, cfg.training
    settings: list[Any] = [model.path, model.tokenizer, model.revision, cfg.paths.shards]
    settings += [training.seq_len, training.packing_ratio, max_rows(cfg), asdict(cfg.data)]
    settings += [asdict(cfg.evals)] if cfg.data.exclude_overlap else []
    return f"{cfg.data.name}-{stable_hash(settings)}"


def largest_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Largest id that the tokenizer can give."""
    return max(tokenizer.get_vocab().values())


def check_fits(model: ModelConfig, tokenizer: PreTrainedTokenizerBase, seq_len: int) -> None:
    """Check that the model has an embedding for each token and a position for each place.

    Raises:
        UserError: it has not, or the tokenizer cannot say where its tokens lie in the text.
    """
    shape = load_model_config(model)
    name = model.tokenizer or model.path
    if not tokenizer.is_fast:
        raise UserError(
            f"model.tokenizer={name} has no tokenizer.json (a fast tokenizer), without which the "
            "loss cannot be kept to the response"
        )
    backend = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    num_ids = max(backend.get_vocab(with_added_tokens=False).values()) + 1
    if num_ids > shape.vocab_size:  # tokens that were added to it may never occur
        raise UserError(
            f"the tokenizer {name} has {num_ids} tokens, more than the {shape.vocab_size} of "
            f"model.path={model.path}. Choose its own with model.tokenizer=null, or one that fits."
        )
    longest = getattr(shape, "max_position_embeddings", math.inf)
    if seq_len > longest:
        raise UserError(
            f"training.seq_len={seq_len} exceeds the {longest} positions of model.path="
            f"{model.path}. Set training.seq_len={longest} or less."
        )


def _tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(f"{tokenizer.eos_token_id} {content}".encode()).hexdigest()


def max_rows(cfg: RunConfig) -> int | None:
    """Rows that a run on a hub corpus can use, so that not all of it must be fetched.

    A trunk and its branches share their shards. Local corpora are always prepared whole, so that
    runs of all durations share them.
    """
    if cfg.regime.duration_unit != "tokens" or local_files(cfg.data.train) is not None:
        return None
    longest = cfg.trunk.duration or cfg.duration
    return num_token_batches(cfg, longest) * cfg.training.global_batch_size


def batch_tokens(cfg: RunConfig) -> int:
    """Places in a batch, which is its tokens where rows are full."""
    return cfg.training.seq_len * cfg.training.global_batch_size


def num_token_batches(cfg: RunConfig, num_tokens: float) -> int:
    """Optimiser steps in a budget of tokens, as the paper counts them (App. A), at least 1."""
    return max(1, round(num_tokens / batch_tokens(cfg)))
