"""Kill a run again and again, at random moments: does it end as if nothing had happened?

    python -m benchmarks.kill_storm [kills [full|lora ...]]

For full finetuning and LoRA, on one and on two ranks: an embedded run is trained undisturbed, then
again with `kills` SIGKILLs to its whole process group, each at a random moment of a life (start and
saves included; every third aimed into a save). It is only ever started again. Its final weights
must equal the undisturbed ones bit for bit.

Lives are forked from a process that has imported the libraries, which takes ten seconds each time
and where there is nothing to lose; all else of a life is that of `python -m lvf.train`.
"""

from __future__ import annotations

import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.forked_ranks import Ranks, start_ranks
from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.data.shards import Prepared, prepare
from lvf.runs.run_folder import TRAINED, RunFolder, open_run_folder, run_folder
from lvf.training.trainer import train


@dataclass
class Met:
    """What the kills of a storm met."""

    start: int = 0
    """No batch had been trained yet in that life."""
    batch: int = 0
    save: int = 0
    """A checkpoint was half written."""


def storm(cfg: RunConfig, prepared: Prepared, kills: int, chance: random.Random) -> Met:
    """Train a run to its end through `kills` kills, of lives of at most seven batches."""
    folder, met = open_run_folder(cfg), Met()
    for kill in range(kills):
        began, born = _lines(folder), time.time()
        ranks = start_ranks(cfg.runtime.nproc_per_node, lambda: train(cfg, prepared, folder))
        if kill % 3 == 0:  # as soon as a save has begun, or a moment later
            _until(lambda since=born: _is_saving(folder, since), ranks)
            time.sleep(chance.uniform(0, 0.005))
        else:
            wanted = began + chance.randrange(7)
            _until(lambda least=wanted: _lines(folder) >= least, ranks)
            time.sleep(chance.uniform(0, 2.0 if wanted == began else 0.2))
        if _is_saving(folder, born):
            met.save += 1
        elif _lines(folder) == began:
            met.start += 1
        else:
            met.batch += 1
        ranks.kill()
        ended = ranks.wait()
        if any(ended) and set(ended) != {-signal.SIGKILL}:
            raise SystemExit(f"life {kill} failed, statuses {ended}:\n{ranks.said()}")
        if not any(ended):
            raise SystemExit(f"kill {kill} came too late: make the run longer")
    ranks = start_ranks(cfg.runtime.nproc_per_node, lambda: train(cfg, prepared, folder))
    ranks.end_with([0] * len(ranks.pids))
    if folder.status()["state"] != TRAINED:
        raise SystemExit(f"{folder.path} is not trained: {folder.status()}")
    return met


def _is_saving(folder: RunFolder, since: float) -> bool:
    """Whether a save has begun since then, in seconds of the epoch; earlier ones were killed."""
    partial = folder.checkpoints.glob(".*.partial")
    return any(path.stat().st_mtime > since for path in partial if path.exists())


def _lines(folder: RunFolder) -> int:
    """Batches that all lives have begun or ended, from their log."""
    file = folder.path / "metrics.jsonl"
    losses = "loss/train/total"
    return file.read_text().count(losses) if file.exists() else 0


def _until(is_so: Callable[[], bool], ranks: Ranks) -> None:
    while not is_so():
        if os.waitid(os.P_PID, ranks.pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)


def last_weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    """Weights of the last export."""
    export = folder.finished_exports()[-1]
    return load_file(next(export.glob("*model.safetensors")))


def same_weights(one: RunFolder, other: RunFolder) -> bool:
    """Whether two runs have ended with the same weights, bit for bit."""
    expected, found = last_weights(one), last_weights(other)
    same_names = expected.keys() == found.keys()
    return same_names and all(torch.equal(expected[name], found[name]) for name in expected)


def compare(method: str, ranks: int, kills: int, place: Path) -> bool:
    """Train a run undisturbed and in a storm, print the figures; whether both end the same."""
    settings = ["+experiment=math_ift", f"method={method}", f"runtime.nproc_per_node={ranks}"]
    size = ["data.max_documents=200", f"duration={kills // 4 + 1}"]
    often = ["runtime.checkpoint_every_batches=3", f"paths.shards={place}/shards"]
    cfg = compose(*settings, *size, *often, f"paths.runs={place}/{ranks}/calm")
    stormy = compose(*settings, *size, *often, f"paths.runs={place}/{ranks}/storm")
    prepared, calm = prepare(cfg), open_run_folder(cfg)
    start_ranks(ranks, lambda: train(cfg, prepared, calm)).end_with([0] * ranks)
    began = time.monotonic()
    met = storm(stormy, prepared, kills, random.Random(f"{method}{ranks}"))
    seconds = time.monotonic() - began
    same = same_weights(calm, run_folder(stormy))
    print(
        f"{method}, {ranks} rank(s), {calm.status()['total_batches']} batches: {kills} kills "
        f"({met.start} at the start of a life, {met.batch} while training, {met.save} in a save) "
        f"in {seconds:.0f} s: final weights {'equal bit for bit' if same else 'DIFFER'}",
        flush=True,
    )
    return same


def main(kills: int = 25, methods: Sequence[str] = ("full", "lora")) -> None:
    """Storms over each method, on one and on two ranks."""
    torch.set_num_threads(1)  # OpenMP's threads do not follow a fork, which would wait for them
    print(f"{platform.platform()}, {os.cpu_count()} cores, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        cases = [(method, ranks) for method in methods for ranks in (1, 2)]
        same = [compare(method, ranks, kills, Path(place)) for method, ranks in cases]
    sys.exit(0 if all(same) else 1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *([sys.argv[2:]] if sys.argv[2:] else []))
