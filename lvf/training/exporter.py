"""Exports at the moments a run asks for, readable by plain transformers and peft."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from lvf.config.schema import IGNORED_LABEL
from lvf.models.joined_adapter import join_adapter
from lvf.models.pissa import to_plain_lora
from lvf.runs.run_folder import RunFolder, is_rank_zero, write_json
from lvf.training.divergence import DivergedError
from lvf.training.memory import PeakMemory

if TYPE_CHECKING:
    from torch import Tensor


class Exporter(Callback):
    """Write the model after each of `batches`, with what it cost so far.

    Full finetuning gives a Hugging Face folder (safetensors), LoRA a PEFT adapter; both carry the
    tokenizer and `export.json`. A folder appears under its name only when it is whole. With several
    ranks, rank 0 gathers and writes. `merged_adapter` is that of the first of two runs, which is in
    the base.
    """

    def __init__(
        self,
        folder: RunFolder,
        batches: dict[int, float],
        flops_per_token: int,
        memory: PeakMemory,
        on_export: Callable[[float], None] | None,
        merged_adapter: Path | None = None,
    ) -> None:
        self.folder = folder
        self.batches = batches
        self.flops_per_token = flops_per_token
        self.memory = memory
        self.on_export = on_export
        self.merged_adapter = merged_adapter
        self._earlier_peak_bytes = 0
        self.loss_tokens = 0
        self.seconds = 0.0
        self._batch_started = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Counters that a resumed run continues from."""
        return {
            "loss_tokens": self.loss_tokens,
            "seconds": self.seconds,
            "peak_memory_bytes": self._own_peak_bytes(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the counters of the checkpoint."""
        self.loss_tokens, self.seconds = state["loss_tokens"], state["seconds"]
        self._earlier_peak_bytes = state["peak_memory_bytes"]

    def _own_peak_bytes(self) -> int:
        """Of this rank, in all lives of the run."""
        return max(self._earlier_peak_bytes, self.memory.bytes())

    def peak_memory_bytes(self, state: State) -> int:
        """Of the device that used most; every rank calls this."""
        peak_bytes = state.device.tensor_to_device(torch.tensor(self._own_peak_bytes()))
        dist.all_reduce(peak_bytes, reduce_operation="MAX")
        return int(peak_bytes)

    def batch_start(self, state: State, logger: Logger) -> None:
        """Start the clock of a step."""
        self._batch_started = time.perf_counter()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Count, and export if this batch is one of those asked for."""
        # Composer leaves `state.batch` on the CPU, where NCCL reduces nothing.
        loss_tokens = (state.batch["labels"][:, 1:] != IGNORED_LABEL).sum()
        loss_tokens = state.device.tensor_to_device(loss_tokens)
        dist.all_reduce(loss_tokens, reduce_operation="SUM")
        self.loss_tokens += int(loss_tokens)
        self.seconds += time.perf_counter() - self._batch_started
        batch = state.timestamp.batch.value
        if batch in self.batches:
            peak_bytes = self.peak_memory_bytes(state)
            weights = _gathered(state)  # every rank takes part
            if is_rank_zero():
                if not self.folder.export(batch).exists():
                    self._export(state, weights, batch, peak_bytes)
                # After a kill just here, the batch and this come again.
                if self.on_export:
                    self.on_export(self.batches[batch])

    def _export(
        self, state: State, weights: dict[str, Tensor], batch: int, peak_bytes: int
    ) -> None:
        broken = [name for name, weight in weights.items() if not weight.isfinite().all()]
        if broken:
            raise DivergedError(f"{broken[0]} is not finite after batch {batch}")
        last = max(self.batches)
        facts = {
            "batch": batch,
            "duration": self.batches[batch],
            "cooled_down": batch == last,
            "tokens": state.timestamp.token.value,
            "loss_tokens": self.loss_tokens,
            "train_flops": state.timestamp.token.value * self.flops_per_token,
            "train_seconds": round(self.seconds, 3),
            "peak_memory_bytes": peak_bytes,
        }
        wrapped: Any = getattr(state.model, "module", state.model)  # DDP's, where there is one
        target = self.folder.export(batch)
        write_export(wrapped.model, weights, wrapped.tokenizer, target, facts, self.merged_adapter)


def _gathered(state: State) -> dict[str, Tensor]:
    """What is trained, whole, under the names of transformers or PEFT; empty but on rank 0."""
    weights = state.get_model_state_dict()
    return {name.removeprefix("model."): weight for name, weight in weights.items()}


def drop_unused_sampling(model: Any) -> None:
    """Keep of generation settings that transformers refuses to save only the special tokens.

    Such are a temperature without `do_sample`, which some checkpoints have and `generate` ignores.
    """
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return
    try:
        settings.validate(strict=True)
    except ValueError:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        kept = {name: getattr(settings, name) for name in names}
        model.generation_config = type(settings)(**kept)


def write_export(
    model: Any,
    weights: dict[str, Tensor],
    tokenizer: Any,
    target: Path,
    facts: dict[str, Any],
    merged_adapter: Path | None = None,
) -> None:
    """Save a transformers or PEFT model, its tokenizer and facts; whole or not at all.

    An adapter that was trained on a base with `merged_adapter` in it is saved as both together.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    drop_unused_sampling(model)
    model.save_pretrained(temporary, state_dict=weights, safe_serialization=True)
    to_plain_lora(model, temporary)
    if merged_adapter:
        join_adapter(temporary, merged_adapter)
    tokenizer.save_pretrained(temporary)
    write_json(temporary / "export.json", facts)
    temporary.rename(target)
