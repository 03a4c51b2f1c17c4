"""From Hydra's command line to a checked `RunConfig`, and from a `UserError` to one message."""

import functools
import json
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lvf.config.data_schema import DataConfig, SourceConfig
from lvf.config.kinds import with_checked_values
from lvf.config.schema import CONF_DIR, EMBEDDED, RunConfig, ShapeConfig
from lvf.config.validate import validate
from lvf.errors import UserError
from lvf.log import keep_from_terminal


def lr_of_method(
    lr_by_method: dict[str, float],
    kind: str,
    rank: int | None,
    multiplier: float,
    lora_lr_ratio: float | None,
) -> float:
    """Peak rate of a method: the entry of its rank, else of its kind, times the multiplier.

    With `lora_lr_ratio`, LoRA's is that of full finetuning times the ratio.
    """
    if kind == "lora" and lora_lr_ratio is not None:
        kind, rank, multiplier = "full", None, multiplier * lora_lr_ratio
    if kind not in lr_by_method:
        raise UserError(
            f"no learning rate for method kind {kind!r}: training.lr_by_method has "
            f"{sorted(lr_by_method)}. Set training.lr_peak=... on the command line."
        )
    return float(lr_by_method.get(f"{kind}_r{rank}", lr_by_method[kind])) * multiplier


WITHOUT_HYDRAS_OWN = [
    f"~hydra/{group}"
    for group in (
        "env", "help", "hydra_help", "hydra_logging", "job_logging", "launcher", "output", "sweeper"
    )
]  # fmt: skip
"""Hydra's own settings, a sixth of a composition's time; of no use to one that is not its main."""
Schema = TypeVar("Schema")


def to_schema(composed: DictConfig, schema: type[Schema]) -> Schema:
    """Resolve a composed configuration into the dataclass that it was composed on.

    Raises:
        UserError: a value is missing, cannot be resolved, or is a number outside of its range.
    """
    try:
        cfg = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'configuration'}: {_cause(error)}") from error
    assert isinstance(cfg, schema)
    return with_checked_values(cfg)


def _cause(error: OmegaConfBaseException) -> str:
    """What is wrong, without OmegaConf's notes on types; an environment variable by its name."""
    if isinstance(error, MissingMandatoryValue):
        return f"it has no value: set {error.full_key}=..., or nothing beside it"
    unset = re.search(r"Environment variable '(.*?)' not found", str(error))
    if unset:
        return f"the environment variable {unset[1]} is not set: set it, or give a value"
    return str(error.msg or error).splitlines()[0]


OPTIONAL_SECTIONS = {
    "model.shape": OmegaConf.structured(ShapeConfig),
    "data.validation": OmegaConf.structured(SourceConfig),
    "data.heldout": OmegaConf.structured(SourceConfig),
    "data.source": OmegaConf.structured(SourceConfig),
}
"""Null where nothing of them is set. A composition begins with them empty: Hydra sets no value
within a section that is null."""


def to_run_config(composed: DictConfig) -> RunConfig:
    """Resolve a composed configuration into a checked `RunConfig`.

    Raises:
        UserError: a value is missing, has the wrong type, or the combination is impossible.
    """
    _drop_unset_sections(composed)
    cfg = to_schema(composed, RunConfig)
    _hold_out_of_own_data(cfg.data)
    validate(cfg)
    if cfg.sequence.first:
        cfg.sequence.config = asdict(_composed_first(cfg))
    return cfg


def _drop_unset_sections(composed: DictConfig) -> None:
    for key, empty in OPTIONAL_SECTIONS.items():
        if OmegaConf.select(composed, key) == empty:
            OmegaConf.update(composed, key, None)


def from_tree(tree: dict[str, Any]) -> RunConfig:
    """A run from its resolved values, as `dataclasses.asdict` gives them."""
    composed = OmegaConf.structured(RunConfig)
    composed.merge_with(tree)
    return to_schema(composed, RunConfig)


SHARED_BY_SEQUENCE = ("model", "method", "seed", "logger", "paths", "runtime")
"""Settings that a run has in common with the run that it starts from, beside the scale."""


def first_of(cfg: RunConfig) -> RunConfig | None:
    """The run whose last export this run starts from; None for a run that starts from the base."""
    return None if cfg.sequence.config is None else from_tree(cfg.sequence.config)


def words_of(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """A mapping of settings, nested or not, as words of a command line."""
    words = []
    for key, value in settings.items():
        if isinstance(value, dict):
            words += words_of(value, f"{prefix}{key}.")
        else:
            words.append(f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def _composed_first(cfg: RunConfig) -> RunConfig:
    """Compose the run that `sequence.first` describes."""
    words = [f"scale={cfg.scale.name}", *words_of(cfg.sequence.first)]
    if HydraConfig.initialized() and (folders := list(HydraConfig.get().searchpath)):
        words.append(f"hydra.searchpath={json.dumps(folders)}")
    try:
        tree = _first_tree(*words)
        if tree.sequence.first:
            raise UserError("it has a sequence.first of its own, and a sequence is of two runs")
        for key in SHARED_BY_SEQUENCE:
            OmegaConf.update(tree, key, getattr(cfg, key), merge=False)
        return to_run_config(tree)
    except (UserError, HydraException) as error:
        raise UserError(f"sequence.first={cfg.sequence.first}: {error}") from error


def _hold_out_of_own_data(data: DataConfig) -> None:
    """Take the held-out texts from `train` where that was changed and they stayed the embedded."""
    if data.train.path.startswith(EMBEDDED):
        return
    if data.validation and data.validation.path.startswith(EMBEDDED):
        data.validation = None
    if data.heldout and data.heldout.path.startswith(EMBEDDED):
        data.heldout = None


def compose(*overrides: str) -> RunConfig:
    """Compose a run without a command line of its own, as notebooks and tests do."""
    return to_run_config(compose_tree(*overrides))


@functools.cache
def _first_tree(*words: str) -> DictConfig:
    """Composed once for all runs of a sweep: what they do not share is set anew for each."""
    return compose_tree(*words)


def compose_tree(*overrides: str) -> DictConfig:
    """Hydra's composition of a run, not resolved yet."""
    running = GlobalHydra.instance().is_initialized()  # within another command's main
    ready = nullcontext() if running else initialize_config_dir(str(CONF_DIR), version_base="1.3")
    with ready:
        words = [with_home(word) for word in overrides]
        return hydra.compose("train", overrides=[*words, *WITHOUT_HYDRAS_OWN])


def with_home(override: str) -> str:
    """An override whose value begins with `~/`, which Hydra cannot parse, with the home folder."""
    key, equals, value = override.partition("=")
    return f"{key}={Path(value).expanduser()}" if equals and value.startswith("~/") else override


Result = TypeVar("Result")


def entry_point(work: Callable[[RunConfig], Result]) -> Callable[[], None]:
    """Turn a function of a run into a Hydra command that reports user errors without traceback.

    In a multirun whose runs follow each other in this process, an error of one lets the others run;
    the command ends with status 2 after the last.
    """
    failed: list[str] = []

    @hydra.main(config_path=str(CONF_DIR), config_name="train", version_base="1.3")
    @functools.wraps(work)
    def main(composed: DictConfig) -> None:
        keep_from_terminal()
        with exit_on_user_error():
            try:
                work(to_run_config(composed))
            except UserError as error:
                if not _others_follow():
                    raise
                failed.append(str(error))
                print(f"error: {error}", file=sys.stderr)

    def command() -> None:
        sys.argv[1:] = [with_home(word) for word in sys.argv[1:]]
        main()
        if failed:
            print(f"error: {len(failed)} of the runs failed; see above", file=sys.stderr)
            sys.exit(2)

    return command


def _others_follow() -> bool:
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    return hydra.mode == RunMode.MULTIRUN and hydra.launcher["_target_"].endswith("BasicLauncher")


class exit_on_user_error:  # noqa: N801, a context manager that reads as a sentence
    """Print a `UserError` as one message and exit with status 2 instead of a traceback."""

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        """Translate a `UserError`; let everything else through."""
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)


def times(a: float, b: float) -> float:
    """Product for conf/; a whole one is an integer, as ranks and alphas are."""
    product = a * b
    return int(product) if product == int(product) else product


def join(*lists: list[str]) -> list[str]:
    """Lists end to end, each entry once, for conf/."""
    return list(dict.fromkeys(entry for one in lists for entry in one))


def catalogue(file: str) -> dict[str, Any]:
    """Read `conf/<file>.yaml`, whose entries are the options of a group, by name."""
    entries: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / f"{file}.yaml"))
    return entries


def _same_store(store: ConfigStore, _memo: dict[int, Any]) -> ConfigStore:
    return store


# Hydra deep-copies the whole store, its own schemas included, for each group that --help lists
# (140 times, 2 s) and for each composition; the store is a singleton whose load() copies anyway.
ConfigStore.__deepcopy__ = _same_store  # type: ignore[attr-defined]
run_schema = OmegaConf.structured(RunConfig)
for key, empty in OPTIONAL_SECTIONS.items():
    OmegaConf.update(run_schema, key, empty, merge=False)
ConfigStore.instance().store(name="run_schema", node=run_schema)
for name, data in catalogue("datasets").items():
    ConfigStore.instance().store(group="data", name=name, node=data)
for name, model in catalogue("models").items():
    ConfigStore.instance().store(group="model", name=name, node=model, package="_global_")
OmegaConf.register_new_resolver("lvf.lr", lr_of_method, replace=True)
OmegaConf.register_new_resolver("lvf.times", times, replace=True)
OmegaConf.register_new_resolver("lvf.join", join, replace=True)
