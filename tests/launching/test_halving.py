"""Of runs that differ in their learning rate alone, the worse half ends early."""

import json
from pathlib import Path

import pytest

from benchmarks.kill_storm import same_weights
from lvf.config.compose import compose
from lvf.config.grid_schema import SweepConfig
from lvf.errors import UserError
from lvf.evals.subjects import run_axes
from lvf.launching.halving import better_half, check_rates_only, groups_of, run_halving
from lvf.records.schema import Metric, Record, read_record, write_record
from lvf.runs.run_folder import DIVERGED, STOPPED, TRAINED, RunFolder, open_run_folder, run_folder
from lvf.runs.sweep import SweepRun, runs_of
from tests.training.conftest import trained

RATES = [0.25, 0.5, 1, 2, 4]


def cells(folder: Path, *more: str, rates: list[float] = RATES, **axes: list) -> list[SweepRun]:
    block = {"+experiment": ["math_ift"], "training.lr_multiplier": rates, **axes}
    places = [f"paths.{name}={folder}/{name}" for name in ("runs", "shards", "records")]
    words = ["evals.tasks=[nll_validation]", "duration=2", *places]
    return runs_of(SweepConfig(name="x", blocks={"b": block}, overrides=words), list(more))


def put_loss(cell: SweepRun, loss: float, moment: float = 0.5) -> None:
    """An export of a moment, and the record of its validation loss, as a run leaves them."""
    folder = open_run_folder(cell.cfg)
    folder.export(9).mkdir(parents=True)
    (folder.export(9) / "export.json").write_text(json.dumps({"duration": moment}))
    folder.write_status(STOPPED)
    record = Record(
        source="lvf",
        run_id=cell.run_id,
        checkpoint="ba000009",
        task="nll_validation",
        axes=run_axes(cell.cfg),
        metrics={"nll_per_token": Metric(value=loss)},
    )
    name = f"{cell.run_id}/ba000009--nll_validation--0.json"
    write_record(Path(cell.cfg.paths.records) / name, record)


def test_runs_that_differ_in_more_than_the_rate_are_not_compared(tmp_path: Path) -> None:
    found = groups_of(cells(tmp_path, method=["full", "lora"], seed=[0, 1]))
    assert sorted(map(len, found)) == [5] * 4
    for group in found:
        assert len({(one.cfg.method.name, one.cfg.seed) for one in group}) == 1
        assert len({one.cfg.training.lr_peak for one in group}) == 5


def test_the_half_with_the_lowest_losses_goes_on_rounded_up(tmp_path: Path) -> None:
    group = cells(tmp_path)
    for cell, loss in zip(group, (0.9, 0.3, 0.2, 0.5, 0.8), strict=True):
        put_loss(cell, loss)
    assert better_half(group, 0.25) == [group[2], group[1], group[3]]
    assert better_half(group[:2], 0.25) == [group[1]]
    assert better_half(group, 0.5) == []  # nothing is known of that rung


def test_a_diverged_run_is_the_worst_and_a_failed_one_goes_no_further(tmp_path: Path) -> None:
    group = cells(tmp_path)
    for cell, loss in zip(group[:3], (0.3, 0.9, 0.2), strict=True):
        put_loss(cell, loss)
    open_run_folder(group[3].cfg).write_status(DIVERGED)
    open_run_folder(group[4].cfg).write_status("failed")
    assert better_half(group, 0.25) == [group[2], group[0]]  # of four with a loss
    open_run_folder(group[4].cfg).write_status(TRAINED)  # before, without a stop at the rung
    assert better_half(group, 0.25) == [group[2], group[0], group[4]]


def test_sweeps_whose_runs_a_table_reports_are_refused(tmp_path: Path) -> None:
    reported = cells(tmp_path, "evals.tasks=[gsm8k,nll_validation]")
    with pytest.raises(UserError, match="measured on gsm8k, nll_validation, which tables report"):
        check_rates_only(reported)
    with pytest.raises(UserError, match="differ in their learning rate alone"):
        check_rates_only(cells(tmp_path, rates=[1], seed=[0, 1]))
    check_rates_only(cells(tmp_path))


def test_a_stop_that_is_no_stop_is_refused() -> None:
    with pytest.raises(UserError, match="runtime.stop_at=2 must be below duration=2"):
        compose("duration=2", "runtime.stop_at=2")


@pytest.mark.slow
def test_the_best_rate_is_trained_to_its_end_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    few = ("data.max_documents=96", "evals.limit=16", "method=full")
    group = cells(tmp_path, *few, rates=[0.01, 0.5, 1])
    assert run_halving(group, workers=1) == []
    moments = [sorted(RunFolder(cell.folder).exported_moments()) for cell in group]
    assert sorted(moments) == [[0.5], [0.5, 1.0], [0.5, 1.0, 2.0]]
    (best,) = (cell for cell in group if cell.state() == "done")
    losses = {}
    for path in (tmp_path / "records").glob("*-full-*/*.json"):
        record = read_record(path)
        losses[record.run_id, record.axes.duration] = record.metrics["nll_per_token"].value
    by_rung = {
        rung: {loss: run for (run, duration), loss in losses.items() if duration == rung}
        for rung in (0.5, 1.0)
    }
    assert len(by_rung[0.5]) == 3
    worst = by_rung[0.5][max(by_rung[0.5])]
    assert set(by_rung[1.0].values()) == {cell.run_id for cell in group} - {worst}
    assert by_rung[1.0][min(by_rung[1.0])] == best.run_id
    alone = compose(*best.overrides, f"paths.runs={tmp_path}/alone")
    assert same_weights(trained(alone), run_folder(best.cfg))
