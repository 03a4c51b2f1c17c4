"""Killed at any moment and started again, a run ends with the weights of an undisturbed one."""

import random
from typing import Any

import pytest

from benchmarks.kill_storm import same_weights, storm
from lvf.data.shards import prepare
from lvf.runs.run_folder import run_folder
from tests.training.conftest import trained_on_ranks


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(("method", "ranks"), [("lora", 1), ("full", 2)])
def test_three_kills_of_the_whole_process_group_change_nothing(
    composed: Any, tmp_path: Any, method: str, ranks: int
) -> None:
    settings = [f"method={method}", f"runtime.nproc_per_node={ranks}", "duration=6"]
    settings.append("runtime.checkpoint_every_batches=3")
    calm = trained_on_ranks(composed(*settings, f"paths.runs={tmp_path}/calm"))
    stormy = composed(*settings)
    met = storm(stormy, prepare(stormy), 3, random.Random(ranks))
    assert met.save >= 1
    assert same_weights(calm, run_folder(stormy))
