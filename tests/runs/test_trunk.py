"""Budgets of continued pre-training branch off one trunk: the paper's table, and exactly."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.kill_storm import same_weights
from lvf.config.compose import compose
from lvf.config.schema import RunConfig
from lvf.data.recipe import num_token_batches
from lvf.errors import UserError
from lvf.runs.run_folder import run_folder
from lvf.runs.run_id import run_id
from lvf.runs.trunk import branch_batch, kept_batches, trunk_of
from lvf.train import run
from lvf.training.schedules import trapezoid
from tests.training.conftest import trained_on_ranks

# PAPER facts, section 1.4, typed from the table: budget, batches, cooldown, branch point.
PAPER_BRANCHES = [
    (0.25e9, 318, 64, 254),
    (0.5e9, 636, 127, 509),
    (1e9, 1272, 254, 1017),
    (2e9, 2543, 509, 2034),
    (4e9, 5086, 1017, 4069),
    (8e9, 10173, 2035, 8138),
    (16e9, 20345, 4069, 16276),
    (20e9, 25431, 5086, 20345),
]
CPT = ("+experiment=math_cpt", "scale=paper")


@pytest.mark.parametrize(("budget", "batches", "cooldown", "branch"), PAPER_BRANCHES)
def test_batches_cooldowns_and_branch_points_are_those_of_the_paper(
    budget: float, batches: int, cooldown: int, branch: int
) -> None:
    cfg = compose(*CPT, f"duration={budget}")
    assert num_token_batches(cfg, budget) == batches
    assert cfg.schedule.cooldown_batches(batches) == cooldown
    assert branch_batch(cfg, budget) == branch


def test_the_trunk_keeps_a_checkpoint_for_each_smaller_budget() -> None:
    assert kept_batches(compose(*CPT)) == [row[3] for row in PAPER_BRANCHES[:-1]]
    assert kept_batches(compose(*CPT, "duration=4e9")) == []
    assert kept_batches(compose("+experiment=math_ift", "scale=paper")) == []


@pytest.mark.parametrize(("budget", "batches", "cooldown", "branch"), PAPER_BRANCHES[:-1])
def test_a_branch_has_had_the_rates_of_its_trunk(
    budget: float, batches: int, cooldown: int, branch: int
) -> None:
    schedule = compose(*CPT).schedule
    warmup = schedule.warmup_batches(batches)
    for batch in {0, 1, branch // 2, branch - 1}:
        in_trunk = trapezoid(batch, 25431, warmup, 5086, 0.0, False)
        assert trapezoid(batch, batches, warmup, cooldown, 0.0, False) == in_trunk


def test_every_budget_of_an_experiment_has_one_trunk() -> None:
    trunk = compose(*CPT)
    assert trunk_of(trunk) is None
    for budget in trunk.trunk.budgets:
        found = trunk_of(compose(*CPT, f"duration={budget}"))
        assert found is not None and run_id(found) == run_id(trunk)
    more = compose(*CPT, "trunk.budgets=[3e9]")
    assert run_id(more) == run_id(trunk)
    assert run_id(compose(*CPT, "trunk.branch=false")) != run_id(trunk)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["duration=21e9"], "must not exceed trunk.tokens=2e"),
        (["trunk.budgets=[30e9]"], "must not exceed"),
        (["schedule=cosine"], "schedule=trapezoid"),
    ],
)
def test_a_trunk_that_cannot_be_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        compose(*CPT, *overrides)


# A trunk of 24 batches, and branches of 6 (within the warm-up) and of 12.
BATCH_TOKENS = 8 * 256
BUDGETS = [6 * BATCH_TOKENS, 12 * BATCH_TOKENS]


@pytest.fixture
def composed(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    shards = tmp_path_factory.getbasetemp() / "branch-shards"

    def make(*overrides: str) -> RunConfig:
        return compose(
            "+experiment=math_cpt",
            "data.max_documents=200",
            f"trunk.tokens={24 * BATCH_TOKENS}",
            f"trunk.budgets={BUDGETS}",
            "schedule.warmup=7",
            "runtime.checkpoint_every_batches=5",
            f"paths.runs={tmp_path}/runs",
            f"paths.shards={shards}",
            *overrides,
        )

    return make


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(("method", "ranks"), [("full", 1), ("lora", 1), ("full", 2)])
def test_a_branch_ends_with_the_weights_of_a_run_of_its_own(
    composed: Any, method: str, ranks: int
) -> None:
    settings = (f"method={method}", f"runtime.nproc_per_node={ranks}")
    trunk = trained_on_ranks(composed(*settings))
    kept = {path.name for path in trunk.checkpoints.iterdir()}
    assert kept == {"ba0000005", "ba0000010", "ba0000020", "ba0000024"}
    for budget, point in zip(BUDGETS, (5, 10), strict=True):
        branch = trained_on_ranks(composed(*settings, f"duration={budget}"))
        assert f"branched at batch {point} from {trunk.path}" in branch.status()["started_from"]
        alone = composed(*settings, f"duration={budget}", "trunk.branch=false")
        assert trained_on_ranks(alone).status()["started_from"] == "fresh"
        assert same_weights(run_folder(alone), branch)


def test_a_branch_without_its_trunk_is_refused_before_any_data_are_made(
    composed: Any, tmp_path: Path
) -> None:
    cfg = composed(f"duration={BUDGETS[0]}", f"paths.shards={tmp_path}/none")
    with pytest.raises(UserError, match=r"Train the trunk first:\n  python -m lvf.train .*=49152"):
        run(cfg)
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file.name == "refused.json"
    refusal = run_folder(cfg).refusal()
    assert refusal is not None and "Train the trunk first" in refusal["refused"]


def test_a_budget_that_the_trunk_does_not_keep_is_refused_with_those_it_keeps(
    composed: Any,
) -> None:
    with pytest.raises(UserError, match=r"no checkpoint for it: trunk.budgets=\[12288.0, 24576"):
        run(composed(f"duration={8 * BATCH_TOKENS}"))
