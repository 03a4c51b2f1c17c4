"""A real Slurm of two nodes on this machine: what it does to a run must not matter to the grid.

Runs where `launchers/test_cluster start` has been called: `make test-slurm`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lvf.config.grid_schema import SlurmConfig, SweepConfig
from lvf.data.recipe import sharing_key
from lvf.errors import UserError
from lvf.launching.slurm import JOB_SCRIPT, submit
from lvf.launching.slurm_queue import EVALUATE, TRAIN, Task, endings, queued_jobs, start_evaluation
from lvf.launching.status import statuses
from lvf.runs.run_folder import RunFolder
from lvf.runs.sweep import SweepRun, runs_of

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]
CPUS = 2  # of the eight that a node of the test cluster claims


@pytest.fixture(scope="module", autouse=True)
def cluster() -> None:
    if not os.environ.get("SLURM_CONF") or not shutil.which("sbatch"):
        pytest.skip("needs the test cluster: make test-slurm")


@pytest.fixture(scope="module")
def under_way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a sweep that runs while the other tests do."""
    folder = tmp_path_factory.mktemp("sweep")
    submit(cells(folder, "runtime.checkpoint_every_batches=1", ift=False), SLURM)
    return folder


@pytest.fixture
def later(tmp_path: Path) -> Iterator[SlurmConfig]:
    """Jobs that wait in the queue until the test is over."""
    yield replace(SLURM, additional_parameters={"begin": "now+1hour"})
    for job in queued_jobs(tmp_path / "runs" / "slurm"):
        ask("scancel", job.id)


def ask(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what Slurm tells late; polling is the only way to ask it."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, ask("squeue", "--array") + "\n" + ask("sacct", "-X")
        time.sleep(0.2)


def shell(folder: Path, text: str, *options: str) -> str:
    """Submit the job script with a shell text as its run; returns the job's number."""
    output = f"--output={folder}/out"
    line = ["sbatch", "--parsable", output, "--cpus-per-task=1", *options, JOB_SCRIPT]
    return ask(*line, "bash", "-c", text)


def state(job: str) -> str:
    return ask("sacct", "-X", "-n", "-P", "-o", "State", "-j", job).partition(" ")[0]


def said(folder: Path, name: str = "out") -> list[str]:
    file = folder / name
    lines = file.read_text().splitlines() if file.exists() else []
    return [line for line in lines if line.startswith(("life", "saved"))]  # Slurm and bash apart


# Stands for a run: notes its life, and saves when it is asked to stop; its second life ends well.
RUN = """
life=${SLURM_RESTART_COUNT:-0}; echo life $life
trap 'echo saved; exit 75' USR2 TERM
[ $life = 0 ] || exit 0
while :; do sleep 0.1; done
"""


def test_a_signal_before_the_time_limit_requeues_a_run_that_has_saved(tmp_path: Path) -> None:
    job = shell(tmp_path, RUN)
    until(lambda: said(tmp_path) == ["life 0"])
    ask("scancel", "--batch", "--signal=USR2", job)
    until(lambda: said(tmp_path)[-1] == "life 1" and state(job) == "COMPLETED")
    assert said(tmp_path) == ["life 0", "saved", "life 1"]


def test_a_trunk_that_is_stopped_goes_back_to_the_queue(under_way: Path) -> None:
    _, trunk = cells(under_way, "runtime.checkpoint_every_batches=1", ift=False)
    until(lambda: any((trunk.folder / "checkpoints").glob("ba*")), 120)
    (job,) = [
        job.id
        for job in queued_jobs(under_way / "runs" / "slurm")
        if job.task == Task(TRAIN, trunk.folder.name)
    ]
    ask("scancel", "--batch", "--signal=USR2", job)
    until(lambda: trunk.state() == "stopped")


def test_of_an_array_only_the_element_that_was_asked_comes_back(tmp_path: Path) -> None:
    # The last element has the number of the whole array.
    script = tmp_path / "run.sh"
    script.write_text(RUN)
    commands = tmp_path / "commands.txt"
    commands.write_text(f"exec bash {script}\n" * 2)
    line = ["sbatch", "--parsable", "--array=0-1", f"--output={tmp_path}/%a", "--cpus-per-task=1"]
    array = ask(*line, JOB_SCRIPT, commands)
    until(lambda: said(tmp_path, "0") == said(tmp_path, "1") == ["life 0"])
    ask("scancel", "--batch", "--signal=USR2", f"{array}_1")
    until(lambda: state(f"{array}_1") == "COMPLETED")
    other = said(tmp_path, "0")
    ask("scancel", array)
    assert other == ["life 0"]
    assert said(tmp_path, "1") == ["life 0", "saved", "life 1"]


def test_a_real_time_limit_requeues_and_a_failure_and_a_cancelled_job_do_not(
    tmp_path: Path,
) -> None:
    # Slurm may send the signal up to 60 s early: here it comes within the first minute.
    folders = [tmp_path / name for name in ("limit", "failed", "cancelled", "killed")]
    for folder in folders:
        folder.mkdir()
    limit = shell(folders[0], RUN, "--time=1", "--signal=B:USR2@50")
    failed = shell(folders[1], "exit 3")
    cancelled = shell(folders[2], RUN)
    killed = shell(folders[3], "echo up; kill -KILL $$")
    until(lambda: said(folders[2]) == ["life 0"])
    ask("scancel", cancelled)
    until(lambda: state(failed) == state(killed) == "FAILED" and state(cancelled) == "CANCELLED")
    until(lambda: said(folders[2]) == ["life 0", "saved"])
    until(lambda: state(limit) == "COMPLETED", 100)
    assert said(folders[0]) == ["life 0", "saved", "life 1"]


def test_preemption_and_a_lost_node_bring_a_run_back(tmp_path: Path) -> None:
    low, lost = tmp_path / "low", tmp_path / "lost"
    low.mkdir()
    lost.mkdir()
    most = ("--nodelist=n1", "--cpus-per-task=6")
    preempted = shell(low, RUN, "--partition=low", *most)
    on_node = shell(lost, RUN, "--nodelist=n2")
    until(lambda: said(low) == said(lost) == ["life 0"])
    shell(tmp_path, "exit", "--partition=high", *most)
    ask("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")  # and it reports again
    until(lambda: state(preempted) == state(on_node) == "COMPLETED")
    assert said(low) == ["life 0", "saved", "life 1"]
    assert said(lost)[0] == "life 0" and said(lost)[-1] == "life 1"


BATCH_TOKENS = 8 * 256
CPT = {
    "+experiment": ["math_cpt"],
    "duration": [4 * BATCH_TOKENS, 8 * BATCH_TOKENS],
    "trunk.tokens": [8 * BATCH_TOKENS],
    "trunk.budgets": [[4 * BATCH_TOKENS]],
}
IFT = {"+experiment": ["math_ift"], "duration": [1]}


def cells(folder: Path, *more: str, cpt: bool = True, ift: bool = True) -> list[SweepRun]:
    """A branch and its trunk, and a run of its own."""
    blocks = {name: block for name, block, on in (("c", CPT, cpt), ("i", IFT, ift)) if on}
    few = ["data.max_documents=64", "evals.tasks=[nll_target]", "evals.limit=4"]
    paths = [f"paths.{name}={folder}/{name}" for name in ("runs", "shards", "records")]
    return runs_of(SweepConfig(name="three", blocks=blocks, overrides=[*few, *paths]), list(more))


SLURM = SlurmConfig(
    mem_gb=None,
    cpus_per_task=CPUS,
    preparation_cpus=CPUS,
    timeout_min=20,
    signal_delay_s=60,
    additional_parameters={"nodelist": "n1"},
)


def test_branches_wait_for_their_trunk_and_evaluations_for_their_run(
    tmp_path: Path, later: SlurmConfig
) -> None:
    branch, trunk, own = cells(tmp_path)
    assert submit([branch, trunk, own], later) == 8
    names = dict(zip((cell.folder.name for cell in (branch, trunk, own)), "btr", strict=True))
    root = tmp_path / "runs" / "slurm"
    names |= {sharing_key(cell.cfg): key for cell, key in ((trunk, "t"), (own, "r"))}
    jobs = {f"{job.task.kind} {names[job.task.run]}": job.id for job in queued_jobs(root)}
    rows = ask("squeue", "--array", "-h", "-o", "%F_%K %E").splitlines()
    waits = dict(row.split() for row in rows)
    # Slurm names what an array's element waits for: its data, which two runs of one corpus share.
    for run in "tr":
        assert waits[jobs[f"prepare {run}"]] == "(null)"
        assert waits[jobs[f"train {run}"]] == f"afterok:{jobs[f'prepare {run}']}(unfulfilled)"
    assert waits[jobs["train b"]] == f"afterok:{jobs['train t']}(unfulfilled)"
    for run in "btr":
        array, _, index = jobs[f"train {run}"].partition("_")
        assert waits[jobs[f"evaluate {run}"]] == f"aftercorr:{array}_*(unfulfilled)"
        assert jobs[f"evaluate {run}"].endswith(f"_{index}")
    assert [status.state for status in statuses([branch, trunk, own])] == ["queued"] * 3


def test_a_second_run_waits_for_the_first_run_and_for_its_own_data(
    tmp_path: Path, later: SlurmConfig
) -> None:
    second = {"+experiment": ["sequence"], "duration": [1], "sequence.first.duration": [1],
              "+sequence.first.data.max_documents": [64]}  # fmt: skip
    paths = [f"paths.{name}={tmp_path}/{name}" for name in ("runs", "shards", "records")]
    few = ["data.max_documents=64", "evals.tasks=[nll_target]", "evals.limit=4", *paths]
    blocks = {"second": second, "first": IFT}
    code, maths = runs_of(SweepConfig(name="two", blocks=blocks, overrides=few), [])
    assert submit([code, maths], later) == 6
    assert submit([code, maths], later) == 0
    names = {code.run_id: "code", maths.run_id: "maths"}
    names |= {sharing_key(cell.cfg): names[cell.run_id] for cell in (code, maths)}
    queued = queued_jobs(tmp_path / "runs" / "slurm")
    jobs = {f"{job.task.kind} {names[job.task.run]}": job.id for job in queued}
    rows = ask("squeue", "--array", "-h", "-o", "%F_%K %E").splitlines()
    waits = dict(row.split() for row in rows)
    assert waits[jobs["train maths"]] == f"afterok:{jobs['prepare maths']}(unfulfilled)"
    before = {jobs["train maths"], jobs["prepare code"]}
    assert set(waits[jobs["train code"]].split(",")) == {
        f"afterok:{job}(unfulfilled)" for job in before
    }


def test_what_is_queued_is_not_queued_again_and_what_was_lost_is(
    tmp_path: Path, later: SlurmConfig
) -> None:
    three = cells(tmp_path)
    assert submit(three, later) == 8
    assert submit(three, later) == 0
    root = tmp_path / "runs" / "slurm"
    own = three[2].folder.name
    for job in queued_jobs(root):
        if job.task.run == own:
            ask("scancel", job.id)
    until(lambda: all(job.task.run != own for job in queued_jobs(root)))
    assert submit(three, later) == 2
    assert submit(three, later) == 0


def test_every_export_is_measured_by_a_job_of_its_own(tmp_path: Path, later: SlurmConfig) -> None:
    (own,) = cells(tmp_path, "measure_at=[0.5]", cpt=False)
    assert submit([own], later) == 4
    jobs = queued_jobs(tmp_path / "runs" / "slurm")
    moments = {str(job.task.moment) for job in jobs if job.task.kind == EVALUATE}
    assert moments == {"0.5", "1.0"}


def test_a_written_export_is_measured_at_once_and_the_others_wait_for_their_runs(
    tmp_path: Path, later: SlurmConfig
) -> None:
    two = [*cells(tmp_path, "measure_at=[0.5]", cpt=False)]
    two += cells(tmp_path, "measure_at=[0.5]", "seed=1", cpt=False)
    assert submit(two, later) == 7
    root = tmp_path / "runs" / "slurm"
    start_evaluation(RunFolder(two[1].folder), 0.5)

    def waiting() -> set[tuple[str, float | None]]:
        """Measurements; trainings wait for their data."""
        rows = (
            row.split() for row in ask("squeue", "--array", "-h", "-o", "%F_%K %E").splitlines()
        )
        on = {job for job, awaited in rows if awaited != "(null)"}
        tasks = [job.task for job in queued_jobs(root) if job.id in on]
        return {(task.run, task.moment) for task in tasks if task.moment is not None}

    still = {(two[0].run_id, 0.5), (two[0].run_id, 1.0), (two[1].run_id, 1.0)}
    assert waiting() == still
    assert submit(two, later) == 0
    # Of a run that goes on after its first export, a lost evaluation starts at once, too.
    export = RunFolder(two[0].folder).export(3)
    export.mkdir(parents=True)
    (export / "export.json").write_text('{"duration": 0.5}')
    (lost,) = (
        job.id for job in queued_jobs(root) if job.task == Task(EVALUATE, two[0].run_id, 0.5)
    )
    ask("scancel", lost)
    until(lambda: lost not in {job.id for job in queued_jobs(root)})
    assert submit(two, later) == 1
    assert waiting() == still - {(two[0].run_id, 0.5)}


def test_a_grid_can_be_started_within_a_job_and_a_bad_partition_is_told(
    tmp_path: Path, later: SlurmConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1000")  # of a surrounding salloc --mem
    monkeypatch.setenv("SBATCH_PARTITION", "gone")
    own = cells(tmp_path, cpt=False)
    with pytest.raises(UserError, match="invalid partition"):
        submit(own, SlurmConfig(partition="gone", mem_gb=None))
    options = {**later.additional_parameters, "mem-per-cpu": "10M"}
    assert submit(own, replace(later, additional_parameters=options)) == 3


def inside_container(folder: Path) -> list[str]:
    """What starts a command where there is no other of Slurm, as in most containers."""
    (folder / "bin").mkdir()
    for name in ("bash", "env", "sed", "awk", "getent", "ip", "nproc", "hostname", "head", "uname"):
        if place := shutil.which(name):
            (folder / "bin" / name).symlink_to(place)
    return ["env", f"PATH={folder}/bin"]


@pytest.mark.parametrize("contained", [False, True])
def test_two_nodes_share_a_run(tmp_path: Path, contained: bool) -> None:
    settings = ["method=lora", "data.max_documents=64", "runtime.measure=false", "duration=1"]
    nodes = ["runtime.nodes=2", "paths.runs=runs", "paths.shards=shards"]
    line = ["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", f"--cpus-per-task={CPUS}",
            "--output=out", JOB_SCRIPT]  # fmt: skip
    run = [sys.executable, "-m", "lvf.train", "+experiment=math_ift", *settings, *nodes]
    if contained:
        run = [*inside_container(tmp_path), *run]
    job = subprocess.run([*line, *run], cwd=tmp_path, capture_output=True, text=True, check=True)
    until(lambda: state(job.stdout.strip()) in ("COMPLETED", "FAILED"), 120)
    status = json.loads(next(tmp_path.glob("runs/*/status.json")).read_text())
    assert status["state"] == "trained", (tmp_path / "out").read_text()
    assert (tmp_path / "out").read_text().count("training embedded-") == 1
    ranks = {file.name for file in status_folder(tmp_path).glob("log*.txt")}
    assert ranks == {"log.txt", "log-rank1.txt"}


def status_folder(folder: Path) -> Path:
    return next(folder.glob("runs/*/status.json")).parent


def test_hydras_launcher_gives_a_job_the_nodes_and_gpus_of_its_run(tmp_path: Path) -> None:
    nodes = ["runtime.nodes=2", "runtime.nproc_per_node=2", "training.global_batch_size=8"]
    few = ["duration=1", "data.max_documents=64", "runtime.measure=false", "method=full"]
    settings = ("mem_gb=null", "cpus_per_task=2", "timeout_min=20")
    asked = [f"hydra.launcher.{one}" for one in settings]
    line = [sys.executable, "-m", "lvf.train", "-m", "hydra/launcher=slurm", "+experiment=math_ift"]
    where = ["paths.runs=runs", "paths.shards=shards"]
    subprocess.run([*line, *nodes, *few, *asked, *where], cwd=tmp_path, check=True, timeout=240)
    (script,) = tmp_path.glob("runs/multirun/.submitit/*/*_submission.sh")
    lines = script.read_text().splitlines()
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus-per-node=2", "#SBATCH --ntasks-per-node=1"} < {
        *lines
    }
    status = json.loads((status_folder(tmp_path) / "status.json").read_text())
    assert status["state"] == "trained"
    assert len(list(status_folder(tmp_path).glob("log*.txt"))) == 4


def test_runs_wait_for_a_job_without_gpus_that_prepares_their_data(tmp_path: Path) -> None:
    own, other = [*cells(tmp_path, cpt=False), *cells(tmp_path, "seed=1", cpt=False)]
    assert submit([own, other], SLURM) == 5
    root = tmp_path / "runs" / "slurm"
    (folder,) = root.glob("*-prepare")
    assert not [one for one in (folder / "submit.sh").read_text().split() if "gpus" in one]
    until(lambda: not queued_jobs(root), 200)
    assert [status.state for status in statuses([own, other])] == ["done", "done"]
    ended = {task.kind: how for task, how in endings(root).items()}
    assert ended["prepare"] == "COMPLETED"
    for cell in (own, other):
        assert "making" not in cell.log.read_text()


def test_data_that_cannot_be_prepared_are_why_their_runs_have_failed(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"neither": "question nor answer"}\n')
    (own,) = cells(tmp_path, f"data.train.path={corpus}", cpt=False)
    submit([own], SLURM)
    root = tmp_path / "runs" / "slurm"
    until(lambda: not queued_jobs(root), 100)
    until(lambda: "FAILED" in endings(root).values())
    (status,) = statuses([own])
    assert status.state == "failed" and "preparation | FAILED" in status.why
    assert "error: " in status.why and "corpus.jsonl" in status.why


def test_a_sweep_ends_complete_though_its_trunk_is_stopped_on_the_way(under_way: Path) -> None:
    branch, trunk = cells(under_way, "runtime.checkpoint_every_batches=1", ift=False)
    root = under_way / "runs" / "slurm"
    until(lambda: not queued_jobs(root), 300)
    assert trunk.log.read_text().count("\ntraining embedded-") >= 2
    assert ": resumed at batch " in trunk.log.read_text()
    assert [status.state for status in statuses([branch, trunk])] == ["done", "done"]
    assert len(list(under_way.glob("records/*/*.json"))) == 3  # of both, and of their base
    until(lambda: set(endings(root).values()) == {"COMPLETED"})
