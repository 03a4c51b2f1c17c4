"""What lvf foresees of a step on 32 ranks, and the same step with tensors that have no content."""

import pytest

from benchmarks.fake_step import METHODS, RANKS, Measured, measure
from lvf.config.compose import compose
from lvf.training.microbatch import MicrobatchPlan

SHAPE = (
    "model.random_weights=true", "model.shape.hidden_size=1024",
    "model.shape.intermediate_size=2816", "model.shape.num_hidden_layers=8",
    "model.shape.num_attention_heads=8", "model.shape.num_key_value_heads=4",
    "training.seq_len=1024",
)  # fmt: skip
SHARDED_BASE = ("runtime.fsdp_base=true",)


def step(method: str, *words: str, recompute: bool = False) -> Measured:
    cfg = compose("+experiment=code_cpt", "scale=paper", *RANKS, *SHAPE, *METHODS[method], *words)
    return measure(cfg, MicrobatchPlan(6, recompute))


CASES = [
    ("full", ()),
    ("LoRA r = 16", ()),
    ("LoRA r = 256", ()),
    ("LoRA r = 16", SHARDED_BASE),
    ("LoRA r = 256", SHARDED_BASE),
]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("method, words", CASES)
def test_a_step_holds_what_was_foreseen_within_a_tenth(
    method: str, words: tuple[str, ...], recompute: bool
) -> None:
    found = step(method, *words, recompute=recompute)
    assert found.peak == pytest.approx(found.foreseen, rel=0.1)


@pytest.mark.parametrize("method, words", CASES)
def test_collectives_move_what_the_planner_says(method: str, words: tuple[str, ...]) -> None:
    found = step(method, *words)
    for name, foreseen in found.foreseen_moved.items():
        moved = sum(size for key, size in found.moved.items() if name in key)
        assert moved == pytest.approx(foreseen, rel=0.01), name
