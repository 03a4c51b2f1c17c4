"""The command says what it made and what to do next."""

import re
from pathlib import Path

import pytest

from lvf.config.compose import compose
from lvf.data.tally import OVERLAP
from lvf.prepare import run

from .conftest import MakeRun, pair


def test_the_report_states_the_counts_and_the_place(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = make_run()
    run(cfg)
    report = capsys.readouterr().out
    assert "200 to train on, 10 for validation, 10 held out" in report
    (folder,) = Path(cfg.paths.shards).glob("[!.]*")
    assert f"shards     {folder}" in report and "python -m lvf.train" in report


def test_the_report_does_not_hide_what_was_cut(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run(make_run(seq_len=24))
    report = capsys.readouterr().out
    assert re.search(r"cut +\d+ examples lose \d+ tokens, [\d.]+% of all:\n +\S+:\d+: ", report)


def test_the_report_names_bad_rows_and_the_percentiles_of_the_lengths(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = make_run([*map(pair, range(50)), {"query": "x"}, {"query": "", "response": "y"}])
    run(cfg)
    report = capsys.readouterr().out
    assert "left out   1 rows, missing column:\n" in report
    assert "train.jsonl:51: no column response; there are query" in report
    assert "train.jsonl:52: column query is empty" in report
    assert re.search(r"percentile 0: \d+, 5: .* 100: \d+", report)


def test_the_report_of_one_machine_of_several_says_what_is_still_to_come(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = make_run()
    cfg.runtime.prepare_part = "1/2"  # all rows are in part 0
    run(cfg)
    assert "part 1/2 is ready; the machine that finishes last" in capsys.readouterr().out
    cfg.runtime.prepare_part = "0/2"
    run(cfg)
    assert "200 to train on" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["math_ift", "code_ift", "math_cpt", "code_cpt"])
def test_every_embedded_experiment_prepares_without_loss(tmp_path: Path, name: str) -> None:
    from lvf.data.shards import prepare

    cfg = compose(f"+experiment={name}", f"paths.shards={tmp_path}")
    stats = prepare(cfg).stats
    assert set(stats["found"]) <= {OVERLAP}  # nothing cut, nothing left out
    assert stats["padding_share"] < 0.2
