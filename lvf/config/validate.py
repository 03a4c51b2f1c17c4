"""What types alone cannot check of a run, found out before any work starts."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from lvf.config.schema import ALL_LINEAR, MethodConfig, RunConfig
from lvf.errors import UserError

TARGET_MODULES = {
    "optimizer": ("torch.optim", "lion_pytorch", "composer.optim"),
    "logger": ("composer.loggers", "lvf.training.metrics_log"),
}
"""Where the classes of `_target_` may come from. Modules below them are no part of it: through one,
every module that it imports could be reached."""


def validate(cfg: RunConfig) -> None:
    """Check what types alone cannot, before any work starts.

    Raises:
        UserError: names the key, its value and what is allowed.
    """
    _one_of("method.init", cfg.method.init, ("zero", "pissa"))
    _one_of("method.kind", cfg.method.kind, ("full", "lora"))
    _one_of("method.adapter", cfg.method.adapter, tuple(SETTINGS))
    _one_of("regime.duration_unit", cfg.regime.duration_unit, ("epochs", "tokens"))
    _one_of("schedule.kind", cfg.schedule.kind, ("cosine", "trapezoid"))
    _one_of("evals.sandbox", cfg.evals.sandbox, ("required", "best"))
    _one_of("training.precision", cfg.training.precision, ("fp32", "amp_bf16"))
    averages = ("tokens", "microbatches")
    _one_of("training.average_loss_over", cfg.training.average_loss_over, averages)
    by_microbatch = cfg.training.average_loss_over == "microbatches"
    if by_microbatch and cfg.runtime.device_microbatch_size is None:
        raise UserError(
            "training.average_loss_over=microbatches: the result then depends on how many rows are "
            "taken at once. Say how many: runtime.device_microbatch_size=6"
        )
    _validate_optimizer(cfg.optimizer)
    size = cfg.paths.shards_cache_limit
    if size is not None and not re.fullmatch(r"[\d.]+ *[kmgt]?b?", size, re.I):
        raise UserError(f"paths.shards_cache_limit={size!r} is not a size such as 100gb")
    _validate_targets("logger", cfg.logger)
    for name, settings in cfg.logger.items():
        if not isinstance(settings, dict) or "_target_" not in settings:
            raise UserError(f"logger.{name}={settings!r} has no _target_, which names its class")
    _validate_method(cfg.method)
    for key in ("fsdp_base", "compile"):
        if cfg.method.adapter != "lora" and getattr(cfg.runtime, key):
            raise UserError(
                f"runtime.{key}=true goes with LoRA and full finetuning, not with method.adapter="
                f"{cfg.method.adapter}: leave it out"
            )
    _validate_moments(cfg)
    ranks = cfg.runtime.world_size
    if cfg.training.global_batch_size % ranks:
        raise UserError(
            f"training.global_batch_size={cfg.training.global_batch_size} cannot be shared evenly "
            f"among {ranks} ranks (runtime.nproc_per_node times runtime.nodes)"
        )
    _validate_trunk(cfg)
    _validate_bench(cfg)
    _validate_sequence(cfg)
    _validate_splits(cfg)
    has_pair = bool(cfg.data.prompt_column and cfg.data.response_column)
    if has_pair == bool(cfg.data.text_column):
        raise UserError(
            f"data.{cfg.data.name}: set either data.text_column or both data.prompt_column and "
            "data.response_column"
        )
    known = [*cfg.evals.lm_eval, "humaneval", "kl_base", "cka_source"]
    known += ["nll_target", "nll_validation", "nll_source"]
    for task in [*cfg.evals.tasks, *cfg.evals.forgetting]:
        _one_of("evals.tasks", task, known)


def _validate_splits(cfg: RunConfig) -> None:
    data = cfg.data
    sources = {f"data.{key}": getattr(data, key) for key in ("train", "validation", "heldout")}
    sources |= {"data.source": data.source, "evals.source_text": cfg.evals.source_text}
    for key, source in sources.items():
        if source is not None and not re.fullmatch(r"\w[\w.-]*(\+\w[\w.-]*)*", source.split):
            raise UserError(
                f"{key}.split={source.split!r} is not the name of a split, such as train or "
                "train+test: splits are read whole. data.max_documents=NUMBER trains on fewer "
                "documents, evals.limit=NUMBER measures fewer"
            )


def _validate_optimizer(optimizer: dict[str, Any]) -> None:
    _validate_targets("optimizer", optimizer)
    for key, value in optimizer.items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, int | float) and number < 0 for number in numbers):
            raise UserError(f"optimizer.{key}={value} must not be below 0")


def require_consent(cfg: RunConfig, setting: str = "evals.execute_code=true") -> None:
    """Refuse to start what will run generated programs unless the user agreed to it.

    Args:
        setting: how the user of this command agrees.

    Raises:
        UserError: `humaneval` is among the tasks and `evals.execute_code` is false.
    """
    if "humaneval" in cfg.evals.tasks and not cfg.evals.execute_code:
        raise UserError(
            "the task humaneval runs programs that the model wrote on this machine: agree with "
            f"{setting}, or leave humaneval out of evals.tasks"
        )


PACKAGE_OF_LOGGER = {
    "composer.loggers.WandBLogger": "wandb",
    "composer.loggers.MLFlowLogger": "mlflow",
    "composer.loggers.TensorboardLogger": "tensorboard",
}


def require_trackers(cfg: RunConfig) -> None:
    """Refuse a logger whose package is not installed.

    Raises:
        UserError: names the logger and the command that installs its package.
    """
    for name, settings in cfg.logger.items():
        package = PACKAGE_OF_LOGGER.get(settings["_target_"])
        if package and not importlib.util.find_spec(package):
            raise UserError(
                f"logger={name} needs the package {package}, which is not installed: "
                "pip install -e '.[trackers]', or choose logger=jsonl"
            )


COMPILED_RIGHTLY = ((2, 7), (2, 15))
"""Releases of torch on which tests/models/test_compiled.py passes."""


def torch_version() -> tuple[int, int]:
    """Major and minor number of the installed torch, which is not imported for it."""
    major, minor = importlib.metadata.version("torch").split(".")[:2]
    return int(major), int(minor)


def require_compiler(cfg: RunConfig) -> None:
    """Refuse `runtime.compile` where its gradients are not known to be right, or nothing compiles.

    Raises:
        UserError: `runtime.compile` is set, and this torch was not tested with it or there is no
            C++ compiler.
    """
    if cfg.runtime.compile and torch_version() not in COMPILED_RIGHTLY:
        raise UserError(
            "runtime.compile=true: the gradients of compiled layers were compared with those of "
            f"uncompiled layers on torch {' and '.join(f'{a}.{b}' for a, b in COMPILED_RIGHTLY)}; "
            "on torch 2.11 they were wrong. Install such a version, or leave the setting out"
        )
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if cfg.runtime.compile and not shutil.which(compiler):
        raise UserError(
            f"runtime.compile=true needs the C++ compiler {compiler}, which is not on the PATH: "
            "install it, name another in the environment variable CXX, or leave the setting out"
        )


def _validate_targets(group: str, settings: Any) -> None:
    modules = TARGET_MODULES[group]
    allowed = re.compile(rf"({'|'.join(map(re.escape, modules))})\.[A-Z]\w*")
    for target in _targets(settings):
        if not (isinstance(target, str) and allowed.fullmatch(target)):
            raise UserError(
                f"{group}: _target_={target!r} is not allowed, since a configuration must not "
                f"start any function there is: choose a class of {' or '.join(modules)}. For a "
                f"class of your own, add its module to TARGET_MODULES in {__file__}"
            )


def _targets(settings: Any) -> Iterator[Any]:
    """Every `_target_` at any depth."""
    if isinstance(settings, dict):
        if "_target_" in settings:
            yield settings["_target_"]
        settings = list(settings.values())
    if isinstance(settings, list):
        for inner in settings:
            yield from _targets(inner)


def _validate_trunk(cfg: RunConfig) -> None:
    trunk = cfg.trunk.duration
    if trunk is None:
        return
    if cfg.regime.duration_unit != "tokens" or cfg.schedule.kind != "trapezoid":
        raise UserError(
            f"trunk.tokens={trunk:g} needs a budget of tokens and schedule=trapezoid, whose "
            "constant phase branches can share; set trunk.branch=false"
        )
    if max([cfg.duration, *cfg.trunk.budgets]) > trunk:
        raise UserError(
            f"duration={cfg.duration:g} and trunk.budgets={cfg.trunk.budgets} must not exceed "
            f"trunk.tokens={trunk:g}: raise it, or set trunk.branch=false"
        )


def _validate_moments(cfg: RunConfig) -> None:
    late = [moment for moment in cfg.measure_at if not 0 < moment < cfg.duration]
    if late:
        raise UserError(
            f"measure_at={late} lies outside (0, duration={cfg.duration}); the end of a run is "
            "always measured, so list only moments before it"
        )
    stop_at = cfg.runtime.stop_at
    if stop_at is not None and stop_at >= cfg.duration:
        raise UserError(
            f"runtime.stop_at={stop_at:g} must be below duration={cfg.duration:g}: choose an "
            "earlier moment, or leave it out"
        )


def _validate_sequence(cfg: RunConfig) -> None:
    method, keep = cfg.method, cfg.sequence.keep_adapter
    if not cfg.sequence.first:
        if keep:
            raise UserError(
                "sequence.keep_adapter=true needs a run that trained the adapter: set "
                "sequence.first.domain=math, or leave it out"
            )
        return
    plain = MethodConfig()
    names = ("adapter", "dora", "peft", "modules_to_save")
    odd = [f"method.{name}" for name in names if getattr(method, name) != getattr(plain, name)]
    if odd:
        raise UserError(
            f"sequence.first goes with full finetuning and with LoRA, not with {', '.join(odd)}: "
            "the export would not be one plain adapter. Choose method=full or method=lora"
        )
    if keep and (method.kind == "full" or method.init == "pissa"):
        raise UserError(
            f"sequence.keep_adapter=true does not go with method {method.name!r}, which has no "
            "adapter to train further: leave it out, or choose method=lora"
        )


def _validate_bench(cfg: RunConfig) -> None:
    bench = cfg.bench
    _one_of("bench.data", bench.data, ("real", "synthetic"))
    if bench.data == "real" and (bench.documents_per_row, bench.padding) != (1, 0):
        raise UserError(
            "bench.documents_per_row and bench.padding describe synthetic rows: set "
            "bench.data=synthetic, or leave them out"
        )
    most = bench.row_tokens(cfg.training.seq_len) // 2  # a token to predict, and one before it
    if bench.documents_per_row > most:
        raise UserError(
            f"bench.documents_per_row={bench.documents_per_row}: a row of training.seq_len="
            f"{cfg.training.seq_len} with bench.padding={bench.padding} holds at most {most}"
        )


SETTINGS = {
    "lora": ("rank", "alpha", "dropout"),
    "oft": ("dropout",),
    "vera": ("rank", "dropout"),
    "miss": ("rank", "dropout"),
    "shira": ("rank",),
    "ia3": (),
}
"""What each kind of adapters needs beside `target_modules`."""
OF_ALL = ("adapter", "target_modules", "peft", "modules_to_save", "modules_to_save_lr_ratio")
"""Settings that each kind of adapters can have."""
NEEDED_OPTIONS = {"oft": "oft_block_size", "shira": "random_seed", "ia3": "feedforward_modules"}
"""Options in `method.peft` that decide what is trained."""


def _validate_method(method: MethodConfig) -> None:
    settings = (*SETTINGS[method.adapter], "target_modules")
    plain = MethodConfig()
    given = (one.name for one in fields(method) if one.name not in ("name", "kind"))
    present = [name for name in given if getattr(method, name) != getattr(plain, name)]
    if method.kind == "full":
        if present:
            raise UserError(
                f"method=full takes no {', '.join('method.' + name for name in present)}: full "
                "finetuning has no adapters. Choose method=lora, or drop the setting."
            )
        return
    missing = [f"method.{name}" for name in settings if name not in present]
    if missing:
        raise UserError(
            f"method {method.name!r} is of method.adapter={method.adapter} and needs "
            f"{', '.join(missing)}"
        )
    odd = [name for name in present if name not in (*settings, *OF_ALL)]
    if method.adapter != "lora" and odd:
        raise UserError(
            f"method.adapter={method.adapter} takes no {', '.join('method.' + o for o in odd)}"
        )
    if method.peft is not None and not isinstance(method.peft, dict):
        raise UserError(
            f"method.peft={method.peft!r} is no mapping, such as {{layers_to_transform: [0, 1]}}"
        )
    option = NEEDED_OPTIONS.get(method.adapter)
    if option and (method.peft or {}).get(option) is None:
        raise UserError(f"method.adapter={method.adapter} needs method.peft.{option}")
    targets = method.target_modules
    if targets == ALL_LINEAR:
        method.target_modules = [ALL_LINEAR]
    elif not (targets and isinstance(targets, list) and all(isinstance(t, str) for t in targets)):
        raise UserError(
            f"method.target_modules={targets!r} is neither a list of names, such as "
            f"[q_proj,v_proj], nor {ALL_LINEAR}"
        )
    if method.init == "pissa" and (method.dora or method.rank_stabilised or method.modules_to_save):
        raise UserError(
            f"method {method.name!r}: init=pissa goes with plain LoRA only, since its export is a "
            "plain adapter of twice the rank; drop dora, rank_stabilised and modules_to_save"
        )


def _one_of(key: str, value: str, allowed: tuple[str, ...] | list[str]) -> None:
    if value not in allowed:
        raise UserError(f"{key}={value!r} is not one of {', '.join(allowed)}")
