"""The text part of a model for more than text, written once as a model of its own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from lvf.errors import UserError
from lvf.models.untrusted import check_model
from lvf.models.written_once import written_once

TOLERANCE = 1e-4
"""Largest difference of a logit, as a share of the largest logit."""


def has_text_part(folder: Path) -> bool:
    """Whether a part of the model in this folder reads text, and others something else."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return isinstance(config, dict) and isinstance(config.get("text_config"), dict)


def text_part(folder: Path) -> Path:
    """The folder, in lvf's cache, of a model's text part.

    Raises:
        UserError: transformers has no causal model of it that computes the same.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    stamp = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return written_once(folder, stamp, partial(_write, folder))


def _write(folder: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    from lvf.models.newer import from_pretrained

    check_model("model.path", str(folder))
    try:
        whole, loaded = from_pretrained(
            AutoModelForImageTextToText, str(folder), dtype=torch.float32, output_loading_info=True
        )
        text_config = whole.config.get_text_config()
        text = AutoModelForCausalLM.from_config(text_config, dtype=torch.float32).eval()
        body = getattr(text, "model", text.base_model)
        body.load_state_dict(whole.get_decoder().state_dict())
        head = whole.get_output_embeddings().state_dict()
        text.get_output_embeddings().load_state_dict(head)
        ids = torch.randint(text_config.vocab_size, (1, 64), generator=torch.Generator())
        with torch.no_grad():
            one, other = (model.eval()(input_ids=ids).logits for model in (whole, text))
        away = float((one - other).abs().max() / one.abs().max())
    except Exception as error:
        raise _refusal(folder, f"{type(error).__name__}: {error}") from error
    if missing := sorted(loaded["missing_keys"]):
        raise _refusal(folder, f"it lacks {len(missing)} weights, such as {missing[0]}")
    if not away <= TOLERANCE:
        raise _refusal(folder, f"alone it computes other logits, by {away:.1%}")
    text.save_pretrained(target)
    from_pretrained(AutoTokenizer, str(folder)).save_pretrained(target)


def _refusal(folder: Path, reason: str) -> UserError:
    first_line = (reason.strip().splitlines() or [""])[0]
    return UserError(
        f"model.path={folder} is a model for more than text, whose text part cannot be taken out: "
        f"{first_line}. Save its text part as a model of its own (with save_pretrained) and give "
        "that folder."
    )
