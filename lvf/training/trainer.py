"""Composer's trainer, set up for a run: model, optimiser, schedule, checkpoints, exports."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra.utils
from omegaconf import OmegaConf

from lvf.config.schema import IGNORED_LABEL, RunConfig
from lvf.data.loader import make_loader, total_batches
from lvf.data.shards import Prepared
from lvf.errors import UserError
from lvf.models.counts import train_flops_per_token
from lvf.runs.checkpoints import batch_of, newest_complete, refuse_code, state_file
from lvf.runs.run_folder import (
    RUNNING,
    TRAINED,
    RunFolder,
    is_rank_zero,
    run_folder,
)
from lvf.runs.run_id import run_id
from lvf.runs.sequence import first_export, merged_adapter
from lvf.runs.trunk import branch_point, kept_batches, trunk_of
from lvf.training.outcome import (
    COLLECTIVE_TIMEOUT_SECONDS,
    closing,
    joint_outcome,
    on_rank_zero,
)
from lvf.training.parameter_groups import parameter_groups
from lvf.training.schedules import make_scheduler
from lvf.training.stopping import StopRequest
from lvf.training.trackers import make_loggers

# It keeps the error of an optional import, and with it every frame that led to its first import.
# Composer's Trainer would import it, and with its frame the model would stay in memory.
with suppress(ImportError):  # Composer runs without it
    import paramiko  # noqa: F401

if TYPE_CHECKING:
    from composer import Trainer
    from composer.core import Callback, DataSpec
    from composer.devices import Device
    from torch.optim import Optimizer

    from lvf.training.memory import PeakMemory
    from lvf.training.packed_model import PackedModel

SPEED_BATCHES = 10
"""Batches over which the logged throughput is averaged."""


def train(
    cfg: RunConfig,
    prepared: Prepared,
    folder: RunFolder,
    on_export: Callable[[float], None] | None = None,
) -> None:
    """Train a run to its end, from its newest checkpoint where there is one.

    Exports stand in `folder.exports` afterwards. A run that diverged is marked so and has no final
    export. With several ranks, each of them calls this. Rank 0 calls `on_export` with the duration
    of each export that it has written.

    Raises:
        UserError: the run diverged, or the disk is full.
        SystemExit: a signal stopped it (status `TRY_AGAIN`); the same command continues it.
    """
    import composer  # noqa: F401  it has a handler of signals of its own

    began = time.perf_counter()
    with StopRequest() as stop, joint_outcome(folder):
        batches = export_batches(cfg, prepared)
        checkpoint, started_from = on_rank_zero(lambda: start_of(cfg, folder))
        if is_rank_zero():
            print(
                f"training {folder.path.name}: {started_from}, {max(batches)} batches", flush=True
            )
            folder.write_status(
                RUNNING,
                error=None,
                started_from=started_from,
                total_batches=max(batches),
                shards=prepared.folder.name,
            )
        trainer = make_trainer(cfg, prepared, folder, batches, checkpoint, stop, on_export)
        with closing(trainer):
            # Without a fit, it was killed between its last checkpoint and its last status.
            if trainer.state.timestamp.batch.value < max(batches):
                trainer.fit()
    if is_rank_zero():
        folder.write_status(TRAINED, fit_seconds=round(time.perf_counter() - began, 1))


def start_of(cfg: RunConfig, folder: RunFolder) -> tuple[Path | None, str]:
    """Checkpoint from which a run starts, and how to say so.

    Raises:
        UserError: no own checkpoint is whole, the trunk's or the first run's export is missing, or
            a checkpoint would run code.
    """
    if own := newest_complete(folder.checkpoints):
        refuse_code(own)
        return own, f"resumed at batch {batch_of(own)} from {own}"
    if point := branch_point(cfg):
        refuse_code(point)
        return point, f"branched at batch {batch_of(point)} from {point}"
    if export := first_export(cfg):
        return None, f"fresh from {export}"
    return None, "fresh"


def check_same_shards(cfg: RunConfig, prepared: Prepared, folder: RunFolder) -> None:
    """Refuse to go on with other data than the run, or its trunk, began with.

    Raises:
        UserError: names what they were and what they are.
    """
    trunk = trunk_of(cfg)
    for earlier in [folder, *([run_folder(trunk)] if trunk else [])]:
        before = earlier.status().get("shards", prepared.folder.name)
        if before != prepared.folder.name:
            raise UserError(
                f"{earlier.path} was trained on {before}, but its data now give "
                f"{prepared.folder.name}: the corpus has changed. Bring it back, or move that "
                "folder away."
            )


def export_batches(cfg: RunConfig, prepared: Prepared) -> dict[int, float]:
    """Batch after which each moment of `measure_at`, a stop and the end is exported."""
    stop = [] if cfg.runtime.stop_at is None else [cfg.runtime.stop_at]
    moments = [*stop, *cfg.measure_at, cfg.duration]
    return {total_batches(prepared, cfg, moment): moment for moment in moments}


def make_trainer(
    cfg: RunConfig,
    prepared: Prepared,
    folder: RunFolder,
    batches: dict[int, float],
    checkpoint: Path | None,
    stop: StopRequest,
    on_export: Callable[[float], None] | None = None,
) -> Trainer:
    """Everything a run needs, in Composer's terms, in the state of `checkpoint`."""
    import torch
    from composer import Trainer
    from composer.devices import DeviceCPU, DeviceGPU
    from composer.utils import reproducibility

    from lvf.training.build_model import make_model
    from lvf.training.memory import PeakMemory
    from lvf.training.microbatch import choose_microbatch
    from lvf.training.resume import RestoreRandomState
    from lvf.training.sharded_checkpoint import load_sharded, sharded_folder

    # Batches differ in length, which leaves holes between fixed segments of memory.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # Products of fp32 are of fp32: Composer would let Ampere and later GPUs round their factors to
    # TF32, with bf16 those few that autocast leaves in fp32.
    device = DeviceGPU(allow_tf32=False) if torch.cuda.is_available() else DeviceCPU()
    reproducibility.seed_all(cfg.seed)  # LoRA's A is drawn when the model is made
    memory = PeakMemory()
    model = make_model(cfg)
    end = max(batches)
    flops = train_flops_per_token(model.config, cfg.method)
    plan = choose_microbatch(cfg, model)
    spread_out(model, cfg, plan.activation_checkpointing, device)
    with _plainly_named(checkpoint) as load_path:
        trainer = Trainer(
            model=model,
            train_dataloader=make_data_spec(cfg, prepared),
            optimizers=make_optimizer(cfg, model),
            schedulers=make_scheduler(cfg.schedule, end),
            algorithms=make_algorithms(cfg),
            callbacks=make_callbacks(cfg, folder, batches, flops, memory, stop, on_export),
            loggers=make_loggers(cfg, folder),
            max_duration=f"{end}ba",
            device_train_microbatch_size=plan.device_microbatch_size,
            accumulate_train_batch_on_tokens=cfg.training.average_loss_over == "tokens",
            precision="fp32",  # the model itself computes in bf16 if it is to
            device=device,
            dist_timeout=COLLECTIVE_TIMEOUT_SECONDS,
            seed=cfg.seed,
            run_name=folder.path.name,
            load_path=load_path,
            load_strict_model_weights=cfg.method.kind == "full",  # LoRA checkpoints hold no base
            auto_log_hparams=False,
            progress_bar=False,
        )
    if checkpoint and sharded_folder(checkpoint).exists():
        load_sharded(trainer.state, checkpoint)
    trainer.state.callbacks.append(RestoreRandomState(trainer))
    return trainer


@contextmanager
def _plainly_named(checkpoint: Path | None) -> Iterator[str | None]:
    """A link to a checkpoint's state: Composer fills in braces of `load_path`, once or twice."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "state.pt"
        if checkpoint:
            link.symlink_to(state_file(checkpoint).resolve())
        yield str(link) if checkpoint else None


def make_callbacks(
    cfg: RunConfig,
    folder: RunFolder,
    batches: dict[int, float],
    flops_per_token: int,
    memory: PeakMemory,
    stop: StopRequest,
    on_export: Callable[[float], None] | None,
) -> list[Callback]:
    """What watches, writes and stops a run; at the end of a batch they act in this order."""
    import torch
    from composer.callbacks import LRMonitor, MemoryMonitor, SpeedMonitor

    from lvf.training.checkpointer import Checkpointer
    from lvf.training.divergence import Divergence
    from lvf.training.exporter import Exporter
    from lvf.training.progress import Progress
    from lvf.training.sharding import (
        AverageAdapterGradients,
        AverageShardedGradients,
        uses_fsdp,
    )

    end = max(batches)
    runtime = cfg.runtime
    callbacks: list[Callback] = [
        Divergence(runtime.divergence_factor),
        Exporter(folder, batches, flops_per_token, memory, on_export, merged_adapter(cfg)),
        Progress(folder, end),
        LRMonitor(),
        SpeedMonitor(window_size=SPEED_BATCHES, time_unit="seconds"),
        *([MemoryMonitor()] if torch.cuda.is_available() else []),
        Checkpointer(
            folder.checkpoints,
            every=runtime.checkpoint_every_batches,
            keep=runtime.keep_checkpoints,
            end=end,
            kept=kept_batches(cfg),
            stop=stop,
            stop_batch=next((b for b, at in batches.items() if at == runtime.stop_at), None),
        ),
    ]
    if uses_fsdp(cfg):
        lora = cfg.method.kind == "lora"
        callbacks.append(AverageAdapterGradients() if lora else AverageShardedGradients())
    return callbacks


def spread_out(model: PackedModel, cfg: RunConfig, recompute: bool, device: Device) -> None:
    """What is around each decoder layer: activation checkpointing, the compiler, the shards.

    Every rank calls this, and gets rank 0's weights.
    """
    from lvf.training.sharding import shard, uses_fsdp
    from lvf.training.shared_weights import check_same_structure, receive

    several = cfg.runtime.world_size > 1
    if several:
        check_same_structure(model)

    if cfg.runtime.compile:  # before sharding, which replaces the layers' classes
        from lvf.models.compiled import compile_layers

        compile_layers(model.model)
    if recompute:
        from lvf.models.layers import recompute_layers

        recompute_layers(model.model)
        model.recomputes = True
    if uses_fsdp(cfg):
        shard(model, cfg, device)
    elif several:
        receive(model, device)


def make_data_spec(cfg: RunConfig, prepared: Prepared) -> DataSpec:
    """Loader with its token counts: all of them for cost, those in the loss for averaging."""
    from composer.core import DataSpec

    def count_tokens(batch: dict[str, Any]) -> dict[str, int]:
        predicted = int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())
        return {"total": int(batch["num_tokens"].sum()), "loss_generating": predicted}

    loader = make_loader(prepared, cfg, run_id(cfg))
    return DataSpec(loader, get_num_tokens_in_batch=count_tokens)


def make_optimizer(cfg: RunConfig, model: PackedModel) -> Optimizer:
    """The configured optimiser over what the method trains.

    Raises:
        UserError: the optimiser does not take the arguments of `conf/optimizer`.
    """
    return _instantiate_optimizer(cfg, parameter_groups(model, cfg.method, cfg.training.lr_peak))


def check_optimizer(cfg: RunConfig) -> None:
    """Make the configured optimiser over a single number, to see whether its arguments fit.

    Raises:
        UserError: they do not.
    """
    import torch

    _instantiate_optimizer(cfg, [torch.nn.Parameter(torch.zeros(1))])


def _instantiate_optimizer(cfg: RunConfig, parameters: list[Any]) -> Optimizer:
    from torch.optim import Optimizer

    try:
        made = hydra.utils.instantiate(
            OmegaConf.create(cfg.optimizer), parameters, lr=cfg.training.lr_peak, _convert_="all"
        )
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(f"optimizer={cfg.optimizer}: {cause}") from error
    if not isinstance(made, Optimizer):
        raise UserError(f"optimizer={cfg.optimizer} makes no torch.optim.Optimizer")
    return made


def make_algorithms(cfg: RunConfig) -> list[Any]:
    """Clipping of the gradient's norm (paper App. A: 1.0)."""
    from composer.algorithms import GradientClipping

    return [GradientClipping(clipping_type="norm", clipping_threshold=cfg.training.grad_clip_norm)]
