"""How fast multiple choice is scored, beside lm-eval's own Hugging Face model.

    python benchmarks/multiple_choice_speed.py [items] [shots]

The packaged base on its three multiple-choice sets, the same model object and batch size on both
sides, each with its own requests, likelihoods and scores. Ours also counts tokens for the third
score and keeps lm-eval's own result, packed, whose size is printed.
"""

import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from lvf.config.compose import compose
from lvf.embedded.corpora import base_dir
from lvf.evals.measure import benchmarks_dir
from lvf.evals.official import load_tasks
from lvf.evals.suite import run_lm_eval

TASKS = ("hellaswag", "arc_challenge", "winogrande")


def main() -> None:
    """Print seconds of both sides, and their ratio."""
    num_items = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    shots = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    model = AutoModelForCausalLM.from_pretrained(base_dir(), dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(base_dir())
    cfg = compose()
    evals, folder = replace(cfg.evals, limit=num_items), benchmarks_dir(cfg)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    seconds = {"lm-eval": 0.0, "lvf": 0.0}
    with tempfile.TemporaryDirectory() as temporary:
        # All of lm-eval's first: ours makes its templates faster for the rest of the process.
        for number, task in enumerate((TASKS[0], *TASKS)):  # once more, to warm up
            definition = replace(evals.lm_eval[task], num_fewshot=shots)
            loaded = load_tasks(definition, folder, f"{temporary}/{number}")
            lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=evals.batch_size)
            start = time.perf_counter()
            evaluate(lm, loaded, limit=num_items)
            if number:
                seconds["lm-eval"] += time.perf_counter() - start
        for task in TASKS:
            native = Path(temporary) / f"{task}.json.gz"
            start = time.perf_counter()
            definition = replace(evals.lm_eval[task], num_fewshot=shots)
            run_lm_eval(model, tokenizer, definition, evals, folder, native)
            seconds["lvf"] += time.perf_counter() - start
            print(f"{task}: lm-eval's result takes {native.stat().st_size / 1e6:.2f} MB packed")
    for side, took in seconds.items():
        print(f"{side:8} {took:6.1f} s for {num_items} items of each, {shots} shots")
    print(f"ratio {seconds['lm-eval'] / seconds['lvf']:.2f}")


if __name__ == "__main__":
    main()
