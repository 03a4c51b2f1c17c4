"""Two tasks one after the other: where the second run starts."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from lvf.config.compose import SHARED_BY_SEQUENCE, first_of, words_of
from lvf.config.schema import RunConfig
from lvf.errors import UserError
from lvf.runs.run_folder import TRAINED, run_folder

SHARED_WORDS = ("scale", *SHARED_BY_SEQUENCE)


def first_export(cfg: RunConfig) -> Path | None:
    """The export that a run starts from, the first run's last; None where it starts from the base.

    Raises:
        UserError: the first run is not trained; names the command that trains it.
    """
    first = first_of(cfg)
    if first is None:
        return None
    folder = run_folder(first)
    if folder.status().get("state") != TRAINED:
        raise UserError(
            f"this run starts from the last export of {folder.path}, which is "
            f"{folder.state(first)}. Train it first:\n  {_command(cfg)}"
        )
    return folder.finished_exports()[-1]


def merged_adapter(cfg: RunConfig) -> Path | None:
    """The first run's adapter, where it is merged into the base of this run's; else None."""
    if cfg.method.kind == "full" or cfg.sequence.keep_adapter:
        return None
    return first_export(cfg)


def _command(cfg: RunConfig) -> str:
    """The first run's settings, and those of the user's command line that both runs share."""
    words = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else ["..."]
    shared = [
        word for word in words if word == "..." or word.split("=")[0].split(".")[0] in SHARED_WORDS
    ]
    return " ".join(["python -m lvf.train", *words_of(cfg.sequence.first), *shared])
