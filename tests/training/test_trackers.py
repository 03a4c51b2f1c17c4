"""What W&B is told of a run, read from the files that its own client writes without a network."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.config.validate import require_trackers
from lvf.errors import UserError
from lvf.records.schema import Axes, Metric, Record, record_path, write_record
from lvf.runs.run_folder import STOPPED
from lvf.training.trackers import log_scores
from tests.training.conftest import add_logger, metrics, trained_on_ranks
from tests.training.test_ranks import AskToStop

BLOCK, HEADER, FILE_HEADER = 32768, 7, 7


def test_a_tracker_that_is_not_installed_is_told_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as Python notes what is not there
    with pytest.raises(UserError, match=r"needs the package wandb.*pip install -e '.\[trackers\]'"):
        require_trackers(compose("logger=wandb"))
    require_trackers(compose("logger=jsonl"))


def test_the_log_has_the_tokens_of_a_second(composed: Any) -> None:
    folder = trained_on_ranks(composed("training.global_batch_size=2", "duration=3"))
    speeds = metrics(folder, "throughput/tokens_per_sec")
    assert speeds and min(speeds) > 0
    assert metrics(folder, "time/train") == sorted(metrics(folder, "time/train"))


def pages(folder: Path) -> list[list[Any]]:
    """The records of each start: a log in the format of LevelDB, of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record as Entry

    def entries(log: bytes) -> Any:
        place, whole = FILE_HEADER, b""
        while place + HEADER <= len(log):
            left = BLOCK - place % BLOCK
            if left < HEADER:
                place += left
                continue
            length, kind = int.from_bytes(log[place + 4 : place + 6], "little"), log[place + 6]
            whole += log[place + HEADER : place + HEADER + length]
            place += HEADER + length
            if kind in (1, 4):  # whole, or the last of several parts
                yield Entry.FromString(whole)
                whole = b""

    return [list(entries(log.read_bytes())) for log in sorted(folder.glob("wandb/*run-*/*.wandb"))]


def of_kind(page: list[Any], kind: str) -> list[Any]:
    return [getattr(entry, kind) for entry in page if entry.WhichOneof("record_type") == kind]


def values(items: Any) -> dict[str, Any]:
    keys = ["/".join(item.nested_key) or item.key for item in items]
    return dict(zip(keys, (json.loads(item.value_json) for item in items), strict=True))


@pytest.fixture
def on_wandb(composed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    return composed("logger=wandb", f"paths.records={tmp_path}/records")


def test_every_start_of_a_run_continues_its_one_page_with_configuration_speed_and_scores(
    on_wandb: RunConfig,
) -> None:
    cfg = on_wandb
    stopped = replace(cfg, logger=dict(cfg.logger))
    folder = trained_on_ranks(add_logger(stopped, AskToStop, batch=2, rank="0"), [75])
    assert folder.status()["state"] == STOPPED
    folder = trained_on_ranks(cfg)
    log_scores(cfg, folder)  # not measured yet: says nothing
    axes = Axes(scale="embedded", model="m", domain="math", regime="ift", dataset="d",
                method="lora", method_name="lora", duration=1.0)  # fmt: skip
    for age, value in (("2026-01-02", 0.75), ("2026-01-01", 0.5)):
        record = Record(
            source="lvf",
            run_id=folder.path.name,
            checkpoint="ba000004",
            task="gsm8k",
            axes=axes,
            metrics={"acc": Metric(value=value)},
            created_at=age,
        )
        path = record_path(Path(cfg.paths.records), record.run_id, "ba000004", "gsm8k", age)
        write_record(path, record)
    folder.mark_measured(cfg)
    log_scores(cfg, folder)

    first, second, scores = pages(folder.path)
    for page in (first, second, scores):
        (run,) = of_kind(page, "run")
        assert (run.run_id, run.display_name, run.project) == (
            folder.path.name, folder.path.name, "lvf"
        )  # fmt: skip
        told = values(run.config.update)
        assert told["training"]["lr_peak"] == cfg.training.lr_peak
        assert told["optimizer"] == cfg.optimizer
        assert told["run_folder"] == str(folder.path.resolve())
    steps = [values(entry.item) for entry in of_kind(second, "history")]
    assert [one["_step"] for one in steps if "loss/train/total" in one][0] == 2
    assert all("time/train" in one for one in steps if "loss/train/total" in one)
    (row,) = [values(entry.item) for entry in of_kind(scores, "history")]
    assert (row["scores/duration"], row["scores/gsm8k/acc"]) == (1.0, 0.75)
