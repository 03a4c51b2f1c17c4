"""What the planner foretells, against the paper's arithmetic and against a run on disk."""

from math import prod
from pathlib import Path

import pytest

from lvf.config.compose import compose
from lvf.planning.estimates import checkpoint_bytes, epoch_rows, plan, total_batches
from lvf.planning.listing import estimates, quantity, totals
from lvf.planning.shapes import shape_of
from lvf.runs.sweep import SweepRun


def cell(*overrides: str) -> SweepRun:
    return SweepRun(overrides, compose(*overrides))


@pytest.mark.parametrize(("epochs", "batches"), [(1, 193), (2, 386), (8, 1544), (16, 3088)])
def test_magicoder_with_all_its_documents_takes_the_papers_batches(
    epochs: int, batches: int
) -> None:
    # PAPER facts, section 1.5: README of the authors
    whole = ("data.split_documents=0", f"duration={epochs}")
    assert total_batches(compose("+experiment=code_ift", "scale=paper", *whole)) == batches


def test_examples_taken_out_for_validation_shorten_an_epoch() -> None:
    cfg = compose("+experiment=code_ift", "scale=paper")
    assert epoch_rows(cfg) == (111_183 - 2 * 512) // 3


def test_metamath_unpacked_takes_514_batches_an_epoch() -> None:
    one = ("training.packing_ratio=1", "data.split_documents=0", "duration=1")
    cfg = compose("+experiment=math_ift", "scale=paper", *one)
    assert total_batches(cfg) == 514  # PAPER facts, section 1.5


def test_a_trunk_pays_for_all_its_batches_and_a_branch_for_its_cooldown_only() -> None:
    cpt = ("+experiment=code_cpt", "scale=paper", "method=lora_r256")
    trunk, branch = plan(cell(*cpt)), plan(cell(*cpt, "duration=4e9"))
    adapters = 639_631_360  # PAPER facts, section 1.6
    in_products = 6_738_415_616 - 32000 * 4096 - 65 * 4096  # but for the embedding and the norms
    per_token = 4 * in_products + 6 * adapters
    assert (trunk.batches, trunk.new_batches) == (25_431, 25_431)
    assert trunk.flops == pytest.approx(20e9 * per_token)
    assert trunk.compute_hours == pytest.approx(20e9 * per_token / 120e12 / 3600)
    assert (branch.batches, branch.new_batches) == (5_086, 1_017)  # PAPER facts, section 1.4
    assert branch.flops == pytest.approx(4e9 * per_token * 1_017 / 5_086)
    # fp32 export; checkpoints with Lion's momentum, one for each of the seven branches
    assert trunk.disk_bytes == 4 * adapters + 7 * 8 * adapters
    assert branch.disk_bytes == 4 * adapters


def test_adamw_keeps_two_momenta() -> None:
    cfg = cell("+experiment=code_ift", "scale=paper", "method=full", "optimizer=adamw").cfg
    shape = shape_of(cfg.model)
    assert shape and checkpoint_bytes(cfg, shape) == 6_738_415_616 * (4 + 8)


def test_what_is_not_known_is_said() -> None:
    tulu = plan(cell("+experiment=tulu", "scale=paper", "method=full"))
    assert tulu.batches == 6 * ((326_000 - 1024) // 3 // 192)
    assert tulu.tokens is None and tulu.flops is None
    per_token = 6 * (6_738_415_616 - 32000 * 4096 - 65 * 4096)
    assert tulu.compute_hours == pytest.approx(3384 * 192 * 4096 * per_token / 210e12 / 3600)
    foreign = plan(cell("model.path=nobody/has-this", "model.shape=null"))
    assert estimates(foreign)[2:] == ["unknown"] * 3
    assert totals([tulu, foreign])[2:] == ["unknown", *(f"at least {x}" for x in
                                           totals([tulu])[3:])]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(20e9, "", "20 B"), (786_432, "", "786 k"), (1.35e11, "B", "135 GB"), (3, "", "3")],
)
def test_quantities_read_as_people_write_them(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize("experiment", ["math_ift", "code_ift"])
def test_the_published_size_of_an_embedded_corpus_is_its_real_one(experiment: str) -> None:
    from lvf.data.sources import read_documents

    data = compose(f"+experiment={experiment}").data
    assert data.documents == sum(1 for _ in read_documents(data.train, [data.response_column]))


def test_the_hours_follow_the_arithmetic(tmp_path: Path) -> None:
    one = cell("+experiment=math_ift", "method=full", f"paths.runs={tmp_path}")
    inner = prod((4, 4 * 128 * 128 + 3 * 128 * 344)) + 1280 * 128
    computing = 8 * 60.3e3 * 6 * inner / 20e9
    assert plan(one).compute_hours == pytest.approx(computing / 3600)
    one.folder.mkdir()
    (one.folder / "status.json").write_text('{"total_batches": 504}')
    assert plan(one).batches == 504  # as the run has counted them
