"""The cells of a sweep: products of overrides, each composed into the run that it stands for."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lvf.config.compose import compose, compose_tree, to_run_config
from lvf.config.grid_schema import SweepConfig
from lvf.config.schema import RunConfig
from lvf.errors import UserError
from lvf.runs.run_id import run_id


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep."""

    overrides: tuple[str, ...]
    cfg: RunConfig

    @functools.cached_property
    def run_id(self) -> str:
        """Name of the run."""
        return run_id(self.cfg)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.cfg.paths.runs) / self.run_id

    @property
    def log(self) -> Path:
        """Everything the run's process prints."""
        return Path(self.cfg.paths.runs) / "logs" / f"{self.run_id}.log"

    def state(self) -> str:
        """State of the run on disk, as `RunFolder.state` tells them apart."""
        from lvf.runs.run_folder import RunFolder

        return RunFolder(self.folder).state(self.cfg)


def runs_of(sweep: SweepConfig, extra: list[str]) -> list[SweepRun]:
    """Every distinct run of a sweep, composed and checked before anything starts.

    Raises:
        UserError: a cell is impossible; names it.
    """
    cells: dict[str, SweepRun] = {}
    trees: dict[tuple[str, ...], DictConfig] = {}
    for block in sweep.blocks.values():
        for values in product(*block.values()):
            axes = [f"{key}={value}" for key, value in zip(block, values, strict=True)]
            overrides = (*axes, *sweep.overrides, *extra)
            try:
                cfg = _composed(overrides, trees)
            except (UserError, HydraException) as error:
                raise UserError(f"cell {' '.join(overrides)}: {error}") from error
            cell = SweepRun(overrides, cfg)
            cells[cell.run_id] = cell
    return list(cells.values())


def _composed(overrides: tuple[str, ...], trees: dict[tuple[str, ...], DictConfig]) -> RunConfig:
    """What `compose` gives, twenty times as fast where only plain values differ from a cell before.

    Hydra composes files, then sets values in the order given. A tree of the same files on which the
    same keys are set anew is therefore the same; `trees` keeps them.
    """
    values = {one: setting for one in overrides if (setting := _plain_value(one))}
    files = [one for one in overrides if one not in values]
    reusable = (*files, "values of", *(key for key, _ in values.values()))
    if reusable not in trees:
        trees[reusable] = compose_tree(*files)
    try:
        for key, value in values.values():
            OmegaConf.update(trees[reusable], key, value, merge=True)  # as Hydra does it
    except OmegaConfBaseException:
        return compose(*overrides)  # which says what is wrong in Hydra's words
    return to_run_config(trees[reusable])


@functools.cache
def _plain_value(override: str) -> tuple[str, Any] | None:
    """Key and value of an override that sets one value; None for files, additions and mappings."""
    parsed = OverridesParser.create().parse_override(override)
    key, value = parsed.key_or_group, parsed.value()
    is_value = "." in key or key in ("duration", "measure_at", "seed")  # other keys choose files
    if parsed.type is not OverrideType.CHANGE or parsed.package or not is_value:
        return None
    return None if key.startswith("hydra.") or isinstance(value, dict) else (key, value)
