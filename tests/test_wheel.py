"""An installed wheel works in any folder, without the checkout."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip builds it, with the build backend of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has the unpacked wheel in `site`, and nothing else."""
    folder = tmp_path_factory.mktemp("elsewhere")
    ZipFile(wheel).extractall(folder / "site")
    return folder


def run(folder: Path, *words: str) -> str:
    """Output of `python -m` in the folder, whose wheel stands before the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def committed(*folders: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(listed.stdout.split())


@pytest.mark.slow
def test_a_wheel_has_the_package_the_configuration_the_scripts_and_the_papers_numbers(
    wheel: Path,
) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs git's list of files")
    files = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    beside = committed("conf", "launchers/node.sh", "launchers/run.sbatch", "results/paper.csv")
    assert files == committed("lvf") | {f"lvf/{path}" for path in beside}


@pytest.mark.slow
def test_commands_of_a_wheel_read_its_own_files(elsewhere: Path) -> None:
    code = "from lvf.config.schema import CONF_DIR; print(CONF_DIR)"
    assert Path(run(elsewhere, "-c", code).strip()) == elsewhere / "site" / "lvf" / "conf"
    assert "code_cpt, code_ift" in run(elsewhere, "-m", "lvf.train", "--help")
    shown = run(elsewhere, "-m", "lvf.train", "+experiment=math_ift", "method=full", "--cfg", "job")
    assert "lr_peak" in shown
    assert "6 runs" in run(elsewhere, "-m", "lvf.grid", "sweep=demo")
    assert "direction only" in run(elsewhere, "-m", "lvf.report", "claims", "paper=true")


@pytest.mark.long
@pytest.mark.slow
def test_a_wheel_trains_on_two_ranks(elsewhere: Path) -> None:
    small = ["duration=1", "data.max_documents=48", "runtime.measure=false"]
    words = [
        "-m",
        "lvf.train",
        "+experiment=math_ift",
        "method=lora",
        "runtime.nproc_per_node=2",
        *small,
    ]
    assert "next " in run(elsewhere, *words)
    assert list(elsewhere.glob("runs/**/adapter_model.safetensors"))
