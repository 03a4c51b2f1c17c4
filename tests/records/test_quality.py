"""Data of bad quality is kept apart from results."""

import json
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from lvf.records.quality import data_quality, quality_notes, without_diverged
from lvf.records.store import export, load

from .conftest import Write, axes


@pytest.fixture
def records(write: Write, tmp_path: Path) -> Path:
    """A good run, a copied and a contradicted record, and runs that failed and diverged."""
    write(axes(), run_id="good", gsm8k=0.4)
    write(axes(seed=1), run_id="copied", gsm8k=0.5)
    write(axes(seed=2), run_id="torn", gsm8k=0.6)
    folder = write(axes(seed=3), run_id="spiked", gsm8k=0.1)
    for name, value in (("copied", "0.5"), ("torn", "0.7")):
        original = next((folder / name).rglob("*.json"))
        old = {"copied": "0.5", "torn": "0.6"}[name]
        text = original.read_text().replace(f'"value": {old}', f'"value": {value}')
        (folder / f"{name}-again.json").write_text(text)
    for name, state in (("spiked", "diverged"), ("late", "failed"), ("good", "trained")):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        status = {"state": state, "error": None if state == "trained" else f"because {name}"}
        (run / "status.json").write_text(json.dumps(status))
    return folder


def test_duplicates_conflicts_failures_and_divergence_are_told_apart(records: Path) -> None:
    found = data_quality(load(records), records / "runs")
    kinds = {(one.kind, one.run_id) for one in found.itertuples()}
    assert kinds == {("duplicate", "copied"), ("conflicting", "torn"), ("failed", "late"),
                     ("diverged", "spiked")}  # fmt: skip
    lines = "\n".join(quality_notes(found))
    assert "1 conflicting: torn gsm8k" in lines and "(0.6)" in lines and "(0.7)" in lines
    assert "1 diverged: spiked because spiked" in lines and "copied-again.json" in lines


def test_scores_of_a_diverged_run_are_no_results(records: Path) -> None:
    scores = load(records)
    kept = without_diverged(scores, data_quality(scores, records / "runs"))
    assert set(scores.run_id) - set(kept.run_id) == {"spiked"}


def test_without_runs_nothing_is_found(write: Write, tmp_path: Path) -> None:
    assert data_quality(load(write(axes(), gsm8k=0.4)), tmp_path / "none").empty


def test_exports_hold_the_same_typed_table(records: Path, tmp_path: Path) -> None:
    scores = load(records)
    csv, parquet = export(scores, tmp_path / "scores")
    again = pd.read_parquet(parquet)
    assert list(again.columns) == list(scores.columns) and len(again) == len(scores)
    assert again.value.dtype == "float64" and list(again.value) == list(scores.value)
    types = duckdb.sql(f"select distinct typeof(rank), typeof(seed) from '{parquet}'").fetchall()
    assert types == [("BIGINT", "BIGINT")]
    assert list(pd.read_csv(csv).run_id) == list(scores.run_id)
