"""Run ID: a hash of the settings that affect results, and of the contents that they name."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from lvf.config.compose import first_of
from lvf.config.data_schema import SourceConfig
from lvf.config.schema import EMBEDDED, RunConfig, stable_hash
from lvf.data.fingerprint import hub_commit, model_fingerprint
from lvf.data.replay import replay_source
from lvf.data.sources import local_files, source_fingerprint

NOT_HASHED = (
    # How and where a run is done and measured.
    "evals", "logger", "paths", "runtime", "released", "tuned", "bench",
    "strength", "truncate", "damp",
    # The first run's own identity stands for it (`identity`).
    "sequence",
    # What training.lr_peak was computed from, and the ranks and durations that sweeps refer to.
    "training.lr_by_method", "training.lr_multiplier", "training.lora_lr_ratio", "scale",
    # Contents stand for these (`identity`).
    "model.path", "model.tokenizer", "model.revision", "model.shape", "model.trust_remote_code",
    "data.train", "data.validation", "data.heldout", "data.source",
    # For the planner; and `strict`, which decides whether there is a run at all, as trust does.
    "data.documents", "data.tokens", "data.strict",
    # A trunk's budgets change what it keeps, not what it learns.
    "trunk",
)  # fmt: skip
"""Settings, and groups of them, that take no part in a run's identity."""


def identity(cfg: RunConfig) -> dict[str, Any]:
    """What decides a run's results: settings that differ from their defaults, and contents.

    A setting that is added later, with a default that changes nothing, leaves every run its ID. The
    same data or weights under another path are the same; changed ones under the same path are not.
    """
    defaults = _defaults()
    settings = {
        key: value
        for key, value in _leaves(asdict(cfg))
        if not _is_not_hashed(key) and (key not in defaults or defaults[key] != value)
    }
    data = cfg.data
    sources = {"train": data.train, "validation": data.validation, "heldout": data.heldout}
    contents = {name: _content(source) for name, source in sources.items() if source}
    if data.replay:
        contents["source"] = _content(replay_source(cfg))
    if cfg.bench.steps is not None:
        settings["bench"] = asdict(cfg.bench)
    if first := first_of(cfg):
        settings["first"] = [run_id(first), cfg.sequence.keep_adapter]
    return settings | {
        "scale": cfg.scale.name,
        "trunk": cfg.trunk.duration,
        "model": model_fingerprint(cfg.model),
        "data": contents,
    }


def run_id(cfg: RunConfig) -> str:
    """Readable prefix and identity hash; names the run's folder and its records."""
    prefix = f"{cfg.scale.name}-{cfg.domain.name}_{cfg.regime.name}-{cfg.method.name}"
    return f"{prefix}-{stable_hash(identity(cfg))}"


def base_id(cfg: RunConfig) -> str:
    """The same of the untrained model, which is measured once for each (model, data, context)."""
    known = identity(replace(cfg, data=replace(cfg.data, replay=0.0, source_column="text")))
    told_apart = {key: value for key, value in known.items() if key.startswith(("model", "data"))}
    hash_ = stable_hash([told_apart, cfg.training.seq_len])
    return f"{cfg.scale.name}-{cfg.domain.name}_{cfg.regime.name}-base-{hash_}"


def _content(source: SourceConfig) -> list[Any]:
    """A local corpus is its files, one of the hub its commit; what is read of it counts, too."""
    read = [source.subset, source.data_dir, source.split]
    if source.path.startswith(EMBEDDED):
        from lvf.embedded.corpora import fingerprint

        return [source.path, fingerprint(0)]
    if local_files(source) is None:
        commit = hub_commit(source.path, source.revision, "dataset")
        return [commit or [source.path, source.revision], *read]
    return [source_fingerprint(source), *read]


@functools.cache
def _defaults() -> dict[str, Any]:
    return dict(_leaves(asdict(RunConfig())))


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted key; an empty mapping is a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_not_hashed(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in NOT_HASHED)
