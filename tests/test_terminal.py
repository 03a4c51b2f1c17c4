"""What a person sees of a command, and what a machine without some packages can do."""

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

LINE = [
    "-m", "lvf.train", "+experiment=math_ift", "method=lora", "duration=1",
    "data.max_documents=48", "evals.limit=4",
]  # fmt: skip
FROM_LIBRARIES = [  # Composer, streaming, transformers, datasets, torchrun
    "Setting seed", "predownload", "shuffle_block_size", "Run name:", "Stepping schedulers",
    "Using precision", "deprecated", "Warning", "warmup duration", "return_dict",
    "Loading weights", "examples/s", "Map:", "OMP_NUM_THREADS",
]  # fmt: skip
WITHOUT_DUCKDB = "import sys; sys.modules['duckdb'] = None; "


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_the_terminal_is_lvfs_and_what_libraries_say_is_in_the_log_file(
    tmp_path: Path, ranks: int
) -> None:
    command = [
        sys.executable,
        *LINE,
        f"runtime.nproc_per_node={ranks}",
        "evals.tasks=[gsm8k,nll_target]",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    assert [words for words in FROM_LIBRARIES if words in said] == []
    assert "\r  0%|" not in said  # a bar without a name
    assert all(words in said for words in ("preparing embedded", "ba/s", "Scoring text", "next "))
    logs = sorted(tmp_path.glob("runs/*/log*.txt"))
    assert [log.name for log in logs] == ["log-rank1.txt", "log.txt"][2 - ranks :]
    for log in logs:
        assert "Setting seed to 0" in log.read_text()
        assert "UserWarning: The warmup duration is 0" in log.read_text()


def test_a_mistake_is_one_message_and_an_error_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    command = [sys.executable, *LINE, "model.path=/nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "/nowhere" in done.stderr
    broken = "import lvf.train as t; from lvf.config.compose import entry_point as e; "
    broken += "e(lambda cfg: 1 / 0)()"
    command = [sys.executable, "-c", broken, "+experiment=math_ift", "hydra.job.name=broken"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"HYDRA_FULL_ERROR": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "ZeroDivisionError" in done.stderr and done.returncode == 1


@pytest.mark.long
@pytest.mark.slow
def test_without_duckdb_a_run_is_trained_measured_and_reported_and_only_a_condition_asks_for_it(
    tmp_path: Path,
) -> None:
    def run(module: str, *settings: str) -> subprocess.CompletedProcess[str]:
        code = f"{WITHOUT_DUCKDB}from lvf.{module} import main; main()"
        command = [sys.executable, "-c", code, *settings]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    settings = [*LINE[2:], "evals.tasks=[nll_target]"]
    for module in ("train", "evaluate"):
        done = run(module, *settings)
        assert done.returncode == 0, done.stderr
        assert "target NLL" in done.stdout
    assert run("report").returncode == 0
    done = run("report", "where=rank=8")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install duckdb" in done.stderr


def test_the_benchmark_of_a_gpu_machine_imports_without_duckdb() -> None:
    code = f"{WITHOUT_DUCKDB}import gpu; import lvf.benchmarking.throughput, lvf.analysis.weights"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
    subprocess.run(command, capture_output=True, check=True, env=environment)
