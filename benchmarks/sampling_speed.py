"""How fast HumanEval is sampled, beside transformers' `generate` one prompt at a time.

    python benchmarks/sampling_speed.py [problems] [batch]

The packaged base on its programming benchmark, 50 samples a problem at temperature 0.2, top-p 0.95,
with the same stop strings and limit everywhere. `generate` is measured with the 50 samples of a
prompt as one batch, and with one sample at a time (on the first problem only, scaled up).
"""

import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, StopStringCriteria

from lvf.config.data_schema import SourceConfig
from lvf.data.prompts import prompt_ids
from lvf.data.sources import local_files
from lvf.embedded.corpora import base_dir
from lvf.evals.completion import Request, Sampling
from lvf.evals.generate import generate
from lvf.evals.humaneval import STOP_STRINGS, load_problems

SAMPLES, TEMPERATURE, TOP_P, MAX_LENGTH_TOKENS = 50, 0.2, 0.95, 256


def official(model: Any, tokenizer: Any, prompts: list[str], samples: int, calls: int) -> int:
    """Sample every prompt in `calls` calls of transformers' own loop; the number of samples."""
    stop = StopStringCriteria(tokenizer, list(STOP_STRINGS))
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        settings = GenerationConfig(
            do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, top_k=0,
            max_length=MAX_LENGTH_TOKENS, num_return_sequences=samples // calls,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        for _ in range(calls):
            model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=settings,
                stopping_criteria=[stop], use_cache=True,
            )  # fmt: skip
    return len(prompts) * samples


def ours(model: Any, tokenizer: Any, prompts: list[str], batch_rows: int) -> int:
    """Sample every prompt with lvf's sampler; the number of samples."""
    sampling = Sampling(
        temperature=TEMPERATURE,
        top_p=TOP_P,
        max_length_tokens=MAX_LENGTH_TOKENS,
        stop_strings=STOP_STRINGS,
    )
    named = {str(number): prompt_ids(tokenizer, prompt) for number, prompt in enumerate(prompts)}
    wanted = [(name, sample) for name in named for sample in range(SAMPLES)]
    request = Request(
        model=model, tokenizer=tokenizer, prompts=named, wanted=wanted, sampling=sampling,
        batch_rows=batch_rows,
    )  # fmt: skip
    return len(list(generate(request)))


def rate(what: str, work: Callable[[], int]) -> float:
    """Run, print and return samples a second."""
    start = time.perf_counter()
    samples = work()
    seconds = time.perf_counter() - start
    print(f"{what:55} {samples:6} samples {seconds:7.1f} s {samples / seconds:8.1f} a second")
    return samples / seconds


def main() -> None:
    """Print the three rates and their ratios."""
    num_problems = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    batch_rows = int(sys.argv[2]) if len(sys.argv) > 2 else 256
    model = AutoModelForCausalLM.from_pretrained(base_dir(), dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(base_dir())
    (file,) = local_files(SourceConfig(path="embedded:benchmarks/humaneval_test")) or ()
    prompts = [one["prompt"].strip() for one in load_problems(file, num_problems).values()]
    prompts.sort(key=len, reverse=True)
    print(f"{platform.processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    with torch.inference_mode():
        official(model, tokenizer, prompts[:1], 1, 1)  # warm up
        singly = rate(
            "generate, one sample at a time (first problem)",
            lambda: official(model, tokenizer, prompts[:1], SAMPLES, SAMPLES),
        )
        batched = rate(
            "generate, the 50 samples of a prompt as one batch",
            lambda: official(model, tokenizer, prompts, SAMPLES, 1),
        )
        ratio = rate(f"lvf, {batch_rows} rows", lambda: ours(model, tokenizer, prompts, batch_rows))
    print(f"ratio {ratio / batched:.2f} to the batched, {ratio / singly:.1f} to the single")


if __name__ == "__main__":
    main()
