"""The committed results of the embedded scale are those that the committed records give."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "results" / "embedded"


@pytest.mark.slow
def test_claims_of_the_records_are_those_of_the_results_and_of_the_readme(tmp_path: Path) -> None:
    words = [f"records={COMMITTED}/records", "paper=true", f"out={tmp_path}"]
    line = [sys.executable, "-m", "lvf.report", "claims", *words]
    subprocess.run(line, capture_output=True, text=True, check=True)
    claims = (tmp_path / "claims.md").read_text()
    assert claims == (COMMITTED / "claims.md").read_text()
    side_by_side = claims.split("## Side by side\n")[1].split("\n## ")[0].strip()
    assert side_by_side in (ROOT / "README.md").read_text()
