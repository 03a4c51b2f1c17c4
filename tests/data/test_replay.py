"""Replay: an epoch has exactly its share of source rows, and as many rows as without."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lvf.config.compose import compose
from lvf.config.data_schema import SourceConfig
from lvf.config.schema import RunConfig
from lvf.data.loader import make_loader, total_batches
from lvf.data.report import report
from lvf.data.shards import prepare
from lvf.errors import UserError
from lvf.runs.run_id import base_id, run_id

from .conftest import MakeRun, read_rows, sentence, write_jsonl

Rows = list[tuple[int, ...]]


@pytest.fixture
def run(make_run: MakeRun, tmp_path: Path) -> RunConfig:
    """Maths pairs, and source text that no pair is like."""
    cfg = make_run()
    texts = ({"text": f"source {number} {sentence(number, 40)}"} for number in range(60))
    cfg.data.source = SourceConfig(path=str(write_jsonl(tmp_path / "source.jsonl", texts)))
    cfg.data.replay = 0.2
    return cfg


def epochs(loader: Any, num: int) -> list[Rows]:
    """Rows of each epoch."""
    return [[tuple(row) for batch in loader for row in batch["input_ids"].tolist()]
            for _ in range(num)]  # fmt: skip


def test_every_epoch_has_the_share_of_source_rows_and_as_many_rows_as_without(
    run: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = prepare(run)
    assert prepared.replay is not None
    source = {tuple(row["input_ids"].tolist()) for row in read_rows(prepared.replay.train)}
    own = {tuple(row["input_ids"].tolist()) for row in read_rows(prepared.train)}
    num_rows = len(own) // 4 * 4
    num_source = round(0.2 * num_rows)
    seen: Counter[tuple[int, ...]] = Counter()
    for rows in epochs(make_loader(prepared, run, "run"), 8):
        assert len(rows) == len(set(rows)) == num_rows
        assert sum(row in source for row in rows) == num_source
        assert sum(row in own for row in rows) == num_rows - num_source
        seen.update(rows)
    assert own <= seen.keys()  # no row of the data set is left out for good
    text = report(prepared, run)
    assert (
        f"replay     of the {num_rows} rows of an epoch, {num_rows - num_source} are of "
        f"{run.data.name} and {num_source} of source text ({num_source / num_rows:.2%}), which "
        f"has {prepared.replay.num_rows} rows, {prepared.replay.num_tokens:,} tokens"
    ) in text


def test_source_rows_are_full_of_text_that_is_all_in_the_loss(run: RunConfig) -> None:
    prepared = prepare(run)
    assert prepared.replay is not None
    rows = read_rows(prepared.replay.train)
    # Of 60 documents one is held out for validation and one for the report of the loss.
    assert prepared.replay.stats["documents"] == 58
    lengths = [int((row["segment_ids"] > 0).sum()) for row in rows]
    assert lengths[:-1] == [64] * (len(rows) - 1)  # only the end of the text is padded
    for row, length in zip(rows, lengths, strict=True):
        ids = row["segment_ids"][:length].tolist()
        starts = [place for place in range(length) if place == 0 or ids[place] != ids[place - 1]]
        assert (row["loss_mask"] == 0).nonzero()[0].tolist() == [*starts, *range(length, 64)]


def test_few_source_rows_are_repeated(run: RunConfig, tmp_path: Path) -> None:
    texts = ({"text": f"source {number} {sentence(number, 40)}"} for number in range(12))
    run.data.source = SourceConfig(path=str(write_jsonl(tmp_path / "few.jsonl", texts)))
    run.data.replay = 0.5
    prepared = prepare(run)
    assert prepared.replay is not None
    source = {tuple(row["input_ids"].tolist()) for row in read_rows(prepared.replay.train)}
    num_rows = prepared.num_rows // 4 * 4
    (rows,) = epochs(make_loader(prepared, run, "run"), 1)
    assert len(source) < num_rows // 2
    assert sum(row in source for row in rows) == num_rows // 2


def test_the_data_set_s_own_shards_and_the_budget_stay(run: RunConfig) -> None:
    with_replay = prepare(run)
    batches = total_batches(with_replay, run, 3.0)
    run.data.replay = 0.0
    without = prepare(run)
    assert without.folder == with_replay.folder and without.replay is None
    assert total_batches(without, run, 3.0) == batches


def test_the_packaged_base_replays_its_own_world_and_others_must_say_what(
    make_run: MakeRun,
) -> None:
    cfg = compose("+experiment=code_cpt", "data.replay=0.05")
    assert run_id(cfg)  # it knows its source
    other = make_run()
    other.data.replay = 0.05
    with pytest.raises(UserError, match=r"data\.replay=0\.05 needs .*data\.source\.path="):
        prepare(other)


def test_replay_and_its_text_make_another_run_of_the_same_base(
    run: RunConfig, tmp_path: Path
) -> None:
    with_replay, base = run_id(run), base_id(run)
    run.data.replay = 0.0
    without = run_id(run)
    run.data.source = None
    assert run_id(run) == without != with_replay
    assert base_id(run) == base
    run.data.replay = 0.2
    other = write_jsonl(tmp_path / "other.jsonl", [{"text": "another text"}])
    run.data.source = SourceConfig(path=str(other))
    assert run_id(run) not in (with_replay, without)
