"""Sweeps: every committed one composes, cells are distinct runs, a second start does the rest."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from lvf.config.compose import compose, to_run_config
from lvf.config.grid_schema import GridConfig, SweepConfig
from lvf.config.schema import CONF_DIR, ScaleConfig
from lvf.errors import UserError
from lvf.grid import run
from lvf.runs.sweep import SweepRun, runs_of
from lvf.runs.trunk import trunk_of

# Runs of each sweep on the paper's scale, counted by hand from PAPER facts, sections 1.1 and 5:
# methods x durations, rates or epochs.
CELLS = {
    "main": 2 * 4 * 5 + 2 * 4 * 8,
    "tulu": 4,
    "regularisation": (1 + 2 + 2 + 2) * 5,
    "targets": 3 * 3 * 3,
    "lr_sensitivity": 2 * 2 * 7,
    "optimizers": 2 * 2 * 7,
    "alpha_lr": 3 * 7 + 2,
    "pass_at_k": 4,
    "diversity": 2 * 3,
    "throughput": 6 * 5,
    "beyond": 2 * 7 * 3,
    "without_regret": 2 * 4 * 5,
    "seeds": 3 * (2 * 4 * 5 + 2 * 4 * 8),
    "rate_rank_batch": 2 * 4 * 4 * 3,
    "demo": 2 * 3,
    "frontier": 2 * 3 * 3,
    "rates": 2 * 2 * 4 * 5,
    "small_cpu": 4 + 5 + 2 * 2,
    "replay": 2 * 2 * 3 * 3,
    "sequence": 3 * (2 * 4 + 2 * (1 + 3 * 2)),
}


def sweep(name: str, scale: str = "paper") -> SweepConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        words = [f"sweep={name}", f"scale={scale}"]
        grid = OmegaConf.to_object(hydra_compose("grid", overrides=words))
    assert isinstance(grid, GridConfig)
    return grid.sweep


@pytest.fixture(scope="module")
def main_cells() -> list[SweepRun]:
    return runs_of(sweep("main"), ["scale=paper"])


def test_the_main_grid_has_the_runs_of_the_paper(main_cells: list[SweepRun]) -> None:
    # PAPER facts, section 1.1: 64 models of continued pre-training, 8 of them trunks; 40 of IFT
    assert len({cell.folder for cell in main_cells}) == len(main_cells) == CELLS["main"]
    counts = Counter(cell.cfg.regime.name for cell in main_cells)
    assert counts == {"cpt": 64, "ift": 40}
    trunks = [cell for cell in main_cells if cell.cfg.duration == 20e9]
    assert len(trunks) == 8
    first_branch = min(i for i, cell in enumerate(main_cells) if trunk_of(cell.cfg) is not None)
    assert all(main_cells.index(trunk) < first_branch for trunk in trunks)
    assert {cell.cfg.method.name for cell in main_cells} == {
        "full", "lora_r16", "lora_r64", "lora_r256"
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name in CELLS if name != "main"])
def test_every_sweep_is_the_product_of_its_axes(name: str) -> None:
    # few rows a step, for a single rank; text to replay, which no other scale has
    scale = {"small_cpu": "small", "replay": "embedded"}.get(name, "paper")
    found = runs_of(sweep(name, scale), [f"scale={scale}"])
    assert len({cell.folder for cell in found}) == len(found) == CELLS[name]


def test_every_sweep_has_its_number_of_cells_written_down() -> None:
    files = {path.stem for path in (CONF_DIR / "sweep").glob("*.yaml")}
    assert files == {*CELLS, "all"}


def test_the_embedded_grid_covers_domains_regimes_methods_and_durations() -> None:
    cells = [cell.cfg for cell in runs_of(sweep("main", "embedded"), ["scale=embedded"])]
    assert len(cells) == 2 * 4 * 4 + 2 * 4 * 5
    conditions = {(c.domain.name, c.regime.name) for c in cells}
    assert conditions == {(d, r) for d in ("math", "code") for r in ("ift", "cpt")}
    assert {c.method.name for c in cells} == {"full", "lora_r2", "lora_r8", "lora_r32"}


@pytest.mark.parametrize("name", ["main", "alpha_lr", "regularisation", "throughput"])
def test_a_cell_is_what_hydra_composes_alone(name: str, main_cells: list[SweepRun]) -> None:
    found = main_cells if name == "main" else runs_of(sweep(name), ["scale=paper"])
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for cell in found[:: max(1, len(found) // 8)]:
            alone = hydra_compose("train", overrides=list(cell.overrides))
            assert cell.cfg == to_run_config(alone)


def test_the_embedded_runs_of_the_main_grid_keep_their_names() -> None:
    # what results are filed under; to change them is to train all of them again
    cells = runs_of(sweep("main", "embedded"), ["scale=embedded"])
    names = "\n".join(sorted(cell.run_id for cell in cells))
    assert hashlib.sha256(names.encode()).hexdigest().startswith("753d316dd940ebb0")


def test_a_file_that_changes_between_two_compositions_is_read_again(tmp_path: Path) -> None:
    method = tmp_path / "method" / "mine.yaml"
    method.parent.mkdir()
    words = (f"hydra.searchpath=[file://{tmp_path}]", "method=mine")
    one = SweepConfig(name="x", blocks={"b": {"duration": [1]}}, overrides=list(words))
    for rank in (3, 5):
        method.write_text(f"defaults: [lora]\nrank: {rank}\n")
        assert [cell.cfg.method.rank for cell in runs_of(one, [])] == [rank]
        assert compose(*words).method.rank == rank


def test_values_that_are_not_plain_are_left_to_hydra() -> None:
    axes = {"method": ["lora"], "optimizer": ["adamw", "lion"], "measure_at": [[1], [1, 2]]}
    one = SweepConfig(name="x", blocks={"b": axes})
    more = ["++evals.lm_eval.gsm8k.num_fewshot=3", "~logger.jsonl", "evals.tasks=[gsm8k]"]
    found = runs_of(one, more)
    assert len(found) == 4
    for cell in found:
        assert cell.cfg == compose(*cell.overrides)


def test_all_is_every_sweep_of_the_paper_and_shares_their_runs() -> None:
    blocks = sweep("all").blocks
    for part in ("main", "tulu", "regularisation", "targets", "lr_sensitivity", "optimizers"):
        assert sweep(part).blocks.items() <= blocks.items()


def test_the_planner_lists_states_and_totals_and_loads_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['lvf.grid', 'sweep=tulu', 'scale=paper']\n"
        "from lvf.grid import main\n"
        "main()\n"
        "heavy = {'torch', 'composer', 'transformers', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    line = [sys.executable, "-c", code]
    listed = subprocess.run(line, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert len(re.findall(r"missing\s+│", listed)) == 4 and "H100 hours" in listed
    assert "3,384" in listed and "unknown" in listed  # batches; tokens are not published
    assert "4 runs, 0 done, 4 to do" in listed
    assert not list(tmp_path.iterdir())


def test_an_impossible_cell_is_named_before_anything_starts() -> None:
    one = SweepConfig(name="x", blocks={"b": {"method": ["lora"], "method.rank": [8, -1]}})
    with pytest.raises(UserError, match=r"cell method=lora method.rank=-1: .*at least 1"):
        runs_of(one, [])


def test_programs_of_models_need_consent_before_anything_starts(tmp_path: Path) -> None:
    grid = GridConfig(
        scale=ScaleConfig(name="paper"), sweep=sweep("pass_at_k"), launcher="local",
        overrides=[f"paths.runs={tmp_path}"],
    )  # fmt: skip
    with pytest.raises(UserError, match="agree with execute_code=true"):
        run(grid)
    assert not list(tmp_path.iterdir())


def test_consent_leads_to_the_same_runs() -> None:
    silent, agreed = (
        runs_of(sweep("pass_at_k"), ["scale=paper", f"evals.execute_code={one}"])
        for one in ("false", "true")
    )
    assert all(cell.cfg.evals.execute_code for cell in agreed)
    assert [cell.run_id for cell in silent] == [cell.run_id for cell in agreed]


A_BRANCH_AND_ITS_TRUNK = """
name: two
blocks:
  b: {+experiment: [math_cpt], duration: [8192, 16384]}
overrides:
  - method=lora
  - trunk.tokens=16384
  - trunk.budgets=[8192]
  - data.max_documents=48
  - evals.tasks=[nll_target]
  - evals.limit=4
"""


@pytest.mark.slow
def test_a_branch_runs_after_its_trunk_and_a_second_start_runs_only_what_is_missing(
    tmp_path: Path,
) -> None:
    file = tmp_path / "conf" / "sweep" / "two.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(A_BRANCH_AND_ITS_TRUNK)

    def grid(launcher: str) -> str:
        arguments = [f"hydra.searchpath=[file://{tmp_path}/conf]", "sweep=two", "workers=2"]
        line = [sys.executable, "-m", "lvf.grid", *arguments, f"launcher={launcher}"]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "2 runs, 0 done, 2 to do" in grid("none")
    grid("local")
    of_run = {
        path.parent: json.loads(path.read_text()) for path in tmp_path.glob("runs/*/status.json")
    }
    branch, trunk = sorted(of_run, key=lambda folder: of_run[folder]["total_batches"])
    assert [of_run[run]["total_batches"] for run in (branch, trunk)] == [4, 8]
    assert of_run[trunk]["started_from"] == "fresh"
    kept = trunk / "checkpoints" / "ba0000003"  # 80 % of four batches
    assert (
        of_run[branch]["started_from"] == f"branched at batch 3 from {kept.relative_to(tmp_path)}"
    )
    durations = {
        (record["run_id"], record["axes"]["duration"])
        for record in map(json.loads, map(Path.read_text, tmp_path.glob("runs/records/*/*.json")))
        if record["axes"]["method"] == "lora"
    }
    assert durations == {(branch.name, 8192.0), (trunk.name, 16384.0)}
    shutil.rmtree(branch)
    written = {path: path.stat().st_mtime_ns for path in trunk.rglob("*") if path.is_file()}
    assert "2 runs, 1 done, 1 to do" in grid("local")
    assert branch.is_dir()
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert "2 runs, 2 done, 0 to do" in grid("none")
