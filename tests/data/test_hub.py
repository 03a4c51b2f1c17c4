"""Preparing from a hub over a network with faults: a local server with the hub's API."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import ROOT
from ..faulty_proxy import FaultyProxy, faulty_proxy
from ..local_hub import local_hub
from .conftest import pair, write_jsonl

FILES, ROWS_A_FILE, PART_ROWS = 3, 40, 20
CODE = f"from lvf.data import sources; sources.PART_ROWS = {PART_ROWS}; " + (
    "from lvf.prepare import main; main()"
)
pytestmark = pytest.mark.slow


@pytest.fixture
def corpus(tmp_path: Path, model_folder: Path) -> Path:
    """Three files of the data set that the hub serves, beside a model."""
    shutil.copytree(model_folder, tmp_path / "hub" / "models" / "owner" / "tiny")
    folder = tmp_path / "hub" / "datasets" / "owner" / "corpus"
    folder.mkdir(parents=True)
    for number in range(FILES):
        first = number * ROWS_A_FILE
        rows = map(pair, range(first, first + ROWS_A_FILE))
        write_jsonl(folder / f"train-{number}.jsonl", rows)
    return folder


@pytest.fixture
def hub(corpus: Path) -> Iterator[FaultyProxy]:
    with local_hub(corpus.parents[2]) as url, faulty_proxy(url) as proxy:
        yield proxy


def prepare(
    tmp_path: Path, hub: FaultyProxy, shards: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """Prepare with the model and data set of the hub, in a process that knows no other hub."""
    settings = [
        "model.path=owner/tiny", "data.train.path=owner/corpus", "data.validation=null",
        "data.heldout=null", "data.split_documents=5", "evals.tasks=[]", "evals.forgetting=[]",
        "training.seq_len=64", "training.global_batch_size=4", "runtime.prepare_processes=1",
        f"paths.shards={tmp_path / shards}", f"paths.runs={tmp_path / 'runs'}",
    ]  # fmt: skip
    environment = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / f"cache of {shards}"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2", "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", CODE, "domain=math", "regime=ift", *settings, *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def shards_in(folder: Path) -> dict[str, bytes]:
    """The rows of the only shards there."""
    (train,) = folder.glob("*/train")
    return {path.relative_to(train).as_posix(): path.read_bytes() for path in train.rglob("*.mds")}


@pytest.mark.long
def test_passing_faults_of_the_hub_change_nothing(
    tmp_path: Path, hub: FaultyProxy, corpus: Path
) -> None:
    local = prepare(tmp_path, hub, "local", f"data.train.path={corpus}")
    assert local.returncode == 0, local.stderr
    for kind in ("error", "drop", "stall"):
        hub.fail(kind, r"(GET|HEAD) .*owner/tiny")
        hub.fail(kind, r"(GET|HEAD|POST) .*datasets/owner/corpus")
    for kind in ("error", "drop", "cut", "stall"):
        hub.fail(kind, r"GET .*train-1.jsonl")
    hub.fail("cut", r"GET .*tokenizer.json")
    found = prepare(tmp_path, hub, "hub shards")
    assert found.returncode == 0, found.stderr
    assert len(hub.spoiled) == 11
    assert shards_in(tmp_path / "hub shards") == shards_in(tmp_path / "local")


@pytest.mark.long
def test_after_a_lasting_fault_in_the_middle_the_same_command_goes_on_with_the_finished_parts(
    tmp_path: Path, hub: FaultyProxy, corpus: Path
) -> None:
    assert prepare(tmp_path, hub, "local", f"data.train.path={corpus}").returncode == 0
    hub.fail("error", r"GET .*train-2.jsonl", math.inf)
    broken = prepare(tmp_path, hub, "hub shards")
    assert broken.returncode == 2
    assert "Traceback" not in broken.stderr
    assert "the same command goes on with what is missing" in broken.stderr
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "hub shards").rglob("*.mds")}
    assert len(kept) == 2 * ROWS_A_FILE // PART_ROWS
    hub.mend()
    assert prepare(tmp_path, hub, "hub shards").returncode == 0
    finished = {path.stat().st_mtime_ns for path in (tmp_path / "hub shards").rglob("*.mds")}
    assert set(kept.values()) <= finished
    assert shards_in(tmp_path / "hub shards") == shards_in(tmp_path / "local")


def test_a_hub_that_is_away_is_told_in_one_message(tmp_path: Path, hub: FaultyProxy) -> None:
    hub.fail("drop", ".*", math.inf)
    broken = prepare(tmp_path, hub, "hub shards")
    assert broken.returncode == 2
    assert "Traceback" not in broken.stderr
    assert "model.path=owner/tiny cannot be loaded" in broken.stderr
