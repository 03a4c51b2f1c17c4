"""Training side by side: a bare PyTorch loop, lvf, and the trainers that people use today.

    python benchmarks/training.py --shape embedded --rounds 5
    python benchmarks/training.py --trl TRL_VENV/bin/python --foundry FOUNDRY_VENV/bin/python

All train one Llama, in fp32, on the same batches of packed maths examples, with the same Lion.
`bare loop`, `Trainer` and TRL see packed rows with restarting positions, masked by transformers;
llm-foundry sees them too, but its transformers lets the examples of a row see each other.
`Trainer, padded` sees the same examples one a row, padded to the longest of their batch. The rounds
alternate; a figure is the median over rounds of a round's median step, in real tokens a second,
padding apart; a ratio is the median over rounds of that within a round (with the lowest and the
highest), since a machine's speed changes more between rounds than within one. The first steps of a
round (`--warmup`) do not count, so that `lvf, compiled` is timed without its compilation, which is
in the first.

A measurement can be taken in pieces: `--results FILE` adds each round to a file, and the table is
of all that are in it. The other environments are those of their projects (`uv venv TRL_VENV`,
`uv pip install --python TRL_VENV/bin/python trl peft lion-pytorch`; llm-foundry with peft).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from composer import Callback
from lion_pytorch import Lion
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments
from transformers.trainer_callback import TrainerCallback

from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.data.loader import make_loader
from lvf.data.shards import Prepared, prepare
from lvf.models.load import load_base, load_tokenizer, model_folder_or_id
from lvf.models.lora import add_adapters
from lvf.runs.run_folder import open_run_folder
from lvf.training.stopping import StopRequest
from lvf.training.trainer import make_trainer

SHAPES = {
    "embedded": None,
    "100m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
             "num_attention_heads": 12},
}  # fmt: skip
TRANSFORMERS_INPUTS = ("input_ids", "labels", "position_ids")
BETAS = (0.9, 0.99)
"""Lion's; speed does not depend on them."""
Batch = dict[str, Tensor]


def main() -> None:
    """Print a table of tokens a second and their ratios to the bare loop and to full finetuning."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="embedded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=2, help="first steps that do not count")
    parser.add_argument("--rows", type=int, default=8, help="packed rows of 256 tokens in a batch")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--padded", action="store_true", help="add Trainer on padded examples")
    parser.add_argument("--compiled", action="store_true", help="add lvf with runtime.compile")
    parser.add_argument("--trl", help="Python of an environment with TRL")
    parser.add_argument("--foundry", help="Python of an environment with llm-foundry and peft")
    parser.add_argument("--results", type=Path, help="file to which the rounds are added")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _compare(settings, Path(folder))


def _compare(settings: argparse.Namespace, folder: Path) -> None:
    path = _model_folder(settings.shape, folder)
    peers = {
        label: _start_peer(python, name)
        for label, name, python in (
            ("TRL", "trl", settings.trl),
            ("llm-foundry", "foundry", settings.foundry),
        )
        if python
    }
    results, began = settings.results or folder / "results.jsonl", time.time_ns()
    for round_, method in itertools.product(range(settings.rounds), ("full", "lora")):
        overrides = [] if method == "full" else [f"method.rank={settings.rank}"]
        cfg = compose(
            "+experiment=math_ift", f"method={method}", f"model.path={path}", "duration=8",
            f"training.global_batch_size={settings.rows}", f"paths.shards={folder}/shards",
            f"paths.runs={folder}/runs{round_}", "logger=none", *overrides,
        )  # fmt: skip
        prepared = prepare(cfg)
        batches = list(itertools.islice(make_loader(prepared, cfg, "run"), settings.steps))
        tokens = statistics.mean(int(batch["num_tokens"].sum()) for batch in batches)
        for name, steps in _contend(cfg, prepared, batches, folder, peers, settings):
            speed = tokens / statistics.median(steps[settings.warmup :])
            print(f"round {round_} {method:5} {name:16} {speed:9,.0f} tokens/s", flush=True)
            with results.open("a") as file:
                file.write(json.dumps([f"{began}-{round_}", method, name, speed]) + "\n")
    for peer in peers.values():
        peer.stdin.close()
    _print_table(settings, results)


def _contend(
    cfg: RunConfig,
    prepared: Prepared,
    batches: list[Batch],
    folder: Path,
    peers: dict[str, subprocess.Popen[str]],
    settings: argparse.Namespace,
) -> Iterator[tuple[str, list[float]]]:
    """Each trainer's name, and the seconds of its steps."""
    yield "bare loop", _bare(cfg, batches)
    yield "Trainer", _hf_trainer(cfg, batches, folder)
    if settings.padded:
        yield "Trainer, padded", _hf_trainer(cfg, [_unpacked(batch) for batch in batches], folder)
    for name, peer in peers.items():
        yield name, _peer(peer, cfg, batches, folder)
    yield "lvf", _lvf(cfg, prepared, len(batches))
    if settings.compiled:
        cfg.paths.runs += "-compiled"
        cfg.runtime.compile = True
        yield "lvf, compiled", _lvf(cfg, prepared, len(batches))


def _start_peer(python: str, name: str) -> subprocess.Popen[str]:
    """A trainer in another environment, once it waits for jobs: it must not start beside others."""
    script = Path(__file__).with_name("training_peers.py")
    peer = subprocess.Popen(
        [python, str(script), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if peer.stdout.readline() != "ready\n":
        raise SystemExit(f"{python} cannot start {script} {name}: see above")
    return peer


def _peer(
    peer: subprocess.Popen[str], cfg: RunConfig, batches: list[Batch], folder: Path
) -> list[float]:
    """Seconds of the steps of a trainer in another environment, which has started already."""
    method, job = cfg.method, folder / "job.pt"
    lora = {
        "r": method.rank, "lora_alpha": method.alpha, "lora_dropout": method.dropout,
        "target_modules": method.target_modules, "task_type": "CAUSAL_LM",
    }  # fmt: skip
    inputs = [{name: batch[name] for name in TRANSFORMERS_INPUTS} for batch in batches]
    torch.save(
        {
            "model": model_folder_or_id(cfg.model), "batches": inputs,
            "lr_peak": cfg.training.lr_peak, "betas": BETAS,
            "lora": lora if method.kind == "lora" else None,
        },
        job,
    )  # fmt: skip
    peer.stdin.write(f"{job}\n")
    peer.stdin.flush()
    return json.loads(peer.stdout.readline())


def _print_table(settings: argparse.Namespace, results: Path) -> None:
    speeds: dict[tuple[str, str], dict[str, float]] = {}
    for round_, method, name, speed in map(json.loads, results.read_text().splitlines()):
        speeds.setdefault((method, name), {})[round_] = speed
    print(f"\n{settings}, {torch.get_num_threads()} threads, {platform.processor()}, ", end="")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}")
    print("| method | trainer | tokens/s | of the bare loop | of full |\n|---|---|---|---|---|")
    for (method, name), ours in speeds.items():
        bare, full = (_ratio(ours, speeds[key]) for key in ((method, "bare loop"), ("full", name)))
        print(f"| {method} | {name} | {statistics.median(ours.values()):,.0f} | {bare} | {full} |")


def _ratio(ours: dict[str, float], theirs: dict[str, float]) -> str:
    """Median over common rounds of a round's ratio, and its range."""
    ratios = sorted(ours[one] / theirs[one] for one in ours.keys() & theirs.keys())
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"


def _model_folder(shape: str, folder: Path) -> str:
    """`embedded`, or a random Llama behind the packaged tokenizer."""
    if SHAPES[shape] is None:
        return "embedded"
    packaged = compose("+experiment=math_ift").model
    tokenizer = load_tokenizer(packaged)
    config = LlamaConfig(
        **SHAPES[shape], vocab_size=len(tokenizer), eos_token_id=1, use_cache=False
    )
    path = folder / shape
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def _plain_model(cfg: RunConfig) -> Any:
    model: Any = load_base(cfg.model)
    return add_adapters(model, cfg.method) if cfg.method.kind == "lora" else model


def _lion(model: Any, cfg: RunConfig) -> Lion:
    return Lion([p for p in model.parameters() if p.requires_grad], lr=cfg.training.lr_peak)


def _bare(cfg: RunConfig, batches: list[Batch]) -> list[float]:
    model = _plain_model(cfg).train()
    optimizer = _lion(model, cfg)
    ends = [time.perf_counter()]
    for batch in batches:
        inputs = {name: batch[name] for name in TRANSFORMERS_INPUTS}
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    return _differences(ends)


def _hf_trainer(cfg: RunConfig, batches: list[Batch], folder: Path) -> list[float]:
    clock = _TrainerClock()
    model = _plain_model(cfg)
    arguments = TrainingArguments(
        output_dir=str(folder / "hf"), max_steps=len(batches), per_device_train_batch_size=1,
        max_grad_norm=1.0, logging_strategy="no", save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=batches, callbacks=[clock],
        data_collator=lambda one: {k: v for k, v in one[0].items() if k != "num_tokens"},
        optimizers=(_lion(model, cfg), None),
    )  # fmt: skip
    trainer.train()
    return _differences(clock.ends)


class _TrainerClock(TrainerCallback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def _unpacked(batch: Batch) -> Batch:
    """The same examples one a row, padded to the longest."""
    examples = list(_examples(batch))
    longest = max(len(ids) for ids, _ in examples)
    shape = (len(examples), longest)
    ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    mask = torch.zeros(shape, dtype=torch.long)
    for place, (one, label) in enumerate(examples):
        ids[place, : len(one)], labels[place, : len(one)], mask[place, : len(one)] = one, label, 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def _examples(batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    for ids, labels, positions, num in zip(
        batch["input_ids"], batch["labels"], batch["position_ids"], batch["num_tokens"], strict=True
    ):
        starts = [*torch.nonzero(positions[:num] == 0)[:, 0].tolist(), int(num)]
        for start, end in itertools.pairwise(starts):
            yield ids[start:end], labels[start:end]


def _lvf(cfg: RunConfig, prepared: Prepared, steps: int) -> list[float]:
    clock = _ComposerClock()
    batches = {steps: cfg.duration}
    trainer = make_trainer(cfg, prepared, open_run_folder(cfg), batches, None, StopRequest())
    trainer.state.callbacks.append(clock)
    trainer.fit()
    trainer.close()
    # The last step ends with the checkpoint and the export, which the others do not have.
    return _differences(clock.ends)[:-1]


class _ComposerClock(Callback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def epoch_start(self, state: Any, logger: Any) -> None:
        if not self.ends:
            self.ends.append(time.perf_counter())

    def batch_end(self, state: Any, logger: Any) -> None:
        self.ends.append(time.perf_counter())


def _differences(ends: list[float]) -> list[float]:
    return [end - start for start, end in itertools.pairwise(ends)]


if __name__ == "__main__":
    main()
