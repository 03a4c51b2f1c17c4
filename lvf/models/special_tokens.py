"""Special tokens that a tokenizer adds by itself, and those that end a generated text.

Training, sampling, likelihoods and lm-eval all take token ids from one tokenizer. What it puts in
front of a text (BOS) belongs there in all of them. What it puts behind (EOS, with `add_eos_token`)
would end every prompt: it is taken off, and the data's own preparation ends each document once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lvf.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE = "a"


def drop_appended_tokens(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Change a fast tokenizer in place so that it adds nothing behind a text.

    Raises:
        UserError: it adds tokens in a way that is not known; `name` says which tokenizer it is.
    """
    if not appended_ids(tokenizer):
        return
    from tokenizers import Tokenizer

    backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    saved = json.loads(backend.to_str())
    for processor in saved["post_processor"].get("processors", [saved["post_processor"]]):
        for kind, last in (("single", "A"), ("pair", "B")):
            template = processor.get(kind, [])
            texts = [piece.get("Sequence", {}).get("id") for piece in template]
            if last in texts:
                processor[kind] = template[: texts.index(last) + 1]
    backend.post_processor = Tokenizer.from_str(json.dumps(saved)).post_processor
    if behind := appended_ids(tokenizer):
        tokens = tokenizer.convert_ids_to_tokens(behind)
        raise UserError(
            f"the tokenizer {name} puts {' '.join(tokens)} behind every text, prompts too, which "
            "ends them before they are answered: take it out of post_processor in tokenizer.json"
        )


def appended_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that the tokenizer puts behind a text by itself; none of a slow tokenizer."""
    if not tokenizer.is_fast:
        return []
    with_special = tokenizer(PROBE)["input_ids"]
    without = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    starts = range(len(with_special) - len(without) + 1)
    for start in starts:
        if with_special[start : start + len(without)] == without:
            return list(with_special[start + len(without) :])
    return []


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that end a generated text: the tokenizer's EOS, and those that the model names."""
    assert isinstance(tokenizer.eos_token_id, int)
    named: Any = getattr(model.generation_config, "eos_token_id", None)
    return {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
