"""Benchmarks: their figures against closed forms and torch's counter, and the whole command."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.forked_ranks import start_ranks
from lvf.bench import benchmark
from lvf.benchmarking.clock import PARTS, StepClock, Steps
from lvf.benchmarking.figures import metrics_of, utilisation
from lvf.benchmarking.synthetic import random_rows, synthetic_shards
from lvf.benchmarking.throughput import inputs_of, time_steps
from lvf.config.compose import compose
from lvf.config.runtime_schema import BenchConfig
from lvf.config.schema import MethodConfig, RunConfig
from lvf.data.loader import make_loader
from lvf.errors import UserError
from lvf.models.counts import attention_flops_per_pair, train_flops_per_token
from lvf.models.load import load_base, load_model_config, load_tokenizer
from lvf.records.schema import Record, read_record
from lvf.records.store import load
from lvf.reporting.figures.cost import throughput
from lvf.runs.run_folder import open_run_folder
from lvf.runs.run_id import run_id
from tests.conftest import compiles_rightly, needs_compiler
from tests.reporting.drawn import curves

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "model=llama2_7b", "model.random_weights=true", "model.shape.hidden_size=32",
    "model.shape.intermediate_size=64", "model.shape.num_hidden_layers=2",
    "model.shape.num_attention_heads=2", "model.shape.num_key_value_heads=2",
]  # fmt: skip
"""Llama-2-7B's vocabulary on a model that takes no time."""


def composed(folder: Path, *words: str) -> RunConfig:
    return compose(
        "+experiment=throughput", *TINY, "training.seq_len=32", "training.global_batch_size=4",
        "runtime.device_microbatch_size=2", "bench.data=synthetic", "bench.documents_per_row=3",
        "bench.padding=0.25", "bench.warmup_steps=1", "bench.steps=3", f"paths.runs={folder}/runs",
        f"paths.shards={folder}/shards", f"paths.records={folder}/records", *words,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


Measured = tuple[Record, Steps, list[tuple[float, float]]]


@pytest.fixture(scope="module")
def measured(folder: Path) -> Measured:
    """A benchmark's record, what its clock saw, and when it was told of start and ends of steps."""
    clocks: list[StepClock] = []
    told: list[tuple[float, float]] = []

    def timed(event: Any) -> Any:
        def method(self: StepClock, state: Any, logger: Any) -> None:
            before = time.perf_counter()
            event(self, state, logger)
            told.append((before, time.perf_counter()))
            clocks.append(self)

        return method

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fit_start", "batch_end"):
            patch.setattr(StepClock, name, timed(getattr(StepClock, name)))
        record = read_record(benchmark(composed(folder, "method=full")))
    return record, clocks[0].steps, told


@pytest.fixture(scope="module")
def lora(folder: Path) -> Record:
    return read_record(benchmark(composed(folder, "method=lora", "method.rank=2")))


def test_the_parts_of_each_step_sum_to_the_step_as_another_clock_sees_it(
    measured: Measured,
) -> None:
    _, steps, told = measured
    assert len(steps.seconds) == len(told) - 1 == 4
    for index, (start, end) in enumerate(itertools.pairwise(told)):
        parts = [steps.parts[name][index] for name in PARTS]
        assert sum(parts) == pytest.approx(steps.seconds[index], rel=1e-9)
        assert end[0] - start[1] <= sum(parts) <= end[1] - start[0]
        assert min(parts) > 0


def test_a_record_counts_the_real_tokens_and_the_padding_of_its_rows(
    measured: Measured,
) -> None:
    record, steps, _ = measured
    assert steps.tokens == steps.own_tokens == [4 * 24] * 4  # three quarters of 4 rows of 32
    assert record.metrics["padding_share"].value == 0.25
    speeds = [96 / seconds for seconds in steps.seconds[1:]]
    assert record.metrics["tokens_per_second"].items == pytest.approx(speeds)
    assert record.metrics["tokens_per_second"].value == pytest.approx(np.median(speeds))
    assert record.settings["global_batch_size"] == 4 and record.axes.method == "full"
    told = {
        name: record.training[name]
        for name in ("device_microbatch_size", "activation_checkpointing")
    }
    assert told == {"device_microbatch_size": 2, "activation_checkpointing": False}


def test_nothing_of_a_benchmark_is_kept_but_its_record(folder: Path, measured: Measured) -> None:
    (run,) = (folder / "runs").glob(f"{measured[0].run_id}")
    assert not list(run.rglob("*.safetensors")) and not list(run.rglob("*.pt"))
    assert not (run / "synthetic").exists()
    assert json.loads((run / "status.json").read_text())["state"] == "trained"


def test_what_is_measured_already_is_not_measured_again(
    folder: Path, measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    path = benchmark(composed(folder, "method=full"))
    assert read_record(path) == measured[0]
    assert "measured already" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.slow
@compiles_rightly
@needs_compiler
def test_a_compiled_benchmark_has_a_record_of_its_own_with_the_compilers_time_apart(
    folder: Path, measured: Measured
) -> None:
    cfg = composed(folder, "method=full", "runtime.compile=true")
    record = read_record(benchmark(cfg))
    assert record.run_id == measured[0].run_id and record.settings["compile"]
    compiling = record.metrics["compile_seconds"]
    assert compiling.items is not None and len(compiling.items) == 1 + 3
    assert compiling.items[0] > 0 and compiling.items[1:] == [0, 0, 0]
    assert compiling.value < record.metrics["first_step_extra_seconds"].value
    plain = measured[0]
    assert "compile_seconds" not in plain.metrics and "compile" not in plain.settings
    figure = throughput(load(folder / "records"), "")
    drawn = curves(figure.axes[0])["full"]
    assert drawn == [(4, plain.metrics["tokens_per_second"].value)]


def test_a_figure_draws_the_speed_and_memory_of_the_records(
    folder: Path, measured: Measured, lora: Record
) -> None:
    figure = throughput(load(folder / "records"), "")
    for axes, metric in zip(figure.axes, ("tokens_per_second", "peak_memory_gb"), strict=False):
        told = {"full": measured[0], "LoRA r=2": lora}
        assert curves(axes) == {
            name: [(4, record.metrics[metric].value)] for name, record in told.items()
        }


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_mfu_is_the_published_arithmetic_over_the_time_and_the_ceiling(kind: str) -> None:
    # Llama-2-7B, 1000 tokens of one document in 2 s: 6 N (4 N and 6 a parameter of r = 16), with
    # N = 6,607,077,376 in products, and 12 x 32 layers x 4096 places x 1000 x 1001 / 2 pairs.
    shape = load_model_config(compose("scale=paper", "model.random_weights=true").model)
    method = compose("method=lora_r16" if kind == "lora" else "method=full").method
    steps = Steps(
        seconds=[5.0, 2.0], parts={name: [1.0, 0.4] for name in PARTS}, tokens=[7, 1000],
        own_tokens=[7, 1000], own_pairs=[28, 500_500], own_places=[1024, 1024],
    )  # fmt: skip
    products = train_flops_per_token(shape, method)
    found = metrics_of(steps, 1, 1, products, attention_flops_per_pair(shape))
    n, adapters = 6_607_077_376, 39_976_960
    token = 6 * n if kind == "full" else 4 * n + 6 * adapters
    flops = token * 1000 + 12 * 32 * 4096 * 500_500
    assert found["flops_per_second"].value == pytest.approx(flops / 2)
    shares = utilisation(found["flops_per_second"], {"datasheet": 989.5e12})
    assert shares["mfu_of_datasheet"].value == pytest.approx(flops / 2 / 989.5e12)
    assert found["tokens_per_second"].value == 500 and found["padding_share"].value == 24 / 1024
    assert found["first_step_extra_seconds"].value == 3.0


@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_flops_are_those_that_torch_counts_in_a_step(key_value_heads: int) -> None:
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=key_value_heads, vocab_size=64,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.randint(64, (1, 16))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    full = MethodConfig(name="full", kind="full")
    pairs = 16 * 16  # eager attention computes what it masks, too
    rotary = 2 * 16 * (32 // 4 // 2)  # the angles of positions, a product outside of all layers
    expected = 16 * train_flops_per_token(config, full) + pairs * attention_flops_per_pair(config)
    assert counter.get_total_flops() == pytest.approx(expected + rotary, abs=rotary)


def test_pairs_are_those_that_a_token_sees(tmp_path: Path) -> None:
    cfg = composed(tmp_path)
    clock = StepClock()
    with synthetic_shards(cfg, tmp_path / "rows", 2) as prepared:
        for batch in make_loader(prepared, cfg, "run"):
            clock.after_dataloader(type("State", (), {"batch": batch}), None)  # type: ignore
            expected = 0
            for positions, num in zip(batch["position_ids"], batch["num_tokens"], strict=True):
                segments = torch.cumsum(positions[:num] == 0, 0)
                mask = (segments[:, None] == segments[None]).tril()
                expected += int(mask.sum())
            assert clock.steps.own_pairs[-1] == expected
    assert len(clock.steps.own_pairs) == 2


@pytest.mark.parametrize(("documents", "padding"), [(1, 0.0), (3, 0.25), (5, 0.9), (51, 0.0)])
def test_random_rows_have_the_asked_documents_and_padding(documents: int, padding: float) -> None:
    bench = BenchConfig(documents_per_row=documents, padding=padding)
    for row in random_rows(bench, 50, 103, 1000, seed=0):
        assert row.num_tokens == round(103 * (1 - padding))
        lengths = np.bincount(row.segment_ids)[1:]
        assert len(lengths) == documents and lengths.min() >= 2
        assert row.input_ids.max() < 1000


def test_every_way_to_cut_a_row_is_as_likely() -> None:
    ways = [one for one in itertools.product(range(2, 9), repeat=3) if sum(one) == 9]
    rows = random_rows(BenchConfig(documents_per_row=3), 10_000, 9, 1000, seed=0)
    found = Counter(tuple(np.bincount(row.segment_ids)[1:].tolist()) for row in rows)
    assert sorted(found) == sorted(ways)  # 10 ways; 1000 each, give or take 4.5 deviations of 30
    assert all(abs(number - 1000) < 135 for number in found.values())


def test_random_weights_ask_no_hub_and_are_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    model = compose("+experiment=throughput", *TINY).model
    first, second = (load_base(model).state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["model.embed_tokens.weight"].shape == (32000, 32)
    assert first["model.embed_tokens.weight"].std() == pytest.approx(0.02, rel=0.01)
    assert len(load_tokenizer(model)) <= 32000
    paper = load_model_config(compose("scale=paper", "model.random_weights=true").model)
    assert (paper.hidden_size, paper.num_hidden_layers, paper.vocab_size) == (4096, 32, 32000)


def test_a_shape_decides_the_name_of_a_random_model_only(tmp_path: Path) -> None:
    wider = "model.shape.hidden_size=64"
    assert run_id(composed(tmp_path)) != run_id(composed(tmp_path, wider))
    words = ("+experiment=math_ift", "scale=paper")
    assert run_id(compose(*words)) == run_id(compose(*words, "model.shape.hidden_size=64"))
    assert run_id(compose(*words)) != run_id(compose(*words, "bench.steps=5"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["bench.data=none"], "bench.data='none' is not one of real, synthetic"),
        (["bench.data=real", "bench.padding=0.5"], "set bench.data=synthetic"),
        (["bench.padding=1"], "bench.padding=1.0 must be at least 0 and below 1"),
        (["bench.documents_per_row=13"], "holds at most 12"),
        (["bench.steps=0"], "bench.steps=0 must be at least 1"),
    ],
)
def test_an_impossible_benchmark_is_refused_before_any_work(
    tmp_path: Path, words: list[str], told: str
) -> None:
    with pytest.raises(UserError) as error:
        composed(tmp_path, *words)
    assert told in str(error.value)


def test_random_weights_without_a_shape_are_refused(tmp_path: Path) -> None:
    cfg = composed(tmp_path)
    cfg.model.path, cfg.model.shape = "nobody/nothing", None
    with pytest.raises(UserError, match="nobody/nothing cannot be loaded"):
        benchmark(cfg)


@pytest.mark.parametrize("way", ["full", "lora"])
def test_on_two_ranks_all_tokens_count_and_collectives_are_timed(tmp_path: Path, way: str) -> None:
    cfg = composed(tmp_path, f"method={way}", "runtime.nproc_per_node=2", "bench.steps=2")
    folder = open_run_folder(cfg)
    with synthetic_shards(cfg, tmp_path / "rows", 4) as prepared:
        ranks = start_ranks(2, lambda: time_steps(cfg, prepared, folder))
        ranks.end_with([0, 0])
    (path,) = (tmp_path / "records").rglob("*.json")
    record = read_record(path)
    steps = record.metrics["step_seconds"]
    assert steps.items is not None and record.metrics["tokens_per_second"].items == pytest.approx(
        [96 / one for one in steps.items]
    )
    assert 0 < record.metrics["communication_seconds"].value < 10
    assert inputs_of(cfg)["world_size"] == 2


@pytest.mark.long
@pytest.mark.slow
def test_the_grid_leads_to_the_records_of_its_throughput_sweep(tmp_path: Path) -> None:
    words = [
        *TINY, "bench.data=synthetic", "bench.steps=1", "bench.warmup_steps=1",
        "training.seq_len=32", f"paths.runs={tmp_path}/runs", f"paths.records={tmp_path}/records",
    ]  # fmt: skip
    block = {"+experiment": ["throughput"], "method": ["full"], "training.global_batch_size": [8]}
    file = tmp_path / "conf" / "sweep" / "one.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"name": "one", "blocks": {"full": block}, "overrides": words}))

    def grid(launcher: str) -> str:
        arguments = [f"hydra.searchpath=[file://{tmp_path}/conf]", "sweep=one", "workers=1"]
        line = [sys.executable, "-m", "lvf.grid", *arguments, f"launcher={launcher}"]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        return subprocess.run(
            line, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        ).stdout

    grid("local")
    (path,) = (tmp_path / "records").rglob("*--throughput--*.json")
    assert read_record(path).settings["global_batch_size"] == 8
    assert "1 runs, 1 done, 0 to do" in grid("none")
