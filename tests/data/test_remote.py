"""Shards on an S3 server over a network with faults: they pass, or they are told in one message."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streaming import Stream

from lvf.config.schema import RunConfig
from lvf.data import loader, remote
from lvf.data.loader import make_loader
from lvf.data.shards import prepare
from lvf.data.streamed import RemoteRows
from lvf.errors import PreparationInterruptedError

from ..faulty_proxy import FaultyProxy, Kind, faulty_proxy
from .conftest import MakeRun
from .test_build import batches, contents, settings

pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of an S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """An empty bucket, and the proxy through which alone lvf can reach it."""
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    store = boto3.resource("s3", endpoint_url=server)
    bucket = store.create_bucket(Bucket="bucket")
    bucket.objects.all().delete()
    with faulty_proxy(server) as proxy:
        monkeypatch.setenv("S3_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def soon_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts without those that boto makes by itself."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    monkeypatch.setattr(loader, "ATTEMPTS", 2)


def on_s3(make_run: MakeRun, cache: str, **runtime: Any) -> RunConfig:
    """A run whose shards are on the server, on a machine with this cache."""
    cfg = settings(make_run, "unused", prepare_processes=1, **runtime)
    cfg.paths.shards_cache = str(Path(cfg.paths.shards).parent / cache)
    cfg.paths.shards = "s3://bucket/shards"
    return cfg


def test_machines_write_and_read_shards_on_s3(make_run: MakeRun, s3: FaultyProxy) -> None:
    expected = batches(settings(make_run, "local"))
    assert batches(on_s3(make_run, "maker")) == expected
    sent = len([one for one in s3.requests if one.startswith("PUT")])
    assert batches(on_s3(make_run, "reader")) == expected
    assert len([one for one in s3.requests if one.startswith("PUT")]) == sent


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["error", "drop", "cut"])
def test_passing_faults_change_nothing(make_run: MakeRun, s3: FaultyProxy, kind: Kind) -> None:
    wanted = ["PUT .*000002/", "PUT .*recipe.json", "(GET|HEAD) .*recipe.json",
              "GET .*train/index.json", "GET .*000003/.*mds", "GET .*000007/.*mds"]  # fmt: skip
    for requests in wanted:
        s3.fail(kind, requests)
    expected = batches(settings(make_run, "local"))
    assert batches(on_s3(make_run, "maker")) == expected
    assert batches(on_s3(make_run, "reader")) == expected
    assert len(s3.spoiled) == len(wanted)


@pytest.mark.long
@pytest.mark.slow
def test_a_server_that_does_not_answer_for_a_minute_changes_nothing(
    make_run: MakeRun, s3: FaultyProxy
) -> None:
    expected = batches(settings(make_run, "local"))
    cfg = on_s3(make_run, "maker")
    prepare(cfg)
    s3.fail("stall", "GET .*mds")
    assert batches(cfg) == expected
    assert len(s3.spoiled) == 1


def test_after_a_lasting_fault_the_same_command_goes_on_with_the_finished_parts(
    make_run: MakeRun, s3: FaultyProxy, soon_given_up: None
) -> None:
    expected = contents(settings(make_run, "local"))
    s3.fail("error", "PUT .*/000004/", math.inf)
    with pytest.raises(PreparationInterruptedError, match="cannot be reached.*the same command"):
        prepare(on_s3(make_run, "maker"))
    before = [one for one in s3.requests if one.startswith("PUT")]
    assert any("/000003/" in one for one in before)
    s3.mend()
    cfg = on_s3(make_run, "maker")
    after = contents(cfg)
    assert {name: after[name] for name in after} == {name: expected[name] for name in after}
    assert "validation.jsonl" in after
    again = [one for one in s3.requests if one.startswith("PUT")][len(before) :]
    assert not [one for one in again if "/000003/" in one]


@pytest.mark.timeout(120)
def test_an_epoch_ends_with_the_error_where_both_background_threads_fail(
    make_run: MakeRun, tmp_path: Path
) -> None:
    cfg = settings(make_run, "maker")
    cfg.paths.shards, cfg.paths.shards_cache = f"file://{tmp_path}/remote", f"{tmp_path}/own"
    prepared = prepare(cfg)
    both = threading.Barrier(2, timeout=60)

    class Broken(RemoteRows):
        def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
            both.wait()
            raise ConnectionError("gone")

    stream = Stream(remote=prepared.remote, local=str(tmp_path / "cache"))
    rows = Broken(streams=[stream], batch_size=1)
    with pytest.raises(PreparationInterruptedError, match="gone"):
        list(rows)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_epoch_whose_rows_cannot_be_had_ends_with_a_message_and_not_too_early(
    make_run: MakeRun, s3: FaultyProxy, soon_given_up: None, num_workers: int
) -> None:
    cfg = on_s3(make_run, "maker", num_workers=num_workers)
    prepared = prepare(cfg)
    s3.fail("error", "(GET|HEAD) .*/00000[5-9]/.*mds", math.inf)
    with pytest.raises(PreparationInterruptedError) as told:
        for _ in make_loader(prepared, cfg, "run"):
            pass
    assert str(told.value).startswith("s3://bucket/shards/")
    assert "Traceback" not in str(told.value) and "cannot be reached" in str(told.value)
