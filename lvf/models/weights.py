"""Whether a model's files are whole, seen before any work starts."""

from __future__ import annotations

from typing import Any

from lvf.config.schema import ModelConfig
from lvf.errors import UserError
from lvf.models.load import load_model_config, model_folder_or_id
from lvf.models.newer import from_pretrained
from lvf.models.untrusted import needs_safetensors

NAMED = 4
"""Weights that a message names."""


def check_weights(model: ModelConfig) -> None:
    """Refuse files that do not hold every weight of the architecture that config.json names.

    Raises:
        UserError: weights are missing, of other shapes, quantised, or no weights at all (a pointer
            of git-lfs); or the model is for more than text.
    """
    config = load_model_config(model)
    if config.get_text_config() is not config:
        raise UserError(
            f"model.path={model.path} is a {config.model_type}, for more than text. Download it "
            "(hf download) and give its folder, of which the text part is then taken."
        )
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"model.path={model.path} holds quantised weights (quantization_config in config.json),"
            " which cannot be trained. Give the model that they were made from."
        )
    if model.random_weights:
        return
    import torch
    import transformers

    path = model_folder_or_id(model)
    kwargs: dict[str, Any] = {"revision": model.revision, "device_map": "meta"}
    kwargs |= {"dtype": torch.float32, "trust_remote_code": model.trust_remote_code}
    kwargs |= {"use_safetensors": needs_safetensors() or None, "output_loading_info": True}
    kwargs["ignore_mismatched_sizes"] = True  # named below, all of them
    try:
        _, loaded = from_pretrained(transformers.AutoModelForCausalLM, path, **kwargs)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"model.path={path}: its weights cannot be loaded: {type(error).__name__}: {reason}. "
            "A file is broken, or is a git-lfs pointer (a text file of three lines; `git lfs pull` "
            "fetches what it stands for)."
        ) from error
    # Version 4 of transformers gives names, version 5 names with both shapes.
    entries = loaded["mismatched_keys"]
    if other := sorted(entry if isinstance(entry, str) else entry[0] for entry in entries):
        raise UserError(
            f"model.path={path}: {len(other)} weights have other shapes than config.json says: "
            f"{_some(other)}. Bring config.json and weights of one model together."
        )
    if missing := sorted(loaded["missing_keys"]):
        raise UserError(
            f"model.path={path} lacks {len(missing)} of the model's weights, which would be drawn "
            f"at random: {_some(missing)}. Copy the whole model; if its head is "
            "the embedding, set tie_word_embeddings in config.json."
        )
    if unused := sorted(loaded["unexpected_keys"]):
        print(
            f"model.path={path}: {len(unused)} weights belong to no part of the model and are not "
            f"used: {_some(unused)}"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
