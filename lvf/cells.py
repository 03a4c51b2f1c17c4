"""The cells of a sweep: products of overrides, each composed into the run that it stands for."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import MISSING

from lvf.compose import compose
from lvf.config import RunConfig, run_id
from lvf.errors import UserError


@dataclass(kw_only=True)
class SweepConfig:
    """Cells as products of overrides of `python -m lvf.train`."""

    name: str = MISSING
    blocks: dict[str, dict[str, list[Any]]] = MISSING
    """Each block is a product: override key (such as `+experiment` or `duration`) to its values."""
    overrides: list[str] = field(default_factory=list)
    """Settings of every cell."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    overrides: tuple[str, ...]
    cfg: RunConfig

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.cfg.paths.runs) / run_id(self.cfg)

    @property
    def log(self) -> Path:
        """Everything the run's process prints."""
        return Path(self.cfg.paths.runs) / "logs" / f"{run_id(self.cfg)}.log"

    def state(self) -> str:
        """State of the run on disk, as `RunFolder.state` tells them apart."""
        from lvf.training.run_folder import RunFolder

        return RunFolder(self.folder).state(self.cfg)


def cells_of(sweep: SweepConfig, extra: list[str]) -> list[Cell]:
    """Every distinct run of a sweep, composed and checked before anything starts.

    Raises:
        UserError: a cell is impossible; names it.
    """
    cells: dict[str, Cell] = {}
    for block in sweep.blocks.values():
        for values in product(*block.values()):
            axes = [f"{key}={value}" for key, value in zip(block, values, strict=True)]
            overrides = (*axes, *sweep.overrides, *extra)
            try:
                cfg = compose(*overrides)
            except (UserError, HydraException) as error:
                raise UserError(f"cell {' '.join(overrides)}: {error}") from error
            cells[run_id(cfg)] = Cell(overrides, cfg)
    return list(cells.values())
