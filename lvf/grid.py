"""`python -m lvf.grid`: list a sweep's cells, start what is missing, tell how it went, analyse."""

from __future__ import annotations

import json
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lvf.config.compose import exit_on_user_error, to_schema, with_home
from lvf.config.grid_schema import GridConfig
from lvf.config.schema import CONF_DIR
from lvf.config.validate import require_consent
from lvf.errors import UserError
from lvf.launching.halving import check_rates_only, run_halving
from lvf.launching.local import default_workers, run_local
from lvf.launching.slurm import submit
from lvf.launching.status import QUEUED, CellStatus, statuses
from lvf.log import keep_from_terminal
from lvf.planning.listing import show
from lvf.runs.run_folder import DIVERGED, DONE, RUNNING, TRAINED, UNREADABLE
from lvf.runs.sweep import SweepRun, runs_of

LAUNCHERS = ("none", "local", "slurm")
FINISHED = (DONE, DIVERGED)
WORDS = {"status": "launcher=none", "analyze": "analyze=true"}


def explain(cells: list[SweepRun], found: list[CellStatus]) -> None:
    """Print why cells wait or have ended before their time, and how many are in each state."""
    for cell, status in zip(cells, found, strict=True):
        if status.why:
            print(f"{status.state}: {cell.folder.name}: {status.why}")
    states = [status.state for status in found]
    to_do = [state for state in states if state not in FINISHED]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted({*states} - {DONE}))
    print(f"{len(cells)} runs, {states.count(DONE)} done, {len(to_do)} to do")
    if counts:
        print(f"not done: {counts}")


def analyse(cells: list[SweepRun], found: list[CellStatus]) -> None:
    """`lvf.analyze` of every trained cell, one after the other in this process."""
    from lvf.analyze import run as analyse_run

    trained = [
        cell for cell, status in zip(cells, found, strict=True) if status.state in (DONE, TRAINED)
    ]
    for number, cell in enumerate(trained, start=1):
        print(f"{number} of {len(trained)}: {cell.run_id}", flush=True)
        analyse_run(cell.cfg)
    print(f"{len(trained)} of {len(cells)} runs are trained and analysed")


def run(grid: GridConfig) -> None:
    """List a sweep with what became of its cells; with a launcher, start what is missing.

    Raises:
        UserError: an unknown launcher, an impossible cell, a cell that needs the user's consent,
            or cells that failed.
        SystemExit: a signal stopped the runs (status `TRY_AGAIN`).
    """
    if grid.launcher not in LAUNCHERS:
        raise UserError(f"launcher={grid.launcher!r} is not one of {', '.join(LAUNCHERS)}")
    agreed = ["evals.execute_code=true"] if grid.execute_code else []
    cells = runs_of(grid.sweep, [f"scale={grid.scale.name}", *agreed, *grid.overrides])
    if grid.stop_early:
        if grid.launcher == "slurm":
            raise UserError("stop_early=true goes with launcher=local: leave it out on Slurm")
        check_rates_only(cells)
    if grid.launcher != "none":
        for cell in cells:
            require_consent(cell.cfg, "execute_code=true")
    found = statuses(cells)
    if grid.analyze:
        analyse(cells, found)
        return
    show(cells, [status.state for status in found])
    explain(cells, found)
    if grid.launcher == "none":
        print("start what is missing with launcher=local or launcher=slurm")
    elif grid.launcher == "slurm":
        print(
            f"{submit(cells, grid.slurm)} jobs queued; python -m lvf.grid status tells how it goes"
        )
    else:
        busy = (*FINISHED, RUNNING, QUEUED, UNREADABLE)
        pairs = zip(cells, found, strict=True)
        missing = [cell for cell, status in pairs if status.state not in busy]
        workers = grid.workers or default_workers()
        if grid.stop_early:
            missing = [cell for cell in cells if cell.state() not in (RUNNING, UNREADABLE)]
            failed = run_halving(missing, workers)
        else:
            failed = run_local(missing, workers)
        if failed:
            logs = "\n".join(f"  {cell.log}" for cell in failed)
            count = f"{len(failed)} of {len(missing)} runs"
            raise UserError(f"{count} failed or were stopped; their logs:\n{logs}")


@hydra.main(config_path=str(CONF_DIR), config_name="grid", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Command line of the planner."""
    keep_from_terminal()
    with exit_on_user_error():
        grid = to_schema(composed, GridConfig)
        if folders := list(HydraConfig.get().searchpath):
            grid.overrides.append(f"hydra.searchpath={json.dumps(folders)}")  # of each run, too
        run(grid)


if __name__ == "__main__":
    sys.argv[1:] = [with_home(WORDS.get(word, word)) for word in sys.argv[1:]]
    main()
