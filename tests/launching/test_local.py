"""Runs of one machine share its GPUs and cores without standing in each other's way."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lvf.config.compose import compose
from lvf.launching.local import GpuPool, default_workers, run_local, visible_gpus
from lvf.launching.status import ENDED_WITH
from lvf.runs.sweep import SweepRun


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program's place on a machine that has it; what it prints is up to the test."""
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def prints(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_there_is_a_worker_for_each_gpu_that_the_driver_lists(nvidia_smi: Path) -> None:
    prints(nvidia_smi, "echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'; echo 'GPU 1: NVIDIA H200'")
    assert visible_gpus() == ["0", "1"]
    assert default_workers() == 2


def test_gpus_that_the_user_has_chosen_are_the_only_ones(
    nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints(nvidia_smi, "echo 'GPU 0: NVIDIA H200'; echo 'GPU 1: NVIDIA H200'")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8f1c")
    assert visible_gpus() == ["5", "GPU-8f1c"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_a_program_without_a_driver_means_no_gpu_but_the_cores_of_this_process(
    nvidia_smi: Path,
) -> None:
    prints(nvidia_smi, "echo 'GPU access blocked'; exit 9")
    assert visible_gpus() == []
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert default_workers() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(("workers", "wanted"), [(4, 1), (4, 2), (8, 1)])
def test_no_gpu_has_more_runs_than_its_share(workers: int, wanted: int) -> None:
    gpus = ["0", "1", "2", "3"]
    pool, lock = GpuPool(gpus, workers), threading.Lock()
    busy, most = dict.fromkeys(gpus, 0), dict.fromkeys(gpus, 0)
    together = threading.Barrier(workers // wanted)  # as many runs as fit are at work at once

    def run(_number: int) -> None:
        with pool.take(wanted) as taken:
            assert len(set(taken)) == wanted
            with lock:
                for gpu in taken:
                    busy[gpu] += 1
                    most[gpu] = max(most[gpu], busy[gpu])
            together.wait(timeout=60)
            with lock:
                for gpu in taken:
                    busy[gpu] -= 1

    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(run, range(3 * workers // wanted)))
    assert set(most.values()) == {workers // len(gpus)}
    assert set(busy.values()) == {0}


def test_without_gpus_nobody_waits() -> None:
    with GpuPool([], 2).take(2) as first, GpuPool([], 2).take(1) as second:
        assert first == second == []


SAVES_WHEN_STOPPED = """
trap 'touch "$FOLDER/saved-$$"; exit 75' TERM
touch "$FOLDER/began-$$"
while true; do sleep 0.1; done
"""
DOES_NOT_LISTEN = """
touch "$FOLDER/began-$$"
exec sleep 600
"""


@pytest.fixture
def stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Starts three runs of a shell script, sends this process signals, gives what was printed."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:  # a signal that nobody hears fails the test instead of ending pytest
        signal.signal(number, lambda *_: pytest.fail("the signal was not heard"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "run"))
    monkeypatch.setenv("FOLDER", str(tmp_path))

    def stop(script: str, at_work: int, *sent: signal.Signals, **settings: int) -> str:
        prints(tmp_path / "run", script)
        words = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
        line = ("+experiment=math_ift", f"paths.runs={tmp_path}/runs", *words)
        lines = [(*line, f"seed={seed}") for seed in range(3)]
        pause = threading.Event()

        def send() -> None:
            while len([*tmp_path.glob("began-*")]) < at_work:
                pause.wait(0.05)
            for number in sent:
                os.kill(os.getpid(), number)

        threading.Thread(target=send, daemon=True).start()
        with pytest.raises(SystemExit) as end:
            run_local([SweepRun(words, compose(*words)) for words in lines], workers=2)
        assert end.value.code == 75
        return capsys.readouterr().out

    yield stop
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_grid_stops_its_runs_which_save_and_starts_no_more(
    stopped: Callable[..., str], tmp_path: Path, sent: signal.Signals
) -> None:
    shown = stopped(SAVES_WHEN_STOPPED, 2, sent)
    began, saved = ([*tmp_path.glob(f"{word}-*")] for word in ("began", "saved"))
    assert len(began) == len(saved) == 2
    assert shown.count(" stopped ") == 2 and "failed" not in shown
    assert "the same command continues" in shown


def test_a_second_signal_changes_nothing(stopped: Callable[..., str], tmp_path: Path) -> None:
    """As `timeout` sends it: to the process, then to its group."""
    stopped(SAVES_WHEN_STOPPED, 2, signal.SIGTERM, signal.SIGTERM)
    assert len([*tmp_path.glob("began-*")]) == len([*tmp_path.glob("saved-*")]) == 2


def test_a_run_that_waits_for_gpus_does_not_start_any_more(
    stopped: Callable[..., str], nvidia_smi: Path, tmp_path: Path
) -> None:
    prints(nvidia_smi, "echo 'GPU 0: NVIDIA H200'; echo 'GPU 1: NVIDIA H200'")
    shown = stopped(SAVES_WHEN_STOPPED, 1, signal.SIGINT, runtime__nproc_per_node=2)
    assert len([*tmp_path.glob("began-*")]) == len([*tmp_path.glob("runs/logs/*")]) == 1
    assert shown.count(" stopped ") == 1 and "failed" not in shown


def test_a_run_that_is_stopped_before_it_listens_has_not_failed(
    stopped: Callable[..., str], tmp_path: Path
) -> None:
    shown = stopped(DOES_NOT_LISTEN, 2, signal.SIGTERM)
    assert shown.count(" stopped ") == 2 and "failed" not in shown
    logs = [log.read_text() for log in tmp_path.glob("runs/logs/*")]
    assert len(logs) == 2 and not any(ENDED_WITH in log for log in logs)
