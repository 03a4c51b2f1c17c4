"""Short real trainings of the packaged base, in this process or on forked ranks."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.forked_ranks import start_ranks
from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.data.shards import prepare
from lvf.runs.run_folder import RunFolder, open_run_folder
from lvf.training.trainer import train


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture
def composed(tmp_path: Path, shards: Path) -> Callable[..., RunConfig]:
    def make(*overrides: str) -> RunConfig:
        return compose(
            "+experiment=math_ift",
            "data.max_documents=64",
            "duration=1",
            f"paths.runs={tmp_path}/runs",
            f"paths.shards={shards}",
            *overrides,
        )

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Holds 4 MiB: less than a checkpoint or an export of full finetuning."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=False)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    yield place
    subprocess.run(["umount", place], check=True)


def trained(cfg: RunConfig) -> RunFolder:
    folder = open_run_folder(cfg)
    train(cfg, prepare(cfg), folder)
    return folder


def trained_on_ranks(cfg: RunConfig, statuses: list[int] | None = None) -> RunFolder:
    folder, prepared = open_run_folder(cfg), prepare(cfg)
    ranks = start_ranks(cfg.runtime.nproc_per_node, lambda: train(cfg, prepared, folder))
    ranks.end_with(statuses or [0] * cfg.runtime.nproc_per_node)
    return folder


def metrics(folder: RunFolder, name: str) -> list[float]:
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    return [row[name] for row in map(json.loads, lines) if name in row]


def add_logger(cfg: RunConfig, target: type, **arguments: Any) -> RunConfig:
    name = f"{target.__module__}.{target.__qualname__}"
    cfg.logger = {**cfg.logger, target.__name__: {"_target_": name, **arguments}}
    return cfg
