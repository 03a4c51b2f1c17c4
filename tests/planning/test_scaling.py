"""What a step takes on many devices, against arithmetic by hand and speeds that others measured."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest

from lvf.config.compose import compose
from lvf.config.schema import CONF_DIR, RunConfig, ShapeConfig
from lvf.planning.cluster import H100, Cluster
from lvf.planning.estimates import plan
from lvf.planning.published import PUBLISHED, Measured, predicted
from lvf.planning.scaling import (
    SHARDED,
    SHARDED_BASE,
    WHOLE,
    Traffic,
    exposed_seconds,
    layout,
    step,
    traffic,
)
from lvf.planning.shapes import forward_share, shape_of
from lvf.runs.sweep import SweepRun

# Llama-2-7B, PAPER facts, section 1.6, and the shape of its config.json
TOTAL = 6_738_415_616
OUTSIDE = 2 * 32_000 * 4096 + 4096  # embedding, head and last norm, which FSDP2 keeps
ADAPTERS = {16: 39_976_960, 256: 639_631_360}
ONE_SECOND = Cluster(memory_bytes=80e9, device_bytes_per_second=1e12, node_bytes_per_second=1e12)


def cell(*overrides: str) -> SweepRun:
    words = ("+experiment=code_cpt", "scale=paper", *overrides)
    return SweepRun(words, compose(*words))


@pytest.fixture(scope="module")
def full() -> SweepRun:
    return cell("method=full")


@pytest.fixture(scope="module")
def lora() -> SweepRun:
    return cell("method=lora_r16")


def shape(cfg: RunConfig) -> ShapeConfig:
    found = shape_of(cfg.model)
    assert found is not None
    return found


def test_full_finetuning_gathers_in_bf16_twice_and_scatters_in_fp32(full: SweepRun) -> None:
    one = traffic(full.cfg, shape(full.cfg), SHARDED)
    sizes = (one.gathered_forward, one.gathered_backward, one.scattered, one.summed)
    # what is outside of blocks travels in fp32, and once
    assert sizes == (2 * TOTAL + 2 * OUTSIDE, 2 * (TOTAL - OUTSIDE), 4 * TOTAL, 0)
    # each of 32 sends 31/32 of it once a microbatch; four microbatches of 6 rows on 8
    assert one.of_step(32, 1) == pytest.approx(31 / 32 * 8 * TOTAL)
    assert one.of_step(8, 4) == pytest.approx(4 * 7 / 8 * 8 * TOTAL)
    assert one.of_step(1, 32) == 0


def test_replicated_lora_sums_its_gradients_once_a_step_round_the_ring_twice(
    lora: SweepRun,
) -> None:
    one = traffic(lora.cfg, shape(lora.cfg), WHOLE)
    assert one == Traffic(summed=4 * ADAPTERS[16])
    assert one.of_step(8, 4) == pytest.approx(2 * 7 / 8 * 4 * ADAPTERS[16])


def test_a_sharded_base_travels_as_it_does_in_full_but_has_no_gradients(lora: SweepRun) -> None:
    one = traffic(lora.cfg, shape(lora.cfg), SHARDED_BASE)
    assert one.scattered == 0 and one.gathered_forward == 2 * TOTAL + 2 * OUTSIDE
    gathered = 4 * TOTAL
    assert one.of_step(8, 4) == pytest.approx(4 * 7 / 8 * (gathered + 2 * 4 * ADAPTERS[16]))


def test_in_fp32_twice_as_much_is_gathered(full: SweepRun) -> None:
    plain = replace(full.cfg, training=replace(full.cfg.training, precision="fp32"))
    assert traffic(plain, shape(plain), SHARDED).gathered_forward == 4 * TOTAL


def test_memory_decides_how_a_model_lies_on_devices(full: SweepRun, lora: SweepRun) -> None:
    llama = shape(full.cfg)
    # 12 bytes a parameter with Lion: 80.9 GB (paper App. H)
    assert layout(full.cfg, llama, 1, 80e9) is None and layout(full.cfg, llama, 1, 81e9) == WHOLE
    assert layout(full.cfg, llama, 8, 80e9) == SHARDED
    # the base in bf16 and 12 bytes an adapter parameter: 13.96 GB; 27.4 GB with the base in fp32
    assert layout(lora.cfg, llama, 8, 14e9) == WHOLE
    assert layout(lora.cfg, llama, 8, 13.9e9) == SHARDED_BASE
    assert layout(lora.cfg, llama, 1, 13.9e9) is None
    wide = replace(lora.cfg, runtime=replace(lora.cfg.runtime, bf16_base=False))
    assert layout(wide, llama, 8, 28e9) == WHOLE
    assert layout(wide, llama, 8, 27e9) == SHARDED_BASE
    asked = replace(lora.cfg, runtime=replace(lora.cfg.runtime, fsdp_base=True))
    assert layout(asked, llama, 8, 80e9) == SHARDED_BASE


def test_a_third_of_full_finetuning_is_its_forward_pass_and_half_of_loras(
    full: SweepRun, lora: SweepRun
) -> None:
    assert forward_share(shape(full.cfg), full.cfg.method) == pytest.approx(1 / 3)
    in_products = TOTAL - 32_000 * 4096 - 65 * 4096
    expected = 2 * (in_products + ADAPTERS[16]) / (4 * in_products + 6 * ADAPTERS[16])
    assert forward_share(shape(lora.cfg), lora.cfg.method) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("forward", "backward", "expected"),
    [
        # on two devices half of each tensor travels: 3 s are gathered, 3 s again, 6 s scattered
        (3, 9, (3 + 6) / 3),  # all hidden but the first of three gathers and the last scatter
        (1, 2, (3 + 6) / 3 + (3 - 1) + (9 - 2)),
        (0, 0, (3 + 6) / 3 + 3 + 9),
    ],
)
def test_each_pass_hides_what_travels_in_it(
    forward: float, backward: float, expected: float
) -> None:
    what = Traffic(gathered_forward=6e12, gathered_backward=6e12, scattered=12e12)
    shown = exposed_seconds(what, forward, backward, 4, 3, 2, ONE_SECOND)
    assert shown == pytest.approx(4 * expected, rel=1e-4)  # hops take microseconds


def test_ddp_hides_its_sum_behind_the_last_backward_pass_a_sharded_base_does_not() -> None:
    # 2 s: half of 2 TB, twice round the ring
    assert exposed_seconds(Traffic(summed=2e12), 9, 5, 4, 3, 2, ONE_SECOND) == 0
    shown = exposed_seconds(Traffic(summed=2e12), 9, 0.5, 4, 3, 2, ONE_SECOND)
    assert shown == pytest.approx(1.5, rel=1e-4)
    sharded = Traffic(gathered_forward=1, gathered_backward=1, summed=2e12)
    shown = exposed_seconds(sharded, 9, 9, 4, 3, 2, ONE_SECOND)
    assert shown == pytest.approx(4 * 2, rel=1e-4)


def test_a_ring_over_nodes_is_as_fast_as_the_slowest_link_and_has_a_hop_for_each_device() -> None:
    slow = replace(H100, node_bytes_per_second=25e9)
    assert [slow.bus_bytes_per_second(n) for n in (2, 8, 16)] == [370e9, 370e9, 25e9]
    # NCCL's model: seven hops within a node; 30 within and one between two nodes' 16 devices
    assert H100.latency_seconds(8) == pytest.approx(8.4e-6 + 7 * 3.4e-6)
    assert H100.latency_seconds(16, 2) == pytest.approx(8.4e-6 + 2 * (14 * 3.4e-6 + 9.6e-6))


def test_one_device_computes_without_communication(lora: SweepRun) -> None:
    alone = plan(lora, fresh=True, num_devices=1)
    assert alone.step is not None and alone.step.exposed_seconds == 0
    assert (alone.step.busy, alone.step.microbatches) == (1, 32)
    # beside computing: the start, the base in bf16, checkpoints with Lion's momentum (every 100 of
    # 25,431 batches, one for each branch, the last) and one export
    saves = 254 + 7 + 1
    moved = 2 * TOTAL + saves * 8 * ADAPTERS[16] + 4 * ADAPTERS[16]
    assert alone.compute_hours is not None
    assert alone.seconds == pytest.approx(alone.compute_hours * 3600 + 10 + moved / 1e9)


@pytest.mark.parametrize(("num_devices", "rate"), [(8, 2e9), (24, 6e9), (32, 7e9), (256, 7e9)])
def test_nodes_write_and_read_the_parts_of_a_checkpoint_at_once_as_fast_as_all_disks_are(
    full: SweepRun, num_devices: int, rate: float
) -> None:
    trunk = plan(full, fresh=True, num_devices=num_devices)
    branch = plan(cell("method=full", "duration=4e9"), fresh=True, num_devices=num_devices)
    # the trunk saves as above; a branch reads at 4,069, and saves at 4,100 to 5,000 and at its end
    for one, moved in ((trunk, 254 + 7 + 1), (branch, 1 + 10 + 1)):
        assert one.seconds is not None and one.step is not None and one.new_batches is not None
        standing = one.seconds - one.new_batches * one.step.seconds
        # rank 0 exports 4 bytes a weight, gathered; each node reads the base in bf16
        expected = 10 + (2 + 4) * TOTAL / 1e9 + moved * 8 * TOTAL / rate
        assert standing == pytest.approx(expected)


@pytest.mark.parametrize("method", ["full", "lora_r16"])
def test_more_devices_are_never_slower_and_gain_nothing_beyond_the_rows(
    method: str, full: SweepRun, lora: SweepRun
) -> None:
    one = {"full": full, "lora_r16": lora}[method]
    plans = {n: plan(one, fresh=True, num_devices=n) for n in (8, 16, 32, 64, 96, 192, 256, 512)}
    for fewer, more in pairwise(plans.values()):
        assert fewer.seconds is not None and more.seconds is not None
        assert more.seconds <= fewer.seconds
        assert more.hours is not None and fewer.hours is not None and more.hours > fewer.hours
    assert plans[256].seconds == plans[192].seconds  # 192 rows: 64 devices have nothing to do
    assert plans[256].step is not None and plans[256].step.busy == 192


def test_a_batch_is_shared_evenly_or_not_at_all(full: SweepRun) -> None:
    found = {n: step(full.cfg, shape(full.cfg), 192, n, H100) for n in (8, 40, 100, 256)}
    assert [one and one.busy for one in found.values()] == [8, 32, 96, 192]
    assert [one and one.compute_seconds for one in found.values()] == [24, 6, 2, 1]


def test_what_does_not_fit_has_no_hours(full: SweepRun) -> None:
    alone = plan(full, fresh=True, num_devices=1)
    assert alone.hours is None and alone.seconds is None and alone.compute_hours is not None


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: one.model)
def test_measured_speeds_on_many_gpus_are_foretold_to_4_per_cent(one: Measured) -> None:
    for number, speed in one.tokens_per_second.items():
        assert predicted(one, number) == pytest.approx(speed, rel=0.04)


@pytest.mark.slow
def test_the_page_of_scaling_is_up_to_date() -> None:
    written = (CONF_DIR.parent / "docs" / "scaling.md").read_text()
    command = [sys.executable, "-m", "lvf.planning", "scaling"]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert page == written, "python -m lvf.planning scaling > docs/scaling.md"
