"""The typed, closed description of a run, which every part of lvf reads, and its name."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from omegaconf import MISSING

from lvf.config.data_schema import DataConfig
from lvf.config.evals_schema import EvalsConfig
from lvf.config.kinds import (
    Count,
    LocalPath,
    Part,
    Positive,
    PositiveOrZero,
    Range,
    Share,
)
from lvf.config.runtime_schema import BenchConfig, PathsConfig, RuntimeConfig

PACKAGE = Path(__file__).resolve().parents[1]
EMBEDDED = "embedded:"
"""Begins the path of a file of the generated offline world."""
IGNORED_LABEL = -100
"""Label of a token that is not in the loss: the default of torch's `cross_entropy`."""


def shipped(path: str) -> Path:
    """Where a file or folder of the repository lies: below lvf/ if that was installed as a wheel.

    Args:
        path: relative to the repository's root; pyproject.toml lists what a wheel has.
    """
    packaged = PACKAGE / path
    return packaged if packaged.exists() else PACKAGE.parent / path


CONF_DIR = shipped("conf")
ALL_LINEAR = "all-linear"
"""Instead of names in `method.target_modules`: every linear map but the output layer."""


@dataclass(kw_only=True)
class ScaleConfig:
    """The rung of the ladder on which a run stands: embedded, small or paper."""

    name: str = MISSING
    lora_rank: Count = MISSING
    """Rank that plain `method=lora` takes on this scale."""
    lora_ranks: list[Count] = MISSING
    """The three ranks that are compared on this scale, rising; sweeps refer to them and to the
    following, so that one sweep serves every scale."""
    throughput_ranks: list[Count] = MISSING
    epochs: list[Positive] = MISSING
    """Durations of instruction finetuning."""
    budgets_tokens: list[Positive] = MISSING
    """Budgets of continued pre-training that branch off its trunk."""
    trunk_tokens: Positive = MISSING
    lr_grid: list[Positive] = MISSING
    """Peak rates of a sweep, rising."""
    batch_size_grid: list[Count] = MISSING
    """Rows in one optimiser step, of a sweep over batch sizes."""
    device: str = MISSING
    """What the planner counts hours of."""
    sustained_flops: dict[str, Positive] = MISSING
    """Matrix-product FLOPs a second of one device, by `method.kind`: the planner's assumption."""


@dataclass(kw_only=True)
class ShapeConfig:
    """A decoder's shape, in the names of Hugging Face's config.json."""

    model_type: str = MISSING
    """`llama`, `qwen3` or `olmo2`."""
    hidden_size: Count = MISSING
    intermediate_size: Count = MISSING
    num_hidden_layers: Count = MISSING
    num_attention_heads: Count = MISSING
    num_key_value_heads: Count = MISSING
    vocab_size: Count = MISSING
    head_dim: Count | None = None
    """Null: hidden_size / num_attention_heads."""
    tie_word_embeddings: bool = False


@dataclass(kw_only=True)
class ModelConfig:
    """The base model that is finetuned."""

    name: str = MISSING
    """Label in records."""
    path: LocalPath = MISSING
    """Hub id, local folder in Hugging Face format, .gguf file, or `embedded`: the packaged base."""
    tokenizer: LocalPath | None = None
    """Hub id or local folder; null takes the model's own."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Whether Python files that come with the model or tokenizer may run, with your rights. Without
    it such a model is refused (docs/security.md). Not part of a run's identity."""
    shape: ShapeConfig | None = None
    """For the planner, where the model is not on this machine. Not part of a run's identity."""
    random_weights: bool = False
    """Take the model's shape alone, from its folder or from `shape`, and draw its weights; the hub
    is not asked. Where its tokenizer is not on this machine, the packaged base's stands in."""


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
class MethodConfig:
    """Full finetuning, or LoRA and its relatives (paper App. A; PEFT's LoraConfig)."""

    name: str = MISSING
    kind: str = MISSING
    """`full`, or `lora`: adapters."""
    adapter: str = "lora"
    """Kind of adapters: `lora`, `oft`, `vera`, `miss`, `shira` or `ia3`."""
    rank: Count | None = None
    alpha: Count | None = None
    """LoRA's scale is alpha / rank; the paper takes alpha = 2 rank."""
    dropout: Share | None = None
    target_modules: Any = None
    """List of the names of the linear maps that get adapters, or `all-linear`: all but the output
    layer."""
    rank_stabilised: bool = False
    """rsLoRA: the scale is alpha / sqrt(rank)."""
    dora: bool = False
    """DoRA: magnitudes are trained apart from directions."""
    init: str = "zero"
    """`zero` (B = 0), or `pissa`: the largest singular values of the base, taken out of it."""
    lr_ratio_b: Positive = 1.0
    """LoRA+: rate of B as a multiple of the run's rate."""
    peft: Any = None
    """Mapping of further options of PEFT's LoraConfig, such as {layers_to_transform: [0, 1]}, or of
    the configuration of another `adapter`."""
    modules_to_save: list[str] = field(default_factory=list)
    """Modules that are trained whole beside the adapters, such as embed_tokens and lm_head."""
    modules_to_save_lr_ratio: Positive = 1.0
    """Their rate as a multiple of the run's rate."""

    @property
    def needs_fp32_base(self) -> bool:
        """Whether adapters change the base's matrices themselves, so that these are not rounded."""
        return self.dora or self.adapter != "lora"


@dataclass(kw_only=True)
class ScheduleConfig:
    """The learning rate over a run, as multiples of `training.lr_peak`."""

    kind: str = MISSING
    """`cosine`, or `trapezoid` (warm-up, constant, linear cooldown)."""
    warmup: PositiveOrZero = MISSING
    """Warm-up: a share of the run below 1, otherwise a number of batches."""
    final_lr_ratio: PositiveOrZero = MISSING
    """Learning rate at the end, as a share of the peak."""
    cooldown: Part = 0.0
    """Share of the run spent in the linear cooldown (trapezoid only)."""
    cooldown_within_warmup: bool = True
    """Whether a run that ends within the warm-up cools down from the rate that it has reached; if
    not, the cooldown waits for the end of the warm-up, as llm-foundry's does (trapezoid only)."""

    def warmup_batches(self, total_batches: int) -> int:
        """Length of the warm-up: a share of the run below 1, else a number of batches."""
        if self.warmup < 1:
            return int(self.warmup * total_batches)
        return int(self.warmup)

    def cooldown_batches(self, total_batches: int) -> int:
        """Length of the cooldown at the end of a run."""
        return round(self.cooldown * total_batches)


@dataclass(kw_only=True)
class TrunkConfig:
    """Continued pre-training: one long run, off which each smaller budget branches (App. A)."""

    tokens: Positive | None = None
    """Length of the trunk; null where there is none."""
    budgets: list[Positive] = field(default_factory=list)
    """Budgets for whose branches the trunk keeps a checkpoint."""
    branch: bool = True
    """Whether budgets branch off; if not, each is a run of its own."""

    @property
    def duration(self) -> float | None:
        """Length of the trunk that budgets branch off; None where each is a run of its own."""
        return self.tokens if self.branch else None


@dataclass(kw_only=True)
class TrainingConfig:
    """One column of the paper's hyperparameter table (App. A)."""

    seq_len: Annotated[int, Range(least=2)] = MISSING
    """Tokens in a row."""
    global_batch_size: Count = MISSING
    """Rows in one optimiser step, over all ranks."""
    lr_by_method: dict[str, Positive] = MISSING
    """Peak rates: `full`, `lora`, and `lora_r<rank>` where a rank has its own."""
    lr_multiplier: Positive = 1.0
    """Times the method's rate: the axis of a sweep over rates that fits every method."""
    lora_lr_ratio: Positive | None = None
    """LoRA's rate as a multiple of full finetuning's, instead of its own in `lr_by_method`."""
    lr_peak: Positive = MISSING
    """The rate of this run; by default that of `lr_by_method`, times `lr_multiplier`."""
    precision: str = "fp32"
    """`fp32` (on no GPU TF32), or `amp_bf16` (fp32 weights, bf16 arithmetic)."""
    grad_clip_norm: Positive = 1.0
    packing_ratio: Count | None = None
    """Examples packed into one row; null packs as many as fit (instruction finetuning only)."""
    attend_across_examples: bool = False
    """Whether examples packed into one row see each other."""
    fused_lora: bool = True
    """Whether LoRA computes with fewer, larger products; if not, with PEFT's own, which is slow."""
    dropout_per_map: bool = False
    """Whether each of LoRA's maps draws a dropout mask of its own, as PEFT does and the paper did;
    if not, maps with one input share a mask, which is faster."""
    average_loss_over: str = "tokens"
    """`tokens`: each predicted token of a batch counts the same. `microbatches`: each row does, by
    the mean of its microbatch, as in Composer when the paper was made. The result then depends on
    `runtime.device_microbatch_size`, which must be given."""
    loss_on_prompt: bool = False
    """Whether prompts are learnt too. The paper does not say; llm-foundry's default is no."""
    attention_dropout: Share = 0.0
    """Share of attention probabilities that is dropped (paper Fig. 4)."""


@dataclass(kw_only=True)
class SequenceConfig:
    """A run that goes on where another task's run ended, such as code after maths."""

    first: dict[str, Any] = field(default_factory=dict)
    """Settings of the run whose last export this run starts from, such as {domain: math,
    duration: 2}. Scale, model, method, seed, logger, runtime and paths are those of this run.
    Empty: the run starts from the base."""
    keep_adapter: bool = False
    """Whether LoRA trains the first run's adapter further. If not, that adapter is merged into the
    base, and a new adapter starts on it."""
    config: Any = None
    """The first run's whole configuration, made from `first`; not to be set."""


@dataclass(kw_only=True)
class RunConfig:
    """A whole run; `lvf.runs.run_id` says what of it takes part in its name."""

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
    duration: Positive = MISSING
    """Length of the run, in `regime.duration_unit`."""
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    measure_at: list[Positive] = field(default_factory=list)
    """Moments before the end that are exported and measured too (not cooled down)."""
    seed: Annotated[int, Range(least=0, most=2**32 - 1)] = 0
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    evals: EvalsConfig = field(default_factory=EvalsConfig)
    logger: dict[str, Any] = MISSING
    """Name to `_target_` of a Composer logger and its arguments."""
    paths: PathsConfig = field(default_factory=PathsConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)
    released: LocalPath | None = None
    """Repository, collection or folder of the paper's own models, taken instead of a run's exports;
    domain, regime and scale=paper follow from it unless they are given."""
    tuned: LocalPath | None = None
    """Folder or hub id of what `lvf.analyze` and `lvf.evaluate` take instead of a run's exports."""
    strength: list[PositiveOrZero] = field(default_factory=list)
    """`lvf.evaluate` also measures W0 + s (W - W0) for each s: 0 is the base, 1 the checkpoint."""
    truncate: list[Count] = field(default_factory=list)
    """Likewise, checkpoints whose update of every matrix is cut to its best approximation of these
    ranks."""
    damp: list[Part] = field(default_factory=list)
    """Likewise, checkpoints whose intruder dimensions are multiplied by these: 0 removes them."""


def stable_hash(tree: Any) -> str:
    """First 12 hex digits of the SHA-256 of a JSON-able tree, independent of key order."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]
