"""The command says what it made and what to do next."""

import re
from pathlib import Path

import pytest

from lvf.compose import compose
from lvf.prepare import run

from .conftest import MakeRun


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
    assert re.search(r"cut +\d+ examples lose \d+ tokens", report)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["math_ift", "code_ift", "math_cpt", "code_cpt"])
def test_every_embedded_experiment_prepares_without_loss(tmp_path: Path, name: str) -> None:
    from lvf.data.shards import prepare

    cfg = compose(f"+experiment={name}", f"paths.shards={tmp_path}")
    stats = prepare(cfg).stats
    assert stats["truncated_examples"] == stats["dropped_examples"] == 0
    assert stats["padding_share"] < 0.2
