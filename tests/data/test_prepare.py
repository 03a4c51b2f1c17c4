"""The command says what it made and what to do next."""

import re
from pathlib import Path

import pytest

from lvf.config.compose import compose
from lvf.data.corpus_stats import OVERLAP
from lvf.data.report import left_out
from lvf.data.shards import prepare
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

    cfg = compose(f"+experiment={name}", f"paths.shards={tmp_path}")
    stats = prepare(cfg).stats
    assert set(stats["found"]) <= {OVERLAP}  # nothing cut, nothing left out
    assert stats["padding_share"] < 0.2


def test_the_report_counts_documents_that_begin_with_bos(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [one | {"query": f"<s>{one['query']}"} for one in map(pair, range(5))]
    cfg = make_run([*rows, *map(pair, range(5, 50))])
    cfg.data.template = "plain"
    run(cfg)
    assert "5 documents begin with BOS already" in capsys.readouterr().out


def test_the_report_names_files_of_a_folder_that_are_not_read(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = make_run()
    folder = tmp_path / "corpus"
    folder.mkdir()
    Path(cfg.data.train.path).rename(folder / "a.jsonl")
    (folder / "LICENSE.txt").write_text("All of this may be copied.")
    cfg.data.train.path = str(folder)
    run(cfg)
    report = capsys.readouterr().out
    assert "200 to train on" in report and "not read   1 files of the folder: LICENSE.txt" in report


def test_lines_for_the_training_say_what_was_left_out(make_run: MakeRun) -> None:
    clean = prepare(make_run())
    assert left_out(clean) == []
    rows = [pair(n) | ({"response": n} if n % 2 else {}) for n in range(300)]
    (line,) = left_out(prepare(make_run(rows)))
    assert line.startswith("left out   150 rows, not text:\n") and "train.jsonl:2: column" in line
