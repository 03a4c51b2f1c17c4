"""`python -m lvf.reporting.figures`: execute every notebook, which draw and save every figure."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from lvf.config.compose import exit_on_user_error, to_schema, with_home
from lvf.config.kinds import LocalPath
from lvf.config.schema import CONF_DIR
from lvf.errors import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from tqdm import tqdm

CELL_SECONDS = 600
SAVED_ONLY = "%matplotlib inline\n%config InlineBackend.figure_formats = set()"
"""Figures are saved by their cells; nobody sees them a second time below these."""


@dataclass(kw_only=True)
class FiguresConfig:
    """What to draw from, and where the figures go."""

    records: LocalPath = "results/embedded/records.tar.zst"
    out: LocalPath = "runs/figures"
    notebooks: LocalPath = "notebooks"


ConfigStore.instance().store(name="figures_schema", node=FiguresConfig)


def figures(cfg: FiguresConfig) -> None:
    """Execute the notebooks, in as many kernels as there are cores; they are not written back.

    Raises:
        UserError: there are no notebooks, or a cell of one fails.
    """
    import nbformat
    from tqdm import tqdm

    paths = sorted(Path(cfg.notebooks).glob("*.ipynb"))
    if not paths:
        raise UserError(f"notebooks={cfg.notebooks} has no *.ipynb files; run from the repository")
    os.environ["LVF_RECORDS"] = str(Path(cfg.records).resolve())
    os.environ["LVF_FIGURES"] = str(Path(cfg.out).resolve())
    books = {path: nbformat.read(path, as_version=4) for path in paths}
    batches: list[list[Path]] = [[] for _ in range(min(os.cpu_count() or 1, len(paths)))]
    for path in sorted(paths, key=lambda path: -len(books[path].cells)):
        min(batches, key=lambda batch: sum(len(books[one].cells) for one in batch)).append(path)
    cells = sum(len(book.cells) for book in books.values())
    with tqdm(total=cells, unit="cell") as bar, ThreadPoolExecutor(len(batches)) as pool:
        for done in [pool.submit(_execute, batch, books, bar) for batch in batches]:
            done.result()
    print(f"figures of {len(paths)} notebooks in {cfg.out}")


def _execute(paths: list[Path], books: dict[Path, NotebookNode], bar: tqdm) -> None:
    """Execute notebooks one after the other in one kernel, which imports and reads once."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbformat.v4 import new_code_cell, new_notebook

    cells = [(path, index, cell) for path in paths for index, cell in enumerate(books[path].cells)]
    whole = new_notebook(cells=[new_code_cell(SAVED_ONLY), *(cell for *_, cell in cells)])
    resources = {"metadata": {"path": str(paths[0].parent)}}
    client = NotebookClient(whole, timeout=CELL_SECONDS, resources=resources)
    with client.setup_kernel():
        client.execute_cell(whole.cells[0], 0)
        for place, (path, index, cell) in enumerate(cells, start=1):
            try:
                client.execute_cell(cell, place)
            except CellExecutionError as error:
                raise UserError(f"{path}, cell {index}: {error}") from error
            bar.update()


@hydra.main(config_path=str(CONF_DIR), config_name="figures", version_base="1.3")
def _main(composed: DictConfig) -> None:
    with exit_on_user_error():
        figures(to_schema(composed, FiguresConfig))


def main() -> None:
    """Run the command line."""
    sys.argv[1:] = [with_home(word) for word in sys.argv[1:]]
    _main()


if __name__ == "__main__":
    main()
