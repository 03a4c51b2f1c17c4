"""Learning rates over a run, as Composer schedulers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lvf.config import ScheduleConfig

if TYPE_CHECKING:
    from composer.core import State
    from composer.optim import ComposerScheduler


def warmup_batches(schedule: ScheduleConfig, total_batches: int) -> int:
    """Length of the warm-up: a share of the run below 1, else a number of batches."""
    if schedule.warmup < 1:
        return int(schedule.warmup * total_batches)
    return int(schedule.warmup)


def trapezoid(
    batch: int, total_batches: int, warmup: int, cooldown: int, final_lr_ratio: float
) -> float:
    """Multiplier of the peak rate: linear warm-up, constant, linear cooldown.

    llm-foundry's inv_sqrt_with_warmup with alpha_f_decay = 1, which the paper's CPT runs used
    (App. A): the cooldown starts at max(warmup, total - cooldown), so a run shorter than its
    warm-up never reaches the peak.
    """
    if batch < warmup:
        return batch / warmup
    cooldown_start = max(warmup, total_batches - cooldown)
    if batch < cooldown_start:
        return 1.0
    if batch >= total_batches:
        return final_lr_ratio
    share = (batch - cooldown_start) / (total_batches - cooldown_start)
    return 1.0 + share * (final_lr_ratio - 1.0)


def make_scheduler(schedule: ScheduleConfig, total_batches: int) -> ComposerScheduler:
    """Composer's cosine with warm-up, or the trapezoid above, over a run of `total_batches`."""
    from composer.optim import CosineAnnealingWithWarmupScheduler

    warmup = warmup_batches(schedule, total_batches)
    if schedule.kind == "cosine":
        return CosineAnnealingWithWarmupScheduler(
            t_warmup=f"{warmup}ba", alpha_f=schedule.final_lr_ratio
        )
    cooldown = round(schedule.cooldown * total_batches)

    def multiplier(state: State, ssr: float = 1.0) -> float:
        batch = state.timestamp.batch.value
        return trapezoid(batch, total_batches, warmup, cooldown, schedule.final_lr_ratio)

    return multiplier
