"""How fast GSM8K is answered, beside lm-eval's own Hugging Face model, with equal answers.

    python benchmarks/answering_speed.py [items] [shots] [OVERRIDE ...]

Overrides choose model and files, as on lvf's command lines: `model.path=FILE.gguf
evals.benchmarks=FOLDER evals.batch_size=16`. Without them: the packaged base on its own set.
Both sides have the same model object, requests and batch size.
"""

import copy
import platform
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from lvf.config.compose import compose
from lvf.evals.language_model import CountingLM
from lvf.evals.measure import benchmarks_dir
from lvf.evals.official import load_tasks
from lvf.models.load import load_base, load_tokenizer


def main() -> None:
    """Print seconds of both sides, their ratio, and how many answers are equal."""
    num_items = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    shots = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    cfg = compose("+experiment=math_ift", *sys.argv[3:])
    model: Any = load_base(cfg.model).eval()
    tokenizer: Any = load_tokenizer(cfg.model)
    definition = replace(cfg.evals.lm_eval["gsm8k"], num_fewshot=shots)
    with tempfile.TemporaryDirectory() as cache:
        (official,) = load_tasks(definition, benchmarks_dir(cfg), cache)["tasks"].values()
        official.set_fewshot_seed(seed=1234)
        official.build_all_requests(limit=num_items)
    requests = official.instances
    batch_size = cfg.evals.batch_size
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{len(requests)} items, {shots} shots, batch {batch_size}"
    )
    answers, seconds = {}, {}
    for name, kind in (("lvf", CountingLM), ("lm-eval", HFLM)):
        lm: Any = kind(model, tokenizer=tokenizer, batch_size=batch_size)
        lm.generate_until(copy.deepcopy(requests[:1]), disable_tqdm=True)  # warm up
        start = time.perf_counter()
        answers[name] = lm.generate_until(copy.deepcopy(requests), disable_tqdm=True)
        seconds[name] = time.perf_counter() - start
        print(f"{name:8} {seconds[name]:7.1f} s", flush=True)
    equal = sum(a == b for a, b in zip(answers["lvf"], answers["lm-eval"], strict=True))
    ratio = seconds["lm-eval"] / seconds["lvf"]
    print(f"ratio {ratio:.2f}; {equal} of {len(requests)} answers are equal")


if __name__ == "__main__":
    main()
