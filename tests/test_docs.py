"""README and docs/ say what there is: their commands, settings and links."""

import re
import shlex
from itertools import product
from pathlib import Path

import pytest

from lvf.config.compose import compose
from lvf.planning.settings_page import page

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_A_RUN = re.compile(r"lvf\.(train|prepare|evaluate|bench|analyze)$")


def commands() -> list[list[str]]:
    """Words after the module's name, of every command of a run in the pages' blocks."""
    found = []
    for path in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                at = [place for place, word in enumerate(words) if OF_A_RUN.search(word)]
                if at and not any("=BASE" in word for word in words):
                    found.append(words[at[0] + 1 :])
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_a_run_in_the_pages_composes(words: list[str]) -> None:
    multirun = "-m" in words
    settings = [word for word in words if word != "-m"]
    axes = [
        [f"{key}={value}" for value in (values.split(",") if multirun else [values])]
        for key, _, values in (word.partition("=") for word in settings)
    ]
    assert all(compose(*choice) for choice in product(*axes))


def test_the_page_of_settings_is_up_to_date() -> None:
    written = (ROOT / "docs" / "settings.md").read_text()
    assert page() == written, "python -m lvf.planning settings > docs/settings.md"


def test_every_link_in_the_pages_leads_to_a_file() -> None:
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
            assert target.startswith("http") or (path.parent / target).exists(), (path, target)


def test_every_target_of_make_in_the_pages_exists() -> None:
    known = (ROOT / "Makefile").read_text()
    for path in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", path.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", known, re.MULTILINE), (path, target)


def test_the_readme_can_be_read_in_a_few_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
