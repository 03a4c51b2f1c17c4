"""The user's own line, from a fresh folder to records, and started again."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from lvf.config.compose import compose
from lvf.records.schema import read_record
from lvf.train import run

QUICK = ["duration=1", "data.max_documents=48", "evals.limit=4"]


def run_line(folder: Path, *more: str) -> str:
    line = [sys.executable, "-m", "lvf.train", "+experiment=math_ift", "method=lora", *QUICK]
    done = subprocess.run([*line, *more], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def check_model_card(export: Path, records: list[Path]) -> None:
    """Its head is what the hub reads, its scores are the records', its snippet loads the model."""
    card = ModelCard.load(export / "README.md")
    assert card.data.library_name == "peft"
    assert card.data.base_model is None  # it is not on the hub
    rows = [[cell.strip() for cell in line.split("|")] for line in card.text.splitlines()]
    shown = {(row[1], row[2]): row[3] for row in rows if len(row) == 8}
    for record in map(read_record, records):
        if record.checkpoint != "base":
            for name, metric in record.metrics.items():
                assert shown[record.task, name] == f"{metric.value:.4f}"
    (snippet,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    code = snippet.replace("path or hub id of this folder", str(export))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=export)


@pytest.mark.slow
def test_the_line_gives_records_and_started_again_does_nothing(tmp_path: Path) -> None:
    first = run_line(tmp_path)
    assert "fresh" in first and "next " in first
    records = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("records/*/*.json")}
    tasks = {path.name.split("--")[1] for path in records}
    forgetting = {"hellaswag", "arc_challenge", "winogrande"}
    likelihoods = {"nll_target", "nll_validation", "nll_source", "kl_base"}
    assert tasks == {"gsm8k", *forgetting, *likelihoods}
    # Of the finetuned model and of the base, which does not diverge from itself.
    assert len(records) == 2 * len(tasks) - 1
    weights = next(tmp_path.rglob("adapter_model.safetensors"))
    check_model_card(weights.parent, list(records))
    written = weights.stat().st_mtime_ns
    second = run_line(tmp_path)
    assert "trained already" in second
    assert {path: path.stat().st_mtime_ns for path in records} == records
    assert weights.stat().st_mtime_ns == written
    run_line(tmp_path, "evals.tasks=[nll_target]", "evals.limit=3")
    assert len(list(tmp_path.rglob("records/*/*.json"))) == len(records) + 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["method=full", "method.rank=2"])
@pytest.mark.parametrize("experiment", ["math_ift", "code_ift", "math_cpt", "code_cpt"])
def test_every_experiment_goes_from_corpus_to_records(
    tmp_path: Path, experiment: str, method: str
) -> None:
    duration = "8192" if experiment.endswith("cpt") else "1"  # tokens, or epochs
    cfg = compose(
        f"+experiment={experiment}",
        method,
        f"duration={duration}",
        "trunk.branch=false",
        "data.max_documents=64",
        "evals.limit=4",
        f"paths.runs={tmp_path}/runs",
        f"paths.shards={tmp_path}/shards",
        f"paths.records={tmp_path}/records",
    )
    run(cfg)
    records = [read_record(path) for path in (tmp_path / "records").rglob("*.json")]
    trained = {r.task: r for r in records if r.axes.method != "base"}
    assert set(trained) == set(cfg.evals.tasks)
    record = trained["nll_target"]
    assert record.axes.cooled_down and record.axes.duration == float(duration)
    if experiment.endswith("cpt"):
        assert record.training["tokens"] == 8192  # exact: rows are full


@pytest.mark.long
@pytest.mark.slow
def test_a_run_of_a_multirun_that_is_refused_lets_the_others_run(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "lvf.train", "-m", "+experiment=math_ift", "method=lora"]
    ranks = "method.rank=100000,4"  # the first is refused
    done = subprocess.run(
        [*line, *QUICK, ranks, "runtime.measure=false"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "method.rank=100000 exceeds" in done.stderr and "1 of the runs failed" in done.stderr
    files = tmp_path.glob("runs/embedded-*/status.json")
    states = [json.loads(path.read_text())["state"] for path in files]
    assert states == ["trained"]


@pytest.mark.long
@pytest.mark.slow
def test_started_by_torchrun_a_run_is_that_which_lvf_starts_itself(tmp_path: Path) -> None:
    line = [
        "-m",
        "lvf.train",
        "+experiment=math_ift",
        "method=lora",
        *QUICK,
        "evals.tasks=[nll_target]",
    ]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ways = {"joined": [*torchrun, *line], "started": [*line, "runtime.nproc_per_node=2"]}
    losses, said = {}, {}
    for way, words in ways.items():
        done = subprocess.run(
            [sys.executable, *words, f"paths.runs={way}", f"paths.records={way}/records"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (metrics,) = tmp_path.glob(f"{way}/embedded-*/metrics.jsonl")
        rows = map(json.loads, metrics.read_text().splitlines())
        losses[way] = [row["loss/train/total"] for row in rows if "loss/train/total" in row]
        said[way] = done.stdout
        assert len(list(tmp_path.glob(f"{way}/records/*/*.json"))) == 2  # of the run and its base
    assert losses["joined"] == losses["started"]
    assert said["joined"].count("training embedded-") == 1  # of two ranks
    # Trained already: none of the ranks waits for another.
    again = subprocess.run(
        [sys.executable, *ways["joined"], "paths.runs=joined", "paths.records=joined/records"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.count("trained already") == 1


@pytest.mark.long
@pytest.mark.slow
def test_ranks_read_rows_from_a_remote_of_which_their_machine_has_nothing_yet(
    tmp_path: Path,
) -> None:
    remote = [f"paths.shards=file://{tmp_path}/remote", f"paths.records={tmp_path}/records"]
    line = ["+experiment=math_ift", "method=lora", *QUICK, "runtime.measure=false"]
    alone = [f"paths.runs={tmp_path}/alone", f"paths.shards_cache={tmp_path}/own"]
    run(compose(*line, *remote, *alone))
    assert list(tmp_path.glob("remote/*/recipe.json"))
    ranks = ["runtime.nproc_per_node=2", "runtime.measure=false", "paths.runs=ranks"]
    run_line(tmp_path, *ranks, *remote, "paths.shards_cache=other")
    curves = []
    for name in ("alone", "ranks"):
        (metrics,) = tmp_path.glob(f"{name}/embedded-*/metrics.jsonl")
        rows = map(json.loads, metrics.read_text().splitlines())
        curves.append([row["loss/train/total"] for row in rows if "loss/train/total" in row])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_saves_and_the_same_line_continues(tmp_path: Path, ranks: int) -> None:
    words = ["duration=6", f"runtime.nproc_per_node={ranks}", "runtime.measure=false"]
    line = [
        sys.executable,
        "-m",
        "lvf.train",
        "+experiment=math_ift",
        "method=lora",
        *QUICK,
        *words,
    ]
    # A terminal sends it to all processes that it has started.
    terminal = subprocess.Popen(
        line, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert terminal.stdout
    for said in terminal.stdout:
        if said.startswith("training "):
            os.killpg(terminal.pid, signal.SIGINT)
            break
    assert "the same command continues it" in terminal.communicate()[0]
    assert terminal.returncode == 75
    assert "resumed at batch " in run_line(tmp_path, *words)


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method.rank=100000"], "method.rank=100000 exceeds"),
        (["training.global_batch_size=3"], "cannot be shared evenly among 2 ranks"),
        (["-m", "seed=0,1"], "torchrun starts one run at a time"),
    ],
)
def test_what_the_first_rank_of_torchrun_refuses_ends_all_of_them(
    tmp_path: Path, words: list[str], told: str
) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    line = ["-m", "lvf.train", *words, "+experiment=math_ift", "method=lora", *QUICK]
    done = subprocess.run(
        [sys.executable, *torchrun, *line],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and told in done.stderr


OWN_SHARED_MEMORY = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs tmpfs /dev/shm; exec "$@"',
    "sh",
]
"""Lets a command see a /dev/shm of its own, as each machine has."""


def start_two_nodes(tmp_path: Path, *before: str) -> list[subprocess.Popen[bytes]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    torchrun = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=a"]
    line = ["-m", "lvf.train", "+experiment=math_ift", "method=full", *QUICK]
    words = [*before, sys.executable, *torchrun, *meeting, *line, "runtime.measure=false"]
    logs = [(tmp_path / f"node{node}.txt").open("w") for node in range(2)]
    return [subprocess.Popen(words, cwd=tmp_path, stderr=log) for log in logs]


def ends_of(machines: list[subprocess.Popen[bytes]], tmp_path: Path) -> tuple[list[int], str]:
    """How the nodes ended, and what they said."""
    codes = [machine.wait(timeout=300) for machine in machines]
    return codes, "".join(log.read_text() for log in tmp_path.glob("node*.txt"))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="needs mount namespaces",
)
def test_two_machines_share_a_run_by_torchruns_rendezvous(tmp_path: Path) -> None:
    machines = start_two_nodes(tmp_path, *OWN_SHARED_MEMORY)
    codes, said = ends_of(machines, tmp_path)
    assert codes == [0, 0], said
    (status,) = tmp_path.glob("runs/embedded-*/status.json")
    assert json.loads(status.read_text())["state"] == "trained"
    assert not list(status.parent.glob("checkpoints/*"))  # which nothing will continue


@pytest.mark.long
@pytest.mark.slow
def test_two_nodes_on_one_machine_are_refused(tmp_path: Path) -> None:
    machines = start_two_nodes(tmp_path)
    codes, said = ends_of(machines, tmp_path)
    assert all(codes)
    assert "Start torchrun once on each machine" in said


def test_several_nodes_are_named_with_the_commands_that_start_them(tmp_path: Path) -> None:
    many = ["runtime.nodes=4", "runtime.nproc_per_node=8", "training.global_batch_size=32"]
    line = [sys.executable, "-m", "lvf.train", "+experiment=math_ift", "method=full", *many]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    commands = ("sbatch --nodes=4", "torchrun --nnodes=4 --nproc-per-node=8", "runtime.nodes=1")
    assert all(command in done.stderr for command in commands)
