"""Sampling by vLLM, for whoever has the extra `vllm` and a GPU. Not run yet by its writers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence

import torch
from vllm import LLM, SamplingParams, TokensPrompt

from lvf.evals.completion import Completion, Key, Request, completion_text, seed_of
from lvf.models.special_tokens import end_ids

BATCHES_AT_ONCE = 8
"""vLLM keeps its batch full within a call: a call takes several batches, and ends in a save."""


def generate(request: Request) -> Iterator[tuple[Key, Completion]]:
    """`lvf.evals.completion.Backend`; a sample's seed follows from its key.

    The model leaves the GPU while vLLM, which loads its own copy from disk, is there.
    """
    model, wanted, rows = request.model, request.wanted, request.batch_rows
    if not wanted:
        return
    device = model.device
    module: torch.nn.Module = model  # whose `to` has types
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        request.tokenizer.save_pretrained(folder)
        module.to("cpu")
        torch.cuda.empty_cache()
        engine = LLM(
            model=folder,
            trust_remote_code=False,
            dtype=str(model.dtype).removeprefix("torch."),
            max_model_len=request.sampling.max_length_tokens,
            max_num_seqs=rows,
            enable_prefix_caching=True,
        )
        for start in range(0, len(wanted), BATCHES_AT_ONCE * rows):
            yield from _call(engine, request, wanted[start : start + BATCHES_AT_ONCE * rows])
    del engine
    module.to(device)


def _call(engine: LLM, request: Request, keys: Sequence[Key]) -> Iterator[tuple[Key, Completion]]:
    tokenizer, sampling = request.tokenizer, request.sampling
    ends = end_ids(request.model, tokenizer)
    room = {name: request.room(name) for name, _ in keys}
    yield from ((key, Completion("", False, [])) for key in keys if room[key[0]] <= 0)
    keys = [key for key in keys if room[key[0]] > 0]
    settings = [
        SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=room[key[0]],
            stop=list(sampling.stop_strings),
            stop_token_ids=sorted(ends),
            seed=seed_of(key) % 2**63,
        )
        for key in keys
    ]
    prompts = [TokensPrompt(prompt_token_ids=request.prompts[name]) for name, _ in keys]
    outputs = engine.generate(prompts, settings)
    for key, output in zip(keys, outputs, strict=True):
        new = list(output.outputs[0].token_ids)
        context = request.context(key[0])
        text, stopped = completion_text(tokenizer, context, new, sampling.stop_strings, ends)
        yield key, Completion(text, not stopped and bool(ends & set(new)), new)
