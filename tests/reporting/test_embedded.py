"""The committed results of the embedded scale are those that the committed records give."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "results" / "embedded"
METHODS = ("LoRA r=8", "full")
MEASURED = ("nll_target", "retention", "hellaswag", "arc_challenge", "winogrande", "nll_source")


@pytest.mark.slow
def test_claims_of_the_records_are_those_of_the_results_and_of_the_readme(tmp_path: Path) -> None:
    words = [f"records={COMMITTED}/records.tar.zst", "paper=true", f"out={tmp_path}"]
    line = [sys.executable, "-m", "lvf.report", "claims", *words]
    subprocess.run(line, capture_output=True, text=True, check=True)
    claims = (tmp_path / "claims.md").read_text()
    assert claims == (COMMITTED / "claims.md").read_text()
    side_by_side = claims.split("## Side by side\n")[1].split("\n## ")[0].splitlines()
    primary = [row for row in side_by_side if row.split(" |")[0].endswith("\\*")]
    assert len(primary) == 5
    assert "\n".join(primary) in (ROOT / "README.md").read_text()


def test_the_numbers_of_the_readme_are_means_over_the_seeds_of_the_committed_models() -> None:
    told = (ROOT / "README.md").read_text().split("## Two commands")[0]
    models = pd.read_csv(COMMITTED / "models.csv")
    base = models[models.method == "base"].set_index(["domain", "regime"])
    last = models[(models.regime == "ift") & (models.duration == 8)]
    means = last.groupby(["domain", "label"])[["target", "retention"]].mean()
    shown = [base.loc[("math", "ift")]]
    shown += [means.loc[key] for key in ((d, m) for d in ("math", "code") for m in METHODS)]
    for one in shown:
        for score in (one.target, one.retention):
            assert f"{score:.3f}".removeprefix("0") in told


def test_the_models_of_the_real_model_are_those_of_its_committed_records(tmp_path: Path) -> None:
    folder = ROOT / "results" / "small"
    words = [f"records={folder}/records.tar.zst", f"out={tmp_path}"]
    line = [sys.executable, "-m", "lvf.report", *words]
    subprocess.run(line, capture_output=True, text=True, check=True)
    made, committed = (pd.read_csv(one / "models.csv") for one in (tmp_path, folder))
    paths = [column for column in made if column.endswith("_path")]  # as the folder was called
    pd.testing.assert_frame_equal(made.drop(columns=paths), committed.drop(columns=paths))
    page = (folder / "README.md").read_text()
    chosen = made[made.is_chosen & (made.method != "base")]
    assert len(chosen) == 6
    for row in chosen.to_dict("records"):
        cells = [f"{row[key]:.3f} ({row[f'{key}_delta']:+.3f}" for key in MEASURED]
        method = "full" if row["method"] == "full" else "LoRA"
        (line,) = re.findall(rf"^\| {method}[^|]*\|[^|]*\| {row['seed']:.0f} \|.*$", page, re.M)
        assert all(cell.replace("-", "−") in line for cell in cells)
    seed_0 = made[made.nll_validation.notna() & (made.seed == 0)]
    assert len(seed_0) == 9
    assert all(f"{loss:.4f}" in page for loss in seed_0.nll_validation)


def test_what_lies_beyond_the_paper_is_what_its_committed_records_give(tmp_path: Path) -> None:
    folder = ROOT / "results" / "beyond"
    words = [f"records={folder}/records.tar.zst", f"out={tmp_path}"]
    line = [sys.executable, "-m", "lvf.report", *words]
    subprocess.run(line, capture_output=True, text=True, check=True)
    assert (tmp_path / "claims.md").read_text() == (folder / "claims.md").read_text()
    page = (folder / "README.md").read_text()
    for name, measures in (("sequences", ("first_after", "second")), ("altered", ("target",))):
        made, committed = (pd.read_csv(one / f"{name}.csv") for one in (tmp_path, folder))
        pd.testing.assert_frame_equal(made, committed)
        for measure in (*measures, "retention"):
            for row in made.to_dict("records"):
                texts = [f"{row[key]:.3f}".removeprefix("0") for key in (measure, f"{measure}_se")]
                assert f"| {' ± '.join(texts)} |" in page
