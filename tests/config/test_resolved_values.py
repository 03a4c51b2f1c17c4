"""Every resolved value is that of commit 95b6887, when conf/ had other files.

`resolved_values.json.gz` was written by that commit's code: `values` holds, for each key of a run,
its distinct values; `runs` and `sweeps` hold the command line of each run and which values it had.
"""

import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException

from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.errors import UserError
from lvf.planning.docs import grid, options
from lvf.runs.sweep import runs_of

FILE = Path(__file__).with_name("resolved_values.json.gz")
BEFORE = json.loads(gzip.decompress(FILE.read_bytes()))
SCALES = ("embedded", "small", "paper")
TODAY = {
    # word on the command line of 95b6887: the words that say the same today
    "method=lora_r2": "method=lora method.rank=2",
    "method=lora_r8": "method=lora method.rank=8",
    "method=lora_r32": "method=lora method.rank=32",
    "method=full_decay_5e-5": (
        "method=full method.name=full_decay_5e-5 optimizer.weight_decay=5e-5"
    ),
    "method=full_decay_1e-4": (
        "method=full method.name=full_decay_1e-4 optimizer.weight_decay=1e-4"
    ),
    "method=full_attention_dropout_5": (
        "method=full method.name=full_attention_dropout_5 training.attention_dropout=0.05"
    ),
    "method=full_attention_dropout_10": (
        "method=full method.name=full_attention_dropout_10 training.attention_dropout=0.1"
    ),
    "data=paper/math_ift": "data=metamathqa",
    "data=paper/code_ift": "data=magicoder_evol_instruct",
    "data=paper/chat_ift": "data=tulu_v2_mix",
    "data=paper/math_cpt": "data=openwebmath",
    "data=paper/code_cpt": "data=starcoder_python",
    "data=small/math_ift": "data=metamathqa_40k",
    "data=small/code_ift": "data=magicoder_evol_instruct_40k",
    "data=small/chat_ift": "data=tulu_v2_mix_40k",
    "data=small/math_cpt": "data=openwebmath",
    "data=small/code_cpt": "data=starcoder_python",
    "data=embedded/math_ift": "data=embedded_math_ift",
    "data=embedded/code_ift": "data=embedded_code_ift",
    "data=embedded/chat_ift": "data=embedded_chat_ift",
    "data=embedded/math_cpt": "data=embedded_math_cpt",
    "data=embedded/code_cpt": "data=embedded_code_cpt",
}

ADDED: dict[str, dict[str, Any]] = {
    "model": {"trust_remote_code": False},
    "method": {"peft": None, "adapter": "lora"},
    "data": {"replay": 0.0, "source": None, "source_column": "text"},
    "training": {"dropout_per_map": False, "average_loss_over": "tokens"},
    "runtime": {"stop_at": None},
}
"""Settings that 95b6887 did not have, with the value that changes nothing; scale=paper differs."""
ADDED_ALONE = {
    **{"strength": [], "truncate": [], "damp": []},
    "sequence": {"first": {}, "keep_adapter": False, "config": None},
}
"""The same of settings that belong to no group, or to a new group."""
ONE_PAGE = {
    "name": "{run_id}",
    "init_kwargs": {
        "id": "{run_id}", "resume": "allow", "dir": "{run_folder}", "config": "{configuration}"
    },
}  # fmt: skip
"""What W&B is given today."""
JSONL = {
    "_target_": "lvf.training.metrics_log.JsonlLogger", "filename": "{run_folder}/metrics.jsonl"
}  # fmt: skip


def before(places: dict[str, int]) -> dict[str, Any]:
    run = {key: BEFORE["values"][key][place] for key, place in places.items()}
    run |= {key: run[key] | new for key, new in ADDED.items()} | ADDED_ALONE
    if run["scale"]["name"] == "paper":
        run["training"] = run["training"] | {"dropout_per_map": True}
    if "wandb" in run["logger"]:  # of one page for all of a run, beside the file
        run["logger"] = {"jsonl": JSONL, "wandb": run["logger"]["wandb"] | ONE_PAGE}
    lm_eval = {
        name: task | {"training_prompt": False} for name, task in run["evals"]["lm_eval"].items()
    }
    added = lm_eval["gsm8k"] | {"num_fewshot": 0, "training_prompt": True}
    return run | {"evals": run["evals"] | {"lm_eval": lm_eval | {"gsm8k_training_prompt": added}}}


NEWER_SWEEPS = ("replay", "sequence", "small_cpu")


def resolved(cfg: RunConfig) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(cfg)))


def of_scale(scale: str) -> list[dict[str, Any]]:
    """Every 30th run, and on the embedded scale the first with each word of a command line.

    All 445 of each scale were compared when conf/ was rewritten.
    """
    runs = [run for run in BEFORE["runs"] if f"scale={scale}" in run["words"]]
    seen: set[str] = set()
    chosen = []
    for place, run in enumerate(runs):
        if place % 30 == 0 or (scale == "embedded" and not seen.issuperset(run["words"])):
            chosen.append(run)
            seen.update(run["words"])
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
def test_experiments_methods_and_choices_have_the_values_of_before(scale: str) -> None:
    different = []
    for run in of_scale(scale):
        words = " ".join(TODAY.get(word, word) for word in run["words"]).split()
        try:
            now = resolved(compose(*words))
        except (UserError, HydraException):
            now = None
        if now != (before(run["run"]) if "run" in run else None):
            different.append(words)
    assert not different


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sweep", "scale"),
    [(sweep, "embedded") for sweep in options("sweep") if sweep not in NEWER_SWEEPS]
    + [("main", "small"), ("main", "paper")],
)
def test_every_sweep_has_the_runs_of_before(sweep: str, scale: str) -> None:
    def in_order(runs: list[dict[str, Any]]) -> list[str]:
        return sorted(json.dumps(run, sort_keys=True) for run in runs)

    now = [resolved(cell.cfg) for cell in runs_of(grid(sweep, scale).sweep, [f"scale={scale}"])]
    runs = BEFORE["sweeps"][f"{sweep} {scale}"]
    assert in_order(now) == in_order([before(run["run"]) for run in runs])
