"""Sweeps: every committed one composes, cells are distinct runs, a second start does the rest."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from lvf.cells import SweepConfig, cells_of
from lvf.config import CONF_DIR
from lvf.errors import UserError
from lvf.grid import GridConfig

SWEEPS = sorted(path.stem for path in (CONF_DIR / "sweep").glob("*.yaml"))


def sweep(name: str) -> SweepConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        grid = OmegaConf.to_object(hydra_compose("grid", overrides=[f"sweep={name}"]))
    assert isinstance(grid, GridConfig)
    return grid.sweep


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_is_the_product_of_its_axes(name: str) -> None:
    blocks = sweep(name).blocks
    sizes = []
    for axes in blocks.values():
        size = 1
        for values in axes.values():
            size *= len(values)
        sizes.append(size)
    cells = cells_of(sweep(name), [])
    assert len(cells) == sum(sizes)
    assert len({cell.folder for cell in cells}) == len(cells)


def test_the_embedded_grid_covers_domains_regimes_methods_and_durations() -> None:
    cells = [cell.cfg for cell in cells_of(sweep("embedded"), [])]
    conditions = {(c.domain.name, c.regime.name) for c in cells}
    assert conditions == {(d, r) for d in ("math", "code") for r in ("ift", "cpt")}
    assert {c.method.name for c in cells} == {"full", "lora_r2", "lora_r8", "lora_r32"}


def test_an_impossible_cell_is_named_before_anything_starts() -> None:
    one = SweepConfig(name="x", blocks={"b": {"method": ["lora"], "method.rank": [8, -1]}})
    with pytest.raises(UserError, match=r"cell method=lora method.rank=-1: .*at least 1"):
        cells_of(one, [])


TWO_QUICK_RUNS = """
name: two
blocks:
  b: {+experiment: [math_ift], method: [full, lora]}
overrides:
  - duration=1
  - data.max_documents=48
  - evals.tasks=[nll_target]
  - evals.limit=4
"""


@pytest.mark.slow
def test_a_second_start_runs_only_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "conf" / "sweep" / "two.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(TWO_QUICK_RUNS)

    def grid(launcher: str) -> str:
        arguments = [f"hydra.searchpath=[file://{tmp_path}/conf]", "sweep=two", "workers=1"]
        line = [sys.executable, "-m", "lvf.grid", *arguments, f"launcher={launcher}"]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "2 runs, 0 done, 2 to do" in grid("none")
    grid("local")
    exports = list(tmp_path.glob("runs/*/exports/ba*"))
    assert len(exports) == 2
    lost = exports[0].parents[1]
    shutil.rmtree(lost)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/exports/ba*")}
    assert "2 runs, 1 done, 1 to do" in grid("local")
    assert lost.is_dir()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "2 runs, 2 done, 0 to do" in grid("none")
