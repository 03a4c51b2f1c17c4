"""Learning rates over a run, as Composer schedulers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lvf.config.schema import ScheduleConfig

if TYPE_CHECKING:
    from composer.core import State
    from composer.optim import ComposerScheduler


def trapezoid(
    batch: int, total_batches: int, warmup: int, cooldown: int, final_lr_ratio: float, wait: bool
) -> float:
    """Multiplier of the peak rate: linear warm-up, constant, linear cooldown to the final ratio.

    llm-foundry's inv_sqrt_with_warmup with alpha_f_decay = 1, which the paper's CPT runs used
    (App. A). A run that ends within its warm-up, as the paper's smallest budgets do, cools down
    from the rate that it has reached; with `wait` it never does, which is llm-foundry's rule: the
    cooldown starts at max(warmup, total - cooldown).
    """
    start = total_batches - cooldown
    if wait:
        start = max(warmup, start)
    if batch < min(warmup, start):
        return batch / warmup
    top = min(1.0, start / warmup) if warmup else 1.0
    if batch < start:
        return top
    if batch >= total_batches:
        return final_lr_ratio
    return top + (batch - start) / (total_batches - start) * (final_lr_ratio - top)


def make_scheduler(schedule: ScheduleConfig, total_batches: int) -> ComposerScheduler:
    """Composer's cosine with warm-up, or the trapezoid above, over a run of `total_batches`."""
    from composer.optim import CosineAnnealingWithWarmupScheduler

    warmup = schedule.warmup_batches(total_batches)
    if schedule.kind == "cosine":
        return CosineAnnealingWithWarmupScheduler(
            t_warmup=f"{warmup}ba", alpha_f=schedule.final_lr_ratio
        )
    cooldown = schedule.cooldown_batches(total_batches)

    def multiplier(state: State, ssr: float = 1.0) -> float:
        batch, wait = state.timestamp.batch.value, not schedule.cooldown_within_warmup
        return trapezoid(batch, total_batches, warmup, cooldown, schedule.final_lr_ratio, wait)

    return multiplier
