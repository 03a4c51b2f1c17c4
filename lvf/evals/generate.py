"""Continue a batch of prompts until a stop string, and return the text up to it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_length_tokens: int,
    stop_strings: Sequence[str],
    temperature: float,
    top_p: float,
    seed_text: str,
) -> list[str]:
    """Complete each prompt once; completions are cut before the first stop string.

    Args:
        model: Causal language model in eval mode.
        tokenizer: Its tokenizer.
        prompts: One batch.
        max_length_tokens: Limit of each prompt and its completion together.
        stop_strings: Where completions end.
        temperature: 0 decodes greedily, otherwise samples.
        top_p: Nucleus that is sampled from.
        seed_text: Names this batch: it seeds the samples, whatever was generated before.
    """
    import torch
    from transformers import GenerationConfig

    prompt_ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    ids, attended, pad = _left_pad(tokenizer, prompt_ids)
    room = max_length_tokens - min(len(row) for row in prompt_ids)
    if room <= 0:
        return [""] * len(prompts)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    settings = GenerationConfig(
        max_new_tokens=room,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
        **sampling,
    )
    devices = [model.device] if model.device.type == "cuda" else []
    generation: Any = model  # transformers does not type what a model inherits
    with torch.inference_mode(), torch.random.fork_rng(devices):
        torch.manual_seed(int.from_bytes(hashlib.sha256(seed_text.encode()).digest()[:8], "big"))
        output = generation.generate(
            input_ids=ids.to(model.device),
            attention_mask=attended.to(model.device),
            generation_config=settings,
            use_model_defaults=False,  # a chat model's own settings must not change the measure
            use_cache=True,
            stopping_criteria=[_stop_criterion(tokenizer, tuple(stop_strings))],
        )
    new_ids = output[:, ids.shape[1] :].tolist()
    return [
        cut(_completion(tokenizer, prompt, new[: max_length_tokens - len(prompt)]), stop_strings)
        for prompt, new in zip(prompt_ids, new_ids, strict=True)
    ]


def cut(text: str, stop_strings: Sequence[str]) -> str:
    """Text up to the first of the stop strings."""
    found = [text.find(stop) for stop in stop_strings]
    return text[: min((index for index in found if index >= 0), default=len(text))]


@functools.lru_cache(maxsize=1)
def _stop_criterion(tokenizer: PreTrainedTokenizerBase, stop_strings: tuple[str, ...]) -> Any:
    """Criterion that ends a row at a stop string; kept, since it goes through the vocabulary."""
    from transformers import StopStringCriteria

    return StopStringCriteria(tokenizer, list(stop_strings))


def _completion(tokenizer: PreTrainedTokenizerBase, prompt: list[int], new: list[int]) -> str:
    """Decode behind the prompt: some tokenizers drop the blank of a text's first word."""
    if tokenizer.eos_token_id in new:
        new = new[: new.index(tokenizer.eos_token_id)]
    return _decode(tokenizer, prompt + new)[len(_decode(tokenizer, prompt)) :]


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _left_pad(
    tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Ids and attention mask, both [num_rows, longest], and the id that fills."""
    import torch

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    assert isinstance(pad, int)
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    attended = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, attended, pad
