"""The notebooks, executed as `make figures` does."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from lvf.config.schema import CONF_DIR
from lvf.errors import UserError
from lvf.reporting.figures.__main__ import FiguresConfig, figures
from lvf.reporting.figures.catalogue import CATALOGUE

NOTEBOOKS = CONF_DIR.parent / "notebooks"
RECORDS = CONF_DIR.parent / "results" / "embedded" / "records.tar.zst"


def test_notebooks_are_stored_without_outputs() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None, path.name


def test_every_figure_of_the_catalogue_stands_in_its_notebook() -> None:
    for name, entry in CATALOGUE.items():
        text = (NOTEBOOKS / f"{entry.notebook}.ipynb").read_text()
        assert f'draw(\\"{name}\\", data)' in text


@pytest.mark.slow
def test_notebooks_draw_and_save_their_figures(tmp_path: Path) -> None:
    """One notebook through a real kernel; the others differ in the names of their figures."""
    chosen = tmp_path / "notebooks"
    chosen.mkdir()
    (chosen / "tulu.ipynb").write_text((NOTEBOOKS / "tulu.ipynb").read_text())
    out = tmp_path / "figures"
    figures(FiguresConfig(records=str(RECORDS), out=str(out), notebooks=str(chosen)))
    assert sorted(path.name for path in out.iterdir()) == [
        f"figS{number}-paper.{kind}" for number in (4, 5, 6) for kind in ("pdf", "png")
    ]
    assert (chosen / "tulu.ipynb").read_text() == (NOTEBOOKS / "tulu.ipynb").read_text()


def test_a_broken_notebook_fails_and_is_named(tmp_path: Path) -> None:
    cells = [new_code_cell("1 + 1"), new_code_cell("no_such_name")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "broken.ipynb")
    with pytest.raises(UserError, match=r"broken\.ipynb, cell 1.*(?s:.)*no_such_name"):
        figures(FiguresConfig(notebooks=str(tmp_path), out=str(tmp_path)))


def test_a_folder_without_notebooks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no"):
        figures(FiguresConfig(notebooks=str(tmp_path)))
