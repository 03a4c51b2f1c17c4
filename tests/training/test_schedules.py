"""Learning rates against the closed forms of the paper's schedulers."""

import math
from dataclasses import replace

import pytest
import torch
from composer.core import State, Timestamp
from composer.devices import DeviceCPU

from lvf.config.compose import compose
from lvf.config.schema import ScheduleConfig
from lvf.training.schedules import make_scheduler, trapezoid


def foundry_inv_sqrt(t: int, t_max: int, t_warmup: int, t_cooldown: int, alpha_f: float) -> float:
    """llm-foundry's definition as PAPER facts, section 1.3, gives it, with alpha_f_decay = 1."""
    t_scale, alpha_f_decay = 1000, 1.0

    def before_cooldown(time: int) -> float:
        if time < t_warmup:
            return time / t_warmup
        return alpha_f_decay + (1 - alpha_f_decay) / math.sqrt(
            (time - t_warmup + t_scale) / t_scale
        )

    start = max(t_warmup, t_max - t_cooldown)
    if t < start:
        return before_cooldown(t)
    top = before_cooldown(start)
    return top + (alpha_f - top) * (t - start) / (t_max - start)


@pytest.mark.parametrize(("t_max", "warmup", "cooldown"), [(100, 10, 20), (60, 50, 12), (40, 0, 8)])
def test_the_trapezoid_follows_llm_foundry_at_every_batch(
    t_max: int, warmup: int, cooldown: int
) -> None:
    for t in range(t_max):
        expected = foundry_inv_sqrt(t, t_max, warmup, cooldown, 0.1)
        assert trapezoid(t, t_max, warmup, cooldown, 0.1, True) == pytest.approx(expected)


# The paper's 0.25 B tokens: 318 batches of a warm-up of 1000, the last 64 of them the cooldown
# (PAPER facts, section 1.4).
def test_by_llm_foundrys_rule_a_run_within_its_warmup_never_cools_down() -> None:
    rates = [trapezoid(t, 318, 1000, 64, 0.0, True) for t in range(318)]
    assert rates == pytest.approx([t / 1000 for t in range(318)])


def test_a_run_within_its_warmup_cools_down_from_the_rate_that_it_has_reached() -> None:
    rates = [trapezoid(t, 318, 1000, 64, 0.0, False) for t in range(319)]
    assert rates[:255] == pytest.approx([t / 1000 for t in range(255)])
    assert rates[254:] == pytest.approx([0.254 * (318 - t) / 64 for t in range(254, 319)])


@pytest.mark.parametrize("batch", [0, 50, 99, 100])
def test_a_schedule_without_warmup_and_cooldown_is_constant(batch: int) -> None:
    assert trapezoid(batch, 100, 0, 0, 1.0, False) == 1.0


def test_the_end_of_a_run_is_the_final_ratio() -> None:
    assert trapezoid(100, 100, 10, 20, 0.25, False) == 0.25


@pytest.mark.parametrize(("warmup", "expected"), [(0.1, 20), (0.0, 0), (1000, 1000), (1, 1)])
def test_a_warmup_below_one_is_a_share_of_the_run(warmup: float, expected: int) -> None:
    schedule = ScheduleConfig(kind="cosine", warmup=warmup, final_lr_ratio=0.0)
    assert schedule.warmup_batches(200) == expected


def composer_cosine(t: int, t_max: int, t_warmup: int, alpha_f: float) -> float:
    """Composer's definition as PAPER facts, section 1.3, gives it."""
    if t < t_warmup:
        return t / t_warmup
    share = (t - t_warmup) / (t_max - t_warmup)
    return alpha_f + (1 - alpha_f) * 0.5 * (1 + math.cos(math.pi * share))


@pytest.fixture(scope="module")
def state() -> State:
    return State(
        model=torch.nn.Linear(1, 1),
        rank_zero_seed=0,
        run_name="schedule",
        device=DeviceCPU(),
        max_duration="200ba",
    )


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("code_ift", [composer_cosine(t, 200, 20, 0.01) for t in range(200)]),
        ("math_cpt", [foundry_inv_sqrt(t, 200, 50, 40, 0.0) for t in range(200)]),
        ("without_regret", [1.0] * 200),
    ],
)
def test_a_run_gets_the_closed_form_of_its_experiment_at_every_batch(
    state: State, experiment: str, expected: list[float]
) -> None:
    schedule = compose(f"+experiment={experiment}", "scale=paper").schedule
    if experiment.endswith("cpt"):
        schedule = replace(schedule, warmup=50)  # the paper's 1000 are for its longer runs
    scheduler = make_scheduler(schedule, 200)
    found = []
    for batch in range(200):
        state.timestamp = Timestamp(batch=batch)
        found.append(scheduler(state))
    assert found == pytest.approx(expected)
