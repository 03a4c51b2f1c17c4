"""Trunks before branches, first runs before second; what became of a cell, by its own files."""

import json
from pathlib import Path

import pytest

from lvf.config.grid_schema import SlurmConfig, SweepConfig
from lvf.errors import UserError
from lvf.launching.order import all_after, in_order
from lvf.launching.slurm import submit
from lvf.launching.slurm_queue import Task
from lvf.launching.status import ENDED_WITH, statuses
from lvf.runs.checkpoints import commit
from lvf.runs.run_folder import open_run_folder
from lvf.runs.run_id import run_id
from lvf.runs.sweep import SweepRun, runs_of

BATCH_TOKENS = 8 * 256


@pytest.fixture
def cells(tmp_path: Path) -> list[SweepRun]:
    """Branches of two trunks (two methods), each before its trunk."""
    block = {
        "+experiment": ["math_cpt"],
        "method": ["full", "lora"],
        "duration": [6 * BATCH_TOKENS, 12 * BATCH_TOKENS, 24 * BATCH_TOKENS],
        "trunk.tokens": [24 * BATCH_TOKENS],
        "trunk.budgets": [[6 * BATCH_TOKENS, 12 * BATCH_TOKENS]],
    }
    return runs_of(SweepConfig(name="x", blocks={"b": block}), [f"paths.runs={tmp_path}/runs"])


def test_branches_wait_for_their_own_trunk_and_nothing_waits_for_a_trunk_that_is_done(
    cells: list[SweepRun],
) -> None:
    first, second, trunk, *others = cells
    ready, waiting = in_order(cells, set())
    assert ready == [trunk, others[2]]
    assert waiting == {
        run_id(trunk.cfg): [first, second],
        run_id(others[2].cfg): others[:2],
    }
    partial = trunk.folder / "checkpoints" / ".ba0000005"  # 80 % of six batches
    partial.mkdir(parents=True)
    (partial / "rank0.pt").write_bytes(b"state")
    commit(partial, partial.with_name("ba0000005"))
    ready, waiting = in_order(cells, set())
    assert first in ready and waiting[run_id(trunk.cfg)] == [second]


def test_a_branch_whose_trunk_nobody_makes_is_refused_with_the_setting_that_makes_it(
    cells: list[SweepRun],
) -> None:
    branch, trunk = cells[0], cells[2]
    with pytest.raises(UserError, match=r"add duration=49152 to it, or set trunk.branch=false"):
        in_order([branch], set())
    assert in_order([branch], {run_id(trunk.cfg)}) == ([], {run_id(trunk.cfg): [branch]})


def sequences(folder: Path, second: dict[str, list], first: dict[str, list]) -> list[SweepRun]:
    """Second runs before the first runs that they start from."""
    blocks = {"second": {"+experiment": ["sequence"], "method": ["lora"], **second},
              "first": {"+experiment": ["math_ift"], "method": ["lora"], **first}}  # fmt: skip
    return runs_of(SweepConfig(name="x", blocks=blocks), [f"paths.runs={folder}/runs"])


def test_second_runs_wait_for_their_own_first_run_until_it_is_trained(tmp_path: Path) -> None:
    ranks = {"method.rank": [2, 8]}
    cells = sequences(
        tmp_path, {**ranks, "sequence.keep_adapter": [False, True]}, {**ranks, "duration": [2]}
    )
    *seconds, first, other = cells
    ready, waiting = in_order(cells, set())
    assert ready == [first, other]
    assert waiting == {first.run_id: seconds[:2], other.run_id: seconds[2:]}
    folder = open_run_folder(first.cfg)
    folder.export(9).mkdir(parents=True)
    folder.write_status("trained")
    ready, waiting = in_order(seconds, {other.run_id})
    assert ready == seconds[:2] and waiting == {other.run_id: seconds[2:]}


def test_a_second_run_whose_first_nobody_trains_is_refused(tmp_path: Path) -> None:
    second, first = sequences(tmp_path, {}, {"duration": [2]})
    with pytest.raises(UserError, match=f"starts from the last export of {first.run_id}, which is"):
        in_order([second], set())


def test_a_branch_of_a_second_run_comes_after_its_trunk_and_that_after_the_first_run(
    tmp_path: Path,
) -> None:
    budgets = [6 * BATCH_TOKENS, 24 * BATCH_TOKENS]
    second = {"regime": ["cpt"], "duration": budgets, "trunk.tokens": budgets[1:],
              "trunk.budgets": [budgets[:1]]}  # fmt: skip
    cells = sequences(tmp_path, second, {"duration": [2]})
    branch, trunk, first = cells
    ready, waiting = in_order(cells, set())
    assert ready == [first]
    assert list(waiting.items()) == [(first.run_id, [trunk]), (trunk.run_id, [branch])]
    assert all_after(first.run_id, waiting) == [trunk, branch] and not waiting


def test_each_cell_says_what_became_of_it_and_why(cells: list[SweepRun]) -> None:
    failed, diverged, stopped, trained, unmeasured, missing = cells
    failed.log.parent.mkdir(parents=True)
    failed.log.write_text(f"  0%|  | 0/9\r 50%|#  | 4/9\nRuntimeError: boom\n{ENDED_WITH} 1\n")
    open_run_folder(diverged.cfg).write_status("diverged", error="training loss is nan at batch 3")
    open_run_folder(stopped.cfg).write_status("running", batch=7)  # and nobody holds its lock
    for cell, measured in ((trained, True), (unmeasured, False)):
        folder = open_run_folder(cell.cfg)
        folder.export(9).mkdir(parents=True)
        facts = {"duration": cell.cfg.duration}
        (folder.export(9) / "export.json").write_text(json.dumps(facts))
        folder.write_status("trained")
        if measured:
            folder.mark_measured(cell.cfg)
    found = statuses(cells)
    assert [one.state for one in found] == [
        "failed", "diverged", "stopped", "done", "trained", "missing",
    ]  # fmt: skip
    assert found[0].why == f"50%|#  | 4/9 | RuntimeError: boom | {ENDED_WITH} 1"
    assert found[1].why == "training loss is nan at batch 3"


def test_a_refused_start_is_shown_until_one_goes_well_and_leaves_the_state_before(
    cells: list[SweepRun],
) -> None:
    branch = cells[0]
    folder = open_run_folder(branch.cfg)
    folder.write_status("stopped", batch=7, started_from="fresh")
    before = folder.status()
    with pytest.raises(UserError, match="refused: the trunk"), folder.recording_refusal():
        raise UserError("the trunk\n is gone")
    assert folder.status() == before and branch.state() == "stopped"
    (shown, *_) = statuses(cells)
    assert shown.state == "refused"
    assert shown.why.startswith("the trunk is gone (stopped before; refused 20")
    with folder.recording_refusal():
        pass
    assert statuses(cells)[0].state == "stopped"


def test_sweeps_that_measure_the_same_run_do_not_undo_each_other(tmp_path: Path) -> None:
    grid, curve = (
        runs_of(SweepConfig(name="x", blocks={"b": {"+experiment": [experiment]}}),
                 ["duration=4", f"paths.runs={tmp_path}/runs"])
        for experiment in ("code_ift", "pass_at_k")
    )  # fmt: skip
    assert grid[0].run_id == curve[0].run_id
    folder = open_run_folder(grid[0].cfg)
    folder.export(9).mkdir(parents=True)
    (folder.export(9) / "export.json").write_text(json.dumps({"duration": 4}))
    folder.write_status("trained")
    for cells, states in ((grid, ["done", "trained"]), (curve, ["done", "done"])):
        folder.mark_measured(cells[0].cfg)
        assert [one.state for one in statuses([*grid, *curve])] == states


@pytest.mark.parametrize("key", ["timeout_min", "evaluation_timeout_min"])
def test_jobs_that_would_be_asked_to_stop_at_once_are_refused(
    cells: list[SweepRun], key: str
) -> None:
    slurm = SlurmConfig(signal_delay_s=300)
    setattr(slurm, key, 5)
    with pytest.raises(UserError, match=rf"slurm\.{key}=5 is no longer .* slurm\.{key}=35"):
        submit(cells, slurm)


def test_a_task_is_read_as_it_was_written() -> None:
    for task in (Task("train", "run-1"), Task("evaluate", "run-1", 0.25)):
        assert Task.of(str(task)) == task
