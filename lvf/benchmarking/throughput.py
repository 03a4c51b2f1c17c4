"""Times the steps of the trainer that a run would use, and writes what it found as a record."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lvf.benchmarking.figures import BASIS, metrics_of, utilisation
from lvf.config.schema import RunConfig, TrunkConfig, stable_hash
from lvf.data.shards import Prepared
from lvf.errors import UserError
from lvf.evals.subjects import run_axes
from lvf.records.schema import Metric, Record, record_path, versions_of, write_record
from lvf.runs.run_folder import RUNNING, TRAINED, RunFolder, is_rank_zero
from lvf.runs.run_id import run_id

TASK = "throughput"
PACKAGES = ("torch", "mosaicml", "transformers", "peft", "mosaicml-streaming")


def num_steps(cfg: RunConfig) -> int:
    """Steps of a benchmark; on several ranks a last one, in which collectives are timed."""
    assert cfg.bench.steps is not None
    return cfg.bench.warmup_steps + cfg.bench.steps + (cfg.runtime.world_size > 1)


def inputs_of(cfg: RunConfig) -> dict[str, Any]:
    """What the figures depend on, beyond what the run's name stands for; known before."""
    import torch

    training, runtime = cfg.training, cfg.runtime
    inputs = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name(),
        # Ranks share the cores.
        "threads": None if runtime.world_size > 1 else torch.get_num_threads(),
        "world_size": runtime.world_size,
        "fsdp_base": runtime.fsdp_base,
        "precision": training.precision,
        "seq_len": training.seq_len,
        "global_batch_size": training.global_batch_size,
        "device_microbatch_size": runtime.device_microbatch_size,
        "packing_ratio": training.packing_ratio,
        "attend_across_examples": training.attend_across_examples,
        "fused_lora": training.fused_lora,
        "dropout_per_map": training.dropout_per_map,
        "bf16_base": runtime.bf16_base,
        "loss_chunk_tokens": runtime.loss_chunk_tokens,
        "activation_checkpointing": runtime.activation_checkpointing,
        "random_weights": cfg.model.random_weights,
        "num_workers": runtime.num_workers,
        "flops_basis": BASIS[cfg.method.kind],
        **vars(cfg.bench),
    }
    # What was measured before there was the setting keeps its name.
    return inputs | ({"compile": True} if runtime.compile else {})


def _cpu_name() -> str:
    """Name of the processor as Linux has it, else the kind of machine."""
    if (file := Path("/proc/cpuinfo")).is_file():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.machine()


def benchmark_path(cfg: RunConfig) -> Path:
    """File of the record."""
    name, hash_ = f"ba{num_steps(cfg):06d}", stable_hash(inputs_of(cfg))
    return record_path(Path(cfg.paths.records), run_id(cfg), name, TASK, hash_)


def time_steps(cfg: RunConfig, prepared: Prepared, folder: RunFolder) -> None:
    """Train for the steps of a benchmark and write its record; every rank calls this.

    Raises:
        UserError: the run diverged, or the device's memory is too small.
    """
    import torch

    from lvf.training.outcome import joint_outcome

    if is_rank_zero():
        folder.write_status(RUNNING, error=None, total_batches=num_steps(cfg))
    try:
        with joint_outcome(folder):
            metrics, costs = _measure(cfg, prepared, folder)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{folder.path.name} does not fit on the device: {str(error).splitlines()[0]} Set a "
            "smaller runtime.device_microbatch_size or training.seq_len, "
            "runtime.activation_checkpointing=true, or share it among runtime.nproc_per_node."
        ) from error
    if is_rank_zero():
        metrics |= _of_ceilings(cfg.training.precision, metrics["flops_per_second"])
        write_record(benchmark_path(cfg), _record(cfg, metrics, costs))
        folder.write_status(TRAINED)


def _measure(
    cfg: RunConfig, prepared: Prepared, folder: RunFolder
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Metrics and costs of the steps.

    The trainer is that of a run one step longer, whose end it does not see: nothing is saved.
    """
    from lvf.benchmarking.clock import StepClock
    from lvf.benchmarking.collectives import CollectiveTime
    from lvf.benchmarking.compilation import CompileTime
    from lvf.models.counts import (
        attention_flops_per_pair,
        num_trainable_parameters,
        train_flops_per_token,
    )
    from lvf.models.load import load_model_config
    from lvf.training.exporter import Exporter
    from lvf.training.outcome import closing
    from lvf.training.stopping import StopRequest
    from lvf.training.trainer import make_trainer

    _give_memory_back()
    steps = num_steps(cfg)
    runtime = replace(cfg.runtime, checkpoint_every_batches=steps + 1)
    timed = replace(cfg, trunk=TrunkConfig(), measure_at=[], runtime=runtime)
    end = {steps + 1: cfg.duration}
    trainer = make_trainer(timed, prepared, folder, end, None, StopRequest())
    (exporter,) = (one for one in trainer.state.callbacks if isinstance(one, Exporter))
    clock, collectives, compiling = StepClock(), CollectiveTime(steps), CompileTime()
    several = cfg.runtime.world_size > 1
    asked = {collectives: several, compiling: runtime.compile, clock: True}
    trainer.state.callbacks += [callback for callback, is_asked in asked.items() if is_asked]
    with closing(trainer):
        trainer.fit(duration=f"{steps}ba")
        wrapped: Any = getattr(trainer.state.model, "module", trainer.state.model)
        costs = {
            "batch": steps,
            "tokens": trainer.state.timestamp.token.value,
            "peak_memory_bytes": exporter.peak_memory_bytes(trainer.state),
            "device_microbatch_size": trainer.state.device_train_microbatch_size,
            "activation_checkpointing": wrapped.recomputes,
        }
    shape, bench = load_model_config(cfg.model), cfg.bench
    assert bench.steps is not None
    flops = train_flops_per_token(shape, cfg.method), attention_flops_per_pair(shape)
    metrics = metrics_of(clock.steps, bench.warmup_steps, bench.steps, *flops)
    if several:
        metrics["communication_seconds"] = Metric(value=collectives.seconds)
    if runtime.compile:
        metrics["compile_seconds"] = compiling.metric()
    if costs["peak_memory_bytes"]:  # else the system does not tell
        metrics["peak_memory_gb"] = Metric(value=costs["peak_memory_bytes"] / 1e9)
    return metrics, costs | {"trainable_parameters": num_trainable_parameters(shape, cfg.method)}


def _give_memory_back() -> None:
    """Let no earlier model count for, or make room for, what is measured next."""
    import torch

    gc.collect()  # Composer's objects refer to each other
    torch.cuda.empty_cache()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _of_ceilings(precision: str, speed: Metric) -> dict[str, Metric]:
    """What the device can do, measured now that the model is gone, and the share that was used."""
    import torch

    from lvf.benchmarking.ceiling import datasheet_flops_per_second, product_flops_per_second

    _give_memory_back()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if precision == "amp_bf16" else torch.float32
    ceilings = {"product": product_flops_per_second(device, dtype)}
    if datasheet := datasheet_flops_per_second(precision):
        ceilings["datasheet"] = datasheet
    return utilisation(speed, ceilings)


def _record(cfg: RunConfig, metrics: dict[str, Metric], costs: dict[str, Any]) -> Record:
    import torch

    path = benchmark_path(cfg)
    return Record(
        source="lvf",
        run_id=path.parent.name,
        checkpoint=path.name.split("--")[0],
        task=TASK,
        axes=run_axes(cfg),
        metrics=metrics,
        settings=inputs_of(cfg) | {"threads": torch.get_num_threads()},
        training=costs,
        versions=versions_of(PACKAGES),
    )
