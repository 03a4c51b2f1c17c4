"""Measured speeds of sharded training on many GPUs, to set beside what `scaling` predicts."""

from __future__ import annotations

from dataclasses import dataclass

from lvf.planning.cluster import A100_1600G, H100, Cluster
from lvf.planning.scaling import Traffic, exposed_seconds

FOUNDRY = "llm-foundry, scripts/train/benchmarking/README.md"
TITAN = "torchtitan, benchmarks/llama3_h100_202412_torchtitan.md"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model on growing numbers of GPUs, all else the same."""

    source: str
    model: str
    cluster: Cluster
    parameters: float
    layers: int
    microbatch_tokens: int
    microbatches: int = 1
    recomputes: bool = False
    """Activation checkpointing: the backward pass repeats the forward pass."""
    scattered_bytes: int = 4
    """Of each gradient: fp32, or bf16 where everything is."""
    tokens_per_second: dict[int, float]
    """Of each GPU, by their number; smallest first."""


PUBLISHED = [
    Measured(
        source=TITAN, model="Llama 3.1 8B, FSDP2", cluster=H100, parameters=8.03e9, layers=32,
        microbatch_tokens=2 * 8192, tokens_per_second={8: 5762, 128: 5605},
    ),
    Measured(
        source=TITAN, model="Llama 3.1 8B, FSDP2, compiled", cluster=H100, parameters=8.03e9,
        layers=32, microbatch_tokens=2 * 8192, tokens_per_second={8: 6667, 128: 6514},
    ),
    Measured(
        source=FOUNDRY, model="MPT 13B, FSDP", cluster=H100, parameters=12.85e9, layers=40,
        microbatch_tokens=2 * 2048, tokens_per_second={8: 4792, 16: 4767, 32: 4811, 64: 4800},
    ),
    Measured(
        source=FOUNDRY, model="MPT 3B, FSDP", cluster=H100, parameters=2.65e9, layers=32,
        microbatch_tokens=6 * 2048, microbatches=3, tokens_per_second={32: 23021, 64: 22525},
    ),
    Measured(
        source=FOUNDRY, model="MPT 1B, FSDP", cluster=H100, parameters=1.316e9, layers=24,
        microbatch_tokens=20 * 2048, tokens_per_second={16: 46037, 32: 45130, 64: 44402},
    ),
    Measured(
        source=FOUNDRY, model="MPT 7B, FSDP, all in bf16", cluster=A100_1600G, parameters=6.66e9,
        layers=32, microbatch_tokens=18 * 2048, recomputes=True, scattered_bytes=2,
        tokens_per_second={32: 3725, 64: 3665, 128: 3623},
    ),
    Measured(
        source=FOUNDRY, model="MPT 13B, FSDP, all in bf16", cluster=A100_1600G,
        parameters=12.85e9, layers=40, microbatch_tokens=16 * 2048, recomputes=True,
        scattered_bytes=2, tokens_per_second={64: 1976, 128: 1972},
    ),
]  # fmt: skip
"""Only rows that differ in nothing but the number of GPUs. llm-foundry does not say how its H100
nodes are linked; 400 Gb/s a GPU is taken."""


def predicted(one: Measured, num_devices: int) -> float:
    """Tokens a second of each GPU on so many, from the measured speed on the smallest number."""
    first = min(one.tokens_per_second)
    tokens = one.microbatch_tokens * one.microbatches
    step_seconds = tokens / one.tokens_per_second[first]
    what = Traffic(
        gathered_forward=2 * one.parameters,
        gathered_backward=2 * one.parameters,
        scattered=one.scattered_bytes * one.parameters,
    )
    forward = step_seconds / one.microbatches / (4 if one.recomputes else 3)
    backward = step_seconds / one.microbatches - forward

    def exposed(number: int) -> float:
        units = one.layers + 1
        return exposed_seconds(
            what, forward, backward, one.microbatches, units, number, one.cluster
        )

    return tokens / (step_seconds - exposed(first) + exposed(num_devices))
