"""The authors' models are found by the hub's own code, named right, and measured like our own."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from lvf.config.compose import compose
from lvf.config.schema import MethodConfig, ModelConfig
from lvf.errors import UserError
from lvf.evals.released import measure_released, released_subject
from lvf.models.load import load_base
from lvf.models.lora import add_adapters
from lvf.models.released import adapter_facts, describe, fetch, list_released, load_released
from lvf.records.schema import read_record

ADAPTER, FULL = "metamath-lora-rank-2-alpha-4", "magicoder-full-finetuning-lr-5e-05"
OWNER = "LoRA-TMLR-2024"


@pytest.fixture(scope="module")
def adapter(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of rank 2 whose B is not zero."""
    torch.manual_seed(0)
    method = MethodConfig(
        name="lora",
        kind="lora",
        rank=2,
        alpha=4,
        dropout=0.0,
        target_modules=["q_proj", "down_proj"],
    )
    model = add_adapters(load_base(ModelConfig(name="tiny", path=str(model_dir))), method)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(str(folder))
    return folder


def copy(source: Path, target: Path) -> Path:
    """A released folder: weights and configuration, of a full model or of an adapter."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix in (".json", ".safetensors"):
            shutil.copy(path, target)
    return target


@pytest.fixture
def cache(model_dir: Path, adapter: Path, tmp_path: Path) -> Path:
    """A cache as the hub's own downloads leave it, with a repository that is nobody's concern."""
    root = tmp_path / "hub"
    branches = {
        ADAPTER: {"main": "a" * 40, "epoch-16": "a" * 40, "epoch-4": "b" * 40},
        FULL: {"main": "c" * 40, "run/ep2": "d" * 40},
        "something-else": {"main": "e" * 40},
    }
    for repo, refs in branches.items():
        folder = root / f"models--{OWNER}--{repo}"
        (folder / "blobs").mkdir(parents=True)
        for branch, commit in refs.items():
            ref = folder / "refs" / branch
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit)
            snapshot = folder / "snapshots" / commit
            if not snapshot.exists():
                copy(adapter if repo == ADAPTER else model_dir, snapshot)
    return root


def names(where: Path | str) -> list[tuple[str, str, float | None]]:
    return [(one.name, one.branch, one.duration) for one in list_released(str(where))]


def test_a_cache_of_the_hub_gives_its_branches_once_a_commit(cache: Path) -> None:
    assert names(cache) == [
        (FULL, "main", None),
        (FULL, "run/ep2", 2.0),
        (ADAPTER, "epoch-4", 4.0),
        (ADAPTER, "epoch-16", 16.0),  # which main is, too
    ]
    assert names(cache / f"models--{OWNER}--{ADAPTER}") == names(cache)[2:]
    (first, *_) = list_released(str(cache))
    assert first.repo == f"{OWNER}/{FULL}"
    assert (first.domain, first.regime, first.method, first.lr_peak) == (
        "code",
        "ift",
        "full",
        5e-5,
    )


def test_plain_folders_give_repositories_and_branches(adapter: Path, tmp_path: Path) -> None:
    for branch in ("main", "8-epochs"):
        copy(adapter, tmp_path / "all" / ADAPTER / branch)
    copy(adapter, tmp_path / "all" / "openwebmath-lora-rank-64-20B-tokens")
    everything = [
        (ADAPTER, "main", None),
        (ADAPTER, "8-epochs", 8.0),
        ("openwebmath-lora-rank-64-20B-tokens", "main", 20e9),
    ]
    assert names(tmp_path / "all") == everything
    assert names(tmp_path / "all" / ADAPTER) == everything[:2]
    assert names(tmp_path / "all" / everything[2][0]) == everything[2:]


@pytest.mark.parametrize(
    ("repo", "branch", "duration"),
    [
        ("starcoder-lora-rank-16-20B-tokens", "main", 20e9),
        ("starcoder-full-finetuning-lr-1e-05-20B-token", "main", 20e9),
        ("starcoder-lora-rank-16-20B-tokens", "0.25B", 0.25e9),
        ("starcoder-lora-rank-16-20B-tokens", "4B-tokens", 4e9),
        ("starcoder-lora-rank-16-20B-tokens", "500M-token", 0.5e9),
        ("openwebmath-lora-rank-16-20B-tokens", "0p5_Btok", 0.5e9),
        ("openwebmath-lora-rank-16-20B-tokens", "step-318ba", 0.25e9),
        ("openwebmath-lora-rank-16-20B-tokens", "ba5086", 4e9),
        ("openwebmath-lora-rank-16-20B-tokens", "16", 16e9),
        ("openwebmath-lora-rank-16-20B-tokens", "3", None),
        ("magicoder-lora-rank-16-alpha-32", "epoch_4", 4),
        ("magicoder-lora-rank-16-alpha-32", "ep-1-final", 1),
        ("magicoder-lora-rank-16-alpha-32", "2epochs", 2),
        ("magicoder-lora-rank-16-alpha-32", "ba772", 4),
        ("metamath-lora-rank-16-alpha-32", "ba772", None),
        ("metamath-lora-rank-16-alpha-32", "16", 16),
        ("metamath-lora-rank-16-alpha-32", "main", None),
        ("metamath-lora-rank-16-alpha-32", "test-branch", None),
    ],
)
def test_durations_are_read_off_names(repo: str, branch: str, duration: float | None) -> None:
    assert describe(f"{OWNER}/{repo}", branch).duration == duration


@pytest.mark.parametrize(
    ("repo", "facts"),
    [
        ("starcoder-lora-rank-256-20B-tokens", ("code", "cpt", "lora", 256, None, None)),
        (
            "openwebmath-full-finetuning-lr-1e-05-20B-tokens",
            ("math", "cpt", "full", None, None, 1e-5),
        ),
        ("magicoder-lora-rank-2048-alpha-4096", ("code", "ift", "lora", 2048, 4096, None)),
        ("metamath-full-finetuning-lr-1e-05", ("math", "ift", "full", None, None, 1e-5)),
        ("llama", (None, None, "full", None, None, None)),
    ],
)
def test_the_rest_is_read_off_the_repositorys_name(repo: str, facts: tuple[Any, ...]) -> None:
    one = describe(f"{OWNER}/{repo}", "main")
    assert (one.domain, one.regime, one.method, one.rank, one.alpha, one.lr_peak) == facts


def test_an_adapter_says_itself_what_it_is_and_loads_into_the_base(
    cache: Path, model_dir: Path, tokenizer: Any
) -> None:
    one = list_released(str(cache / f"models--{OWNER}--{ADAPTER}"))[0]
    assert adapter_facts(one) == {"rank": 2, "alpha": 4, "target_modules": ["down_proj", "q_proj"]}
    base = ModelConfig(name="tiny", path=str(model_dir))
    model, _ = load_released(one, base)
    ids = tokenizer("the red cup", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert not torch.allclose(model(ids).logits, load_base(base)(ids).logits, atol=0.1)


def test_the_rank_that_an_adapter_has_counts_and_not_that_of_its_name(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy(adapter, tmp_path / "starcoder-lora-rank-64-20B-tokens")
    (one,) = list_released(str(tmp_path))
    assert one.rank == 64
    axes = released_subject(one, compose("scale=paper", "domain=code", "regime=cpt")).axes
    assert (axes.rank, axes.alpha, axes.method_name) == (2, 4, "lora_r2")
    told = capsys.readouterr().out
    assert told.startswith("WARNING") and "the name says rank 64, the adapter has 2" in told


def test_every_checkpoint_and_the_base_are_measured_into_records(
    cache: Path, model_dir: Path, benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    overrides = [
        "scale=embedded", "model.name=tiny", f"model.path={model_dir}", "evals.limit=2",
        f"evals.benchmarks={benchmarks}", "evals.tasks=[winogrande,nll_target]",
        f"paths.runs={tmp_path}/runs", f"paths.records={tmp_path}/records",
    ]  # fmt: skip
    paths = measure_released(str(cache), overrides)
    records = {(r.run_id, r.checkpoint): r for r in map(read_record, paths)}
    assert {record.source for record in records.values()} == {"released"}
    assert {record.task for record in records.values()} == {"winogrande"}
    told = capsys.readouterr().out
    assert "of unknown duration, which 'main' does not tell" in told
    assert "left out nll_target" in told
    axes = records[f"released-{ADAPTER}", "epoch-4"].axes
    assert (axes.domain, axes.regime, axes.method, axes.method_name) == (
        *("math", "ift", "lora", "lora_r2"),
    )
    assert (axes.rank, axes.alpha, axes.duration, axes.duration_unit) == (2, 4, 4.0, "epochs")
    full = records[f"released-{FULL}", "run--ep2"]
    assert (full.axes.method, full.axes.domain, full.axes.lr_peak) == ("full", "code", 5e-5)
    bases = [record for record in records.values() if record.axes.method == "base"]
    assert {record.axes.domain for record in bases} == {"code", "math"}
    assert len(records) == 6
    assert measure_released(str(cache), overrides) == paths


def test_a_model_of_unknown_origin_needs_a_domain(adapter: Path, tmp_path: Path) -> None:
    copy(adapter, tmp_path / "mine")
    with pytest.raises(UserError, match=r"domain=code\|math regime=cpt\|ift"):
        measure_released(str(tmp_path / "mine"), [])


class Hub(BaseHTTPRequestHandler):
    """The three answers of the hub's API that are asked for."""

    def do_GET(self) -> None:  # noqa: N802, the name that http.server calls
        ref = {"ref": "refs/heads/x", "targetCommit": "1" * 40}
        repo = f"{OWNER}/{ADAPTER}"
        answers: dict[str, Any] = {
            f"/api/models/{repo}/refs": {
                "branches": [ref | {"name": "main"}, ref | {"name": "epoch-2"}],
                "converts": [], "tags": [],
            },
            f"/api/collections/{OWNER}/maths-{'0' * 24}": {
                "slug": "s", "title": "t", "owner": {}, "lastUpdated": "2024-09-24T00:00:00.000Z",
                "private": False, "theme": "x", "upvotes": 0, "position": 0, "description": "",
                "items": [
                    {"_id": "1", "id": repo, "type": "model", "position": 0},
                    {"_id": "2", "id": "a/b", "type": "dataset", "position": 1},
                ],
            },
            "/api/models": [{"id": repo, "_id": "1"}],
        }  # fmt: skip
        answer = answers.get(self.path.split("?")[0])
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer or {"error": "not found"}).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server on this machine in the hub's place."""
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    yield
    server.shutdown()


@pytest.mark.usefixtures("hub")
def test_the_hub_is_asked_for_branches_of_a_repository_a_collection_and_an_organisation() -> None:
    for where in (
        f"{OWNER}/{ADAPTER}",
        f"{OWNER}/maths-{'0' * 24}",
        f"https://huggingface.co/collections/{OWNER}/maths-{'0' * 24}",
        OWNER,
    ):
        (one,) = list_released(where)  # both branches are one commit
        assert (one.repo, one.branch, one.duration) == (f"{OWNER}/{ADAPTER}", "epoch-2", 2.0)
    with pytest.raises(UserError, match="the hub does not give it"):
        list_released("nobody/nothing")
    with pytest.raises(UserError, match="the hub does not give it"):
        fetch(describe("nobody/nothing", "main"))
