"""Means of the measures of weight changes, for the terminal."""

from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from lvf.analysis.table import MEASURES, matrices
from lvf.reporting.tables.results import console


def print_weights(records: Iterable[Path]) -> None:
    """Print each model's means by module type."""
    for path in records:
        table = matrices(path)
        screen = Table(title=f"{path.parent.name} {path.name.split('--')[0]}", title_justify="left")
        screen.add_column("mean over layers")
        for name in MEASURES:
            screen.add_column(name.replace("_", " "), justify="right")
        for module, rows in table.groupby("module", sort=False):
            screen.add_row(str(module), *(f"{rows[name].mean():.4g}" for name in MEASURES))
        console().print(screen)
