"""Nothing in a training does what only a CPU forgives: each part runs on a stricter one."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import lvf.training
from benchmarks.forked_ranks import start_ranks
from lvf.benchmarking.synthetic import synthetic_shards
from lvf.benchmarking.throughput import time_steps
from lvf.config.schema import RunConfig
from lvf.data.shards import prepare
from lvf.runs.run_folder import TRAINED, open_run_folder
from lvf.training.trainer import train
from tests.training.strict_device import OnHostError, strict_device

WAYS = {
    "full": ["method=full"],
    "lora": ["method=lora"],
    "lora on a sharded base": ["method=lora", "runtime.fsdp_base=true"],
}


def test_the_strict_device_refuses_what_a_gpu_refuses() -> None:
    with strict_device() as device:
        host = torch.tensor([1.0, 2.0])
        moved = torch.zeros(2, device=host.device)
        assert device.is_hosts(host) and device.is_hosts(host[1:] + 1)
        assert not device.is_hosts(moved) and not device.is_hosts(moved * 2)
        with pytest.raises(OnHostError, match="all_reduce"):
            torch.distributed.all_reduce(host[1:] == 2)
        with pytest.raises(OnHostError, match="NumPy"):
            moved.numpy()
        assert host.numpy().tolist() == [1.0, 2.0] and not device.waits
        assert float(moved.sum()) == 0 and device.is_hosts(moved.cpu())
        assert sum(device.waits.values()) == 2


def under_strict_device(cfg: RunConfig, work: Any, waits: Path) -> None:
    """On the run's ranks, or on a fork where there is one; notes what waited for the device."""

    def strictly() -> None:
        with strict_device() as device:
            work()
        (waits.with_suffix(f".{os.environ.get('RANK', 0)}")).write_text(json.dumps(device.waits))

    ranks = start_ranks(cfg.runtime.nproc_per_node, strictly)
    ranks.end_with([0] * cfg.runtime.nproc_per_node)


@pytest.mark.parametrize(("ranks", "precision"), [(1, "amp_bf16"), (2, "fp32"), (2, "amp_bf16")])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_moves_all_that_it_shares_and_multiplies_to_the_device(
    composed: Any, tmp_path: Path, way: str, ranks: int, precision: str
) -> None:
    if ranks == 1 and way == "lora on a sharded base":
        pytest.skip("one rank has nothing to shard")
    more = [f"runtime.nproc_per_node={ranks}", f"training.precision={precision}"]
    often = ["runtime.checkpoint_every_batches=2", "measure_at=[0.5]"]
    cfg = composed(*WAYS[way], *more, *often)
    folder, prepared = open_run_folder(cfg), prepare(cfg)
    under_strict_device(cfg, lambda: train(cfg, prepared, folder), tmp_path / "waits")
    assert folder.status()["state"] == TRAINED
    assert len(folder.finished_exports()) == 2
    waits = Counter[str]()
    for place, count in json.loads((tmp_path / "waits.0").read_text()).items():
        file, function, _ = place.split()
        if function not in ("shard", "fit_start"):  # before the first batch
            waits[file] += count
    ours = {path.name for path in Path(lvf.training.__file__).parent.glob("*.py")} - {"trainer.py"}
    every_batch = {file for file in ours if waits[file] >= folder.status()["total_batches"]}
    # Tokens of all ranks, and a signal to any; a save copies all that it writes to the host.
    expected = {"exporter.py", "stopping.py"}
    assert every_batch - {"sharded_checkpoint.py"} == expected, sorted(waits.items())


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_benchmark_does_so_too(composed: Any, tmp_path: Path, ranks: int) -> None:
    size = ["training.seq_len=32", "bench.steps=2", "bench.warmup_steps=1", "bench.data=synthetic"]
    places = [f"runtime.nproc_per_node={ranks}", f"paths.records={tmp_path}/records"]
    cfg = composed("method=lora", *size, *places)
    folder = open_run_folder(cfg)
    with synthetic_shards(cfg, tmp_path / "rows", 3) as prepared:
        under_strict_device(cfg, lambda: time_steps(cfg, prepared, folder), tmp_path / "waits")
    assert len(list((tmp_path / "records").rglob("*.json"))) == 1
