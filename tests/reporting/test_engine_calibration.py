"""The whole engine in simulated worlds of the main grid's design: three seeds, 500 items."""

import numpy as np
import pandas as pd
import pytest

from lvf.records.store import load
from lvf.reporting.claims.judge import FAILS, HOLDS, MIXED, judge
from lvf.reporting.select.selection import selected

from .worlds import grid

pytestmark = pytest.mark.slow  # some seconds a world
DEVIATION, ITEM_NOISE, EFFECT = 0.02, 0.0127, 0.05
"""Of seeds; of a setting over 500 items, which its seeds share; of full finetuning."""
DECIDED = (HOLDS, FAILS, MIXED)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Models and scores of the grid, whose numbers each world replaces."""
    scores = load(grid(tmp_path_factory.mktemp("grid"), lambda _: (0.5, 0.1), 1e-6))
    return selected(scores), scores


def world(models: pd.DataFrame, kind: str, seed: int) -> pd.DataFrame:
    """Nothing differs (`null`), LoRA learns and forgets less (`learn`), or the latter (`equal`).

    In `equal` full finetuning gains .5, so that the highest rank is .05 above 90 % of it.
    """
    rng = np.random.default_rng(seed)
    trained, full = models.method != "base", models.method == "full"
    length = models.groupby(["domain", "regime"]).duration.rank(method="dense").fillna(0)
    means = dict.fromkeys(("target", "retention", "nll_source", "nll_target"), 0.5 + 0 * length)
    if kind != "null":
        gain = trained * (0.35 + 0.05 * length) + (EFFECT * full if kind == "learn" else 0)
        loss = trained * (0.05 + 0.02 * length) + EFFECT * full
        means = {"target": 0.1 + gain, "nll_target": 1.6 - gain,
                 "retention": 0.85 - loss, "nll_source": 1 + loss}  # fmt: skip
    setting = pd.factorize(models.setting)[0]
    for name, mean in means.items():
        of_items = ITEM_NOISE * rng.normal(size=setting.max() + 1)[setting]
        of_seeds = DEVIATION * trained * rng.normal(size=len(models))
        columns = {name: mean + of_items + of_seeds, f"{name}_se": ITEM_NOISE}
        models = models.assign(**columns)
    return models


@pytest.mark.long
def test_nothing_is_decided_where_nothing_differs(
    template: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    models, scores = template
    decided = [
        any(one.verdict in DECIDED for one in judge(world(models, "null", seed), scores))
        for seed in range(4)
    ]
    assert sum(decided) <= 1  # at 5 % two of four are a chance of 1.4 %


@pytest.mark.parametrize(
    ("kind", "true"), [("learn", {"title a", "title b", "2a"}), ("equal", {"title b", "4", "6"})]
)
def test_the_primary_claims_that_are_true_are_found(
    template: tuple[pd.DataFrame, pd.DataFrame], kind: str, true: set[str]
) -> None:
    models, scores = template
    found = []
    for seed in range(2):
        verdicts = judge(world(models, kind, seed), scores)
        found += [one.verdict == HOLDS for one in verdicts if one.number in true]
    assert sum(found) >= 4  # of six; at 80 % each fewer are a chance of 10 %, at the true power 1 %
