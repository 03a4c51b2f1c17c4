"""Every claim of the main grid in worlds where it holds, where it does not, and in noise."""

from pathlib import Path

import pytest

from lvf.reporting.claims import forgetting as claims_forgetting
from lvf.reporting.claims import learning as claims_learning
from lvf.reporting.claims.claim import Claim
from lvf.reporting.claims.judge import CONTRADICTED, SUPPORTED, UNDECIDED, Verdict
from lvf.reporting.claims.rules import (
    code_needs_the_highest_rank,
    lora_for_ift_not_cpt,
    lora_needs_more_epochs,
)

from .worlds import BLUNT, Place, as_the_paper_says, grid, put, scores, told, where

MAIN: list[Claim] = [
    *claims_learning.CLAIMS, *claims_forgetting.CLAIMS,
    lora_for_ift_not_cpt, code_needs_the_highest_rank, lora_needs_more_epochs,
]  # fmt: skip
OTHER = {"full": "r2", "r2": "full", "r8": "r32", "r32": "r8"}


def other_methods(place: Place) -> tuple[float, float]:
    domain, regime, method, index = place
    return as_the_paper_says((domain, regime, OTHER[method], index))


def other_conditions(place: Place) -> tuple[float, float]:
    domain, regime, method, index = place
    swapped = "math" if domain == "code" else "code", "cpt" if regime == "ift" else "ift"
    return as_the_paper_says((*swapped, method, index))


def backwards(place: Place) -> tuple[float, float]:
    domain, regime, method, index = place
    return as_the_paper_says((domain, regime, method, 2 - index))


def weak_lora(place: Place) -> tuple[float, float]:
    target, loss = as_the_paper_says(place)
    return (target if place[2] == "full" else 0.1 + (target - 0.1) / 2), loss


def costly_full(place: Place) -> tuple[float, float]:
    target, loss = as_the_paper_says(place)
    return target, 2 * loss if place[2] == "full" else loss


REFUTED_IN = {
    other_methods: [
        "lora_learns_less", "lora_forgets_less", "lora_keeps_source_loss",
        "full_learns_more_in_cpt", "gap_grows_in_cpt", "highest_rank_leaves_a_gap_in_cpt",
        "rank_orders_learning", "full_peaks_highest_in_code_ift", "rank_orders_forgetting",
        "lora_trades_better_on_code", "full_breaks_away_in_math_cpt",
    ],
    other_conditions: [
        "ift_learns_more_than_cpt", "ift_forgets_more_than_cpt", "code_forgets_more_than_math",
        "math_cpt_forgets_least",
    ],
    backwards: ["forgetting_grows_with_duration", "lora_needs_more_epochs"],
    weak_lora: [
        "highest_rank_closes_code_ift", "middle_rank_closes_math_ift", "lora_for_ift_not_cpt",
        "code_needs_the_highest_rank",
    ],
    costly_full: ["full_trades_better_on_math_ift"],
}  # fmt: skip
WORLD_OF = {name: world for world, names in REFUTED_IN.items() for name in names}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Verdict]]:
    """Verdicts in every world, by the world's name."""
    found = {}
    for world in (as_the_paper_says, *REFUTED_IN):
        folder = grid(tmp_path_factory.mktemp("records"), world)
        wanted = [one for one in MAIN if WORLD_OF[one.name] is world]
        found[world.__name__] = told(folder, *(wanted or MAIN))
    folder = grid(tmp_path_factory.mktemp("records"), as_the_paper_says, BLUNT)
    return found | {"noise": told(folder, *MAIN)}


@pytest.mark.parametrize("name", [one.name for one in MAIN])
def test_a_claim_is_supported_contradicted_or_undecided_as_the_records_are(
    verdicts: dict[str, dict[str, Verdict]], name: str
) -> None:
    holds = verdicts["as_the_paper_says"][name]
    assert holds.verdict == SUPPORTED, holds
    assert holds.low is not None and holds.low > 0 and holds.p is not None and holds.p < 0.05
    fails = verdicts[WORLD_OF[name].__name__][name]
    assert fails.verdict == CONTRADICTED, fails
    assert fails.effect is not None and fails.effect < 0
    assert verdicts["noise"][name].verdict == UNDECIDED
    assert len(holds.records) == len(set(holds.records)) > 0


def test_effects_are_those_worked_out_by_hand(verdicts: dict[str, dict[str, Verdict]]) -> None:
    paper = verdicts["as_the_paper_says"]
    # maths: IFT at 8 epochs minus CPT at 4e5 tokens, mean over full, r32, r8 and r2
    parts = {part.name: part.value for part in paper["ift_learns_more_than_cpt"].comparisons}
    maths = (0.55 + 0.59 + 0.57 + 0.40 - 0.40 - 0.25 - 0.20 - 0.15) / 4
    assert parts["math"] == pytest.approx(maths)
    # code: gaps of full to r=32 are .02, .08, .15 at one, two and four times the tokens
    parts = {part.name: part.value for part in paper["gap_grows_in_cpt"].comparisons}
    assert parts["code, LoRA r=32"] == pytest.approx((0.15 - 0.02) / 2)
    closes = paper["highest_rank_closes_code_ift"]
    assert closes.effect == pytest.approx(0.49 - 0.9 * 0.5)
    error = 0.001 * (1 + 0.9**2 + 0.1**2) ** 0.5
    assert closes.low == pytest.approx(0.04 - 1.959964 * error)
    epochs = paper["lora_needs_more_epochs"]
    assert epochs.effect == 2.0  # best at 8 epochs against 2


def test_what_rests_on_single_runs_says_so(tmp_path: Path) -> None:
    for seed in (0, 1):
        for method, target in (("full", 0.5), ("r8", 0.3)):
            put(tmp_path, where("math", "ift", method, 1.0, seed=seed), scores("math", target, 0.1))
        one = told(tmp_path, claims_learning.lora_learns_less)["lora_learns_less"]
        assert one.reason.endswith("no seed noise") == (seed == 0)
        assert one.comparisons[0].seeds == seed + 1


def test_without_records_a_claim_is_undecided_and_says_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path, where("math", "ift", "full", 1.0), scores("math", 0.5, 0.1))
    for one in told(tmp_path, *MAIN).values():
        assert one.verdict == UNDECIDED and one.effect is None and one.p is None
        assert one.reason.startswith("no records of ")
