"""A corpus in parts: whoever makes them, however often they are killed, the shards are the same."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from lvf.config.data_schema import SourceConfig
from lvf.config.schema import RunConfig
from lvf.data import loader
from lvf.data.loader import make_loader
from lvf.data.shards import build, prepare, prepare_own_part
from lvf.errors import PreparationInterruptedError, UserError

from .conftest import MakeRun, pair, read_rows

FORK = multiprocessing.get_context("fork")
NUM_KILLS = int(os.environ.get("LVF_KILLS", "3"))
pytestmark = pytest.mark.usefixtures("small_parts")


def contents(cfg: RunConfig) -> dict[str, bytes]:
    """Every file of the finished shards but the recipe, which names places."""
    folder = prepare(cfg).folder
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "recipe.json"}


def settings(make_run: MakeRun, shards: str, num_rows: int = 200, **runtime: Any) -> RunConfig:
    """A run on a corpus whose held-out documents come from its beginning."""
    cfg = make_run([pair(seed % 190) for seed in range(num_rows)])  # the last are copies
    cfg.data.validation = cfg.data.heldout = None
    cfg.data.split_documents = 5
    cfg.paths.shards = str(Path(cfg.paths.shards).parent / shards)
    for name, value in runtime.items():
        setattr(cfg.runtime, name, value)
    return cfg


def test_the_shards_do_not_depend_on_the_number_of_processes(make_run: MakeRun) -> None:
    alone = contents(settings(make_run, "one", prepare_processes=1))
    assert len([name for name in alone if name.endswith(".mds")]) == 10
    assert contents(settings(make_run, "two", prepare_processes=2)) == alone
    assert contents(settings(make_run, "many", prepare_processes=5)) == alone


def test_the_shards_do_not_depend_on_the_number_of_machines(make_run: MakeRun) -> None:
    alone = settings(make_run, "one", prepare_processes=1)
    for order in ([0, 1, 2], [2, 0, 1]):
        shards = f"machines{order[0]}"
        for number in order:
            cfg = settings(make_run, shards, prepare_processes=1, prepare_part=f"{number}/3")
            made = prepare_own_part(cfg)
            assert (made is not None) == (number == order[-1])  # the last one joins
        assert contents(settings(make_run, shards)) == contents(alone)


def test_training_waits_for_parts_of_other_machines(make_run: MakeRun) -> None:
    with pytest.raises(UserError, match="part 1/2 .* is ready, others' are not"):
        prepare(settings(make_run, "shards", prepare_processes=1, prepare_part="1/2"))
    # Whoever comes without a part of its own makes what is missing.
    stats = prepare(settings(make_run, "shards", prepare_processes=1)).stats
    assert stats["documents"] == 200 - 10 - 2  # 2 of the 10 held out stand among the last copies


@pytest.mark.parametrize("text", ["1", "2/2", "-1/2", "a/b", "0/0"])
def test_a_part_that_there_cannot_be_is_refused(make_run: MakeRun, text: str) -> None:
    with pytest.raises(UserError, match=f"prepare_part={text} is not i/n"):
        prepare(settings(make_run, "shards", prepare_part=text))


def test_every_document_is_trained_on_or_held_out_or_a_copy_of_that(
    make_run: MakeRun, tokenizer: Any
) -> None:
    prepared = prepare(settings(make_run, "shards", prepare_processes=2))
    found = []
    for row in read_rows(prepared.train):
        for number in range(1, int(row["segment_ids"].max()) + 1):
            found.append(tokenizer.decode(row["input_ids"][row["segment_ids"] == number]))
    held = [json.loads(line)["prompt"] for path in (prepared.validation, prepared.heldout)
            for line in path.read_text().splitlines()]  # fmt: skip
    assert len(held) == 10
    expected = [pair(seed % 190)["query"] for seed in range(200)]
    trained = [text for text in expected if not any(text in one for one in held)]
    assert len(found) == len(trained) == prepared.stats["documents"]
    for text, times in ((text, trained.count(text)) for text in set(trained)):
        assert sum(text in one for one in found) >= times


def start(cfg: RunConfig) -> Any:
    """Prepare in a process group of its own."""

    def work() -> None:
        os.setsid()
        prepare(cfg)

    process = FORK.Process(target=work)
    process.start()
    return process


def finished_parts(cfg: RunConfig) -> int:
    return len(list(Path(cfg.paths.shards).glob("*/train/0*/stats.json")))


@pytest.mark.parametrize("whole_group", [True, False], ids=["group", "leader"])
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment_it_goes_on_and_loses_and_doubles_nothing(
    make_run: MakeRun, processes: int, whole_group: bool
) -> None:
    expected = contents(settings(make_run, "reference", prepare_processes=1))
    rng = random.Random(processes)
    for attempt in range(NUM_KILLS):
        cfg = settings(make_run, f"shards{attempt}", prepare_processes=processes)
        process = start(cfg)
        enough, later = rng.randrange(8), rng.random() * 0.02
        while finished_parts(cfg) < enough and process.is_alive():
            pass
        deadline = time.monotonic() + later
        while time.monotonic() < deadline:
            pass
        if process.is_alive():
            (os.killpg if whole_group and os.getpgid(process.pid) == process.pid else os.kill)(
                process.pid, signal.SIGKILL
            )
        process.join()
        kept = finished_parts(cfg)
        assert contents(cfg) == expected
        assert kept >= enough or process.exitcode == 0


def test_what_is_finished_is_not_made_again(make_run: MakeRun) -> None:
    prepare_own_part(settings(make_run, "shards", prepare_processes=1, prepare_part="0/2"))
    folder = Path(settings(make_run, "shards").paths.shards)
    before = {path.name: path.stat().st_ino for path in folder.glob("*/train/0*")}
    assert len(before) == 5
    train = prepare(settings(make_run, "shards", prepare_processes=1)).train
    assert before.items() <= {path.name: path.stat().st_ino for path in train.iterdir()}.items()


def test_a_killed_worker_is_told_and_its_part_made_at_the_next_start(make_run: MakeRun) -> None:
    cfg = settings(make_run, "shards", prepare_processes=2)

    def killed(queue: Any) -> None:
        import lvf.data.pool as pool

        signal.signal(signal.SIGTERM, lambda *_: None)  # of a library: the worker left has to end
        make = pool.make_part

        def deadly(part: Any, work: Any) -> Any:
            if part.number == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return make(part, work)

        pool.make_part = deadly
        try:
            prepare(cfg)
        except PreparationInterruptedError as error:
            queue.put(str(error))

    queue: Any = FORK.SimpleQueue()
    process = FORK.Process(target=killed, args=(queue,))
    process.start()
    assert "was killed, perhaps for want of memory" in queue.get()
    process.join()
    assert finished_parts(cfg)
    assert contents(cfg) == contents(settings(make_run, "reference", prepare_processes=1))


@pytest.mark.parametrize("max_rows", [1, 13, 40])
def test_a_budget_of_rows_is_met_exactly_and_counted_exactly(
    make_run: MakeRun, tokenizer: Any, tmp_path: Path, max_rows: int
) -> None:
    cfg = settings(make_run, "shards", prepare_processes=1)
    whole = read_rows(prepare(cfg).train)
    assert len(whole) > max_rows
    for processes in (1, 2):
        cfg.runtime.prepare_processes = processes
        corpus = build(tmp_path / f"rows{processes}", cfg, tokenizer, max_rows)
        assert corpus is not None
        stats = corpus.join()
        rows = read_rows(tmp_path / f"rows{processes}" / "train")
        assert len(rows) == stats["num_rows"] == max_rows
        for row, same in zip(rows, whole, strict=False):
            assert (row["input_ids"] == same["input_ids"]).all()
        assert stats["num_tokens"] == sum((row["segment_ids"] > 0).sum() for row in rows)
        assert stats["num_loss_tokens"] == sum(row["loss_mask"].sum() for row in rows)


def test_few_rows_come_with_the_same_held_out_documents_as_many(
    make_run: MakeRun, tokenizer: Any, tmp_path: Path
) -> None:
    cfg = settings(make_run, "shards", prepare_processes=1)
    held = []
    for name, max_rows in (("few", 3), ("all", None)):
        assert build(tmp_path / name, cfg, tokenizer, max_rows) is not None
        held.append(
            [(tmp_path / name / f"{x}.jsonl").read_text() for x in ("validation", "heldout")]
        )
    assert held[0] == held[1]


def test_a_hub_corpus_is_made_in_parallel_with_the_same_result(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lvf.data import sources

    def rows_and_texts(cfg: RunConfig) -> dict[str, bytes]:
        return {name: data for name, data in contents(cfg).items() if "stats" not in name}

    expected = rows_and_texts(settings(make_run, "local", prepare_processes=1))
    cfg = settings(make_run, "hub", prepare_processes=2)
    (tmp_path / "hub").mkdir()
    Path(cfg.data.train.path).rename(tmp_path / "hub" / "train.jsonl")
    cfg.data.train = SourceConfig(path=str(tmp_path / "hub"))
    # datasets reads a local folder through the same call as a corpus of the hub.
    monkeypatch.setattr(sources, "local_files", lambda _source: None)
    assert rows_and_texts(cfg) == expected


def remote_settings(make_run: MakeRun, cache: str, **runtime: Any) -> RunConfig:
    """A run whose shards live on a remote that is a folder, and a machine's own cache."""
    cfg = settings(make_run, "remote", prepare_processes=2, **runtime)
    cfg.paths.shards_cache = str(Path(cfg.paths.shards).parent / cache)
    cfg.paths.shards = f"file://{cfg.paths.shards}"
    return cfg


def test_shards_are_written_to_a_remote_by_machines_that_share_nothing_else(
    make_run: MakeRun,
) -> None:
    expected = contents(settings(make_run, "local", prepare_processes=1))
    for number in range(2):
        cfg = remote_settings(make_run, f"cache{number}", prepare_part=f"{number}/2")
        assert (prepare_own_part(cfg) is None) == (number == 0)
        assert not list(Path(cfg.paths.shards_cache).rglob("*.mds"))  # sent, not kept
    remote = Path(cfg.paths.shards.removeprefix("file://"))
    (folder,) = remote.iterdir()
    for name, content in expected.items():
        assert (folder / name).read_bytes() == content
    stats = json.loads((folder / "recipe.json").read_text())["stats"]
    assert stats == prepare(settings(make_run, "local")).stats | {"places": stats["places"]}


def test_a_third_machine_reads_from_the_remote_within_the_limit_of_its_cache(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "SHUFFLED_ROWS", 8)  # else each batch wants all of the ten shards
    local = settings(make_run, "local", prepare_processes=1)
    sizes = [path.stat().st_size for path in prepare(local).train.rglob("*.mds")]
    limit = 6 * max(sizes)
    assert sum(sizes) > limit
    prepare(remote_settings(make_run, "maker"))
    cfg = remote_settings(make_run, "reader")
    cfg.paths.shards_cache_limit = str(limit)
    cfg.training.global_batch_size = local.training.global_batch_size = 1
    assert batches(cfg) == batches(local)
    (rows,) = Path(cfg.paths.shards_cache).glob("*/train/*")
    assert 0 < sum(path.stat().st_size for path in rows.rglob("*.mds")) <= limit


def batches(cfg: RunConfig) -> list[list[list[int]]]:
    """The rows of an epoch, batch by batch."""
    prepared = prepare(cfg)
    return [batch["input_ids"].tolist() for batch in make_loader(prepared, cfg, "run")]


def test_a_remote_that_cannot_be_written_is_refused_by_name(make_run: MakeRun) -> None:
    cfg = remote_settings(make_run, "cache")
    Path(cfg.paths.shards.removeprefix("file://")).write_text("a file where a folder should be")
    with pytest.raises(UserError, match="remote.* cannot be reached.*paths.shards"):
        prepare(cfg)


def test_a_fault_of_the_network_keeps_the_parts_that_are_prepared(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lvf.data import sources

    cfg = settings(make_run, "hub", prepare_processes=1)
    lines = Path(cfg.data.train.path).read_text().splitlines(keepends=True)
    expected = contents(settings(make_run, "local", prepare_processes=1))
    hub = tmp_path / "corpus of the hub"
    hub.mkdir()
    (hub / "train-1.jsonl").write_text("".join(lines[:100]))
    (hub / "train-2.jsonl").write_text('{"query": ')  # as a connection that ends too early
    cfg.data.train = SourceConfig(path=str(hub))
    # datasets reads a local folder through the same call as a corpus of the hub.
    monkeypatch.setattr(sources, "local_files", lambda _source: None)
    with pytest.raises(PreparationInterruptedError, match=r"hub.*the same command goes on"):
        prepare(cfg)
    kept = {path: path.stat().st_mtime_ns for path in Path(cfg.paths.shards).rglob("*.mds")}
    assert len(kept) == 5
    (hub / "train-2.jsonl").write_text("".join(lines[100:]))
    assert {name: data for name, data in contents(cfg).items() if "stats" not in name} == {
        name: data for name, data in expected.items() if "stats" not in name
    }
    made_before = {path.relative_to(path.parents[2]): time for path, time in kept.items()}
    (folder,) = Path(cfg.paths.shards).glob("[!.]*")
    for path, modified in made_before.items():
        assert (folder / path).stat().st_mtime_ns == modified


def test_bad_input_leaves_nothing(make_run: MakeRun) -> None:
    cfg = make_run([{"query": "x"}])
    with pytest.raises(UserError, match="no column response"):
        prepare(cfg)
    assert not [path for path in Path(cfg.paths.shards).iterdir() if path.is_dir()]
