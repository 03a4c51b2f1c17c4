"""docs/grid.md is what conf/ says, and its switches exist."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from lvf.config.compose import compose
from lvf.config.schema import CONF_DIR
from lvf.runs.run_id import run_id

SWITCHES = [
    one.switch for one in OmegaConf.load(CONF_DIR / "departures.yaml") if one.switch is not None
]


@pytest.mark.slow
def test_the_page_of_the_grid_is_up_to_date() -> None:
    written = (CONF_DIR.parent / "docs" / "grid.md").read_text()
    command = [sys.executable, "-m", "lvf.planning", "docs"]  # four times as fast as among torch
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert page == written, "python -m lvf.planning docs > docs/grid.md"


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_of_a_departure_changes_the_run(switch: str) -> None:
    experiment = "tulu" if "mmlu" in switch else "math_ift"
    if switch.startswith(("trunk", "schedule")):
        experiment = "math_cpt"
    words = (f"+experiment={experiment}", "scale=paper")
    before, after = compose(*words), compose(*words, switch)
    assert after != before
    assert (run_id(after) == run_id(before)) == switch.startswith("evals.")
