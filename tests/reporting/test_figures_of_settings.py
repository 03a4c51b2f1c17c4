"""Figures of ablations, samples, weights and cost by the data they draw."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lvf.records.schema import Metric, Record, write_record
from lvf.records.store import load, load_paper
from lvf.reporting.figures.ablations import (
    alphas,
    learning_rates,
    optimizers,
    regularisation,
    target_modules,
)
from lvf.reporting.figures.catalogue import CATALOGUE, Data, drawn
from lvf.reporting.figures.cost import (
    loss_against_budget,
    optimal_rates,
    scores_against_cost,
    throughput,
)
from lvf.reporting.figures.generations import diversity, pass_at_k
from lvf.reporting.figures.weights import (
    intruders,
    random_spectra,
    ranks_by_layer,
    spectra,
    weights_of,
)
from lvf.reporting.select.selection import selected, without_ablations

from .conftest import Write, axes
from .drawn import curves, texts

CODE = {"domain": "code", "dataset": "code_ift"}
CPT = {"domain": "code", "dataset": "code_cpt", "regime": "cpt", "duration_unit": "tokens"}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def record(
    folder: Path, task: str, metrics: dict[str, Metric], settings: dict, **where: Any
) -> Path:
    """One record of a task that no measure has."""
    path = folder / f"{task}-{len(list(folder.glob('*.json')))}.json"
    run = f"run-{where.get('method_name', where.get('method', 'full'))}-{where.get('duration', 8)}"
    told = Record(source="lvf", run_id=run, checkpoint="ba1", task=task, axes=axes(**where),
                  metrics=metrics, settings=settings)  # fmt: skip
    write_record(path, told)
    return path


def test_regularised_full_finetuning_has_series_of_its_own(write: Write) -> None:
    for duration, score in ((1.0, 0.41), (2.0, 0.42)):
        at = CODE | {"duration": duration, "run_duration": duration}
        write(axes(**at), humaneval=0.5)
        write(axes(method_name="full_decay_1e-4", **at), humaneval=score)
        folder = write(axes("lora", rank=8, **at), humaneval=0.3)
    write(axes(**CODE | {"optimizer": "torch.optim.AdamW"}), humaneval=0.9)
    attention = {"method_name": "lora_attention_r8", "target_modules": ALL[:4]}
    write(axes("lora", rank=8, **CODE | attention), humaneval=0.8)
    drawn = curves(regularisation(selected(load(folder)), "").axes[0])
    assert drawn["full decay 0.0001"] == [(1, 0.41), (2, 0.42)]
    assert drawn["full"] == [(1, 0.5), (2, 0.5)] and drawn["LoRA r=8"] == [(1, 0.3), (2, 0.3)]
    assert set(drawn) == {"full", "full decay 0.0001", "LoRA r=8"}  # what else varies is not drawn


def test_published_regularisation_is_said_to_be_missing() -> None:
    figure = regularisation(selected(load_paper()), "")
    assert "No records for full finetuning with weight decay" in texts(figure)
    assert set(curves(figure.axes[0])) == {"LoRA r=16", "LoRA r=256", "full"}


def test_target_modules_have_a_panel_a_rank(write: Write) -> None:
    for rank in (2, 8):
        for name, modules in (
            ("lora_attention", ALL[:4]),
            ("lora_mlp", ALL[4:]),
            ("lora", ALL),
        ):
            one = axes("lora", rank=rank, **CODE)
            told = vars(one) | {"method_name": f"{name}_r{rank}", "target_modules": modules}
            folder = write(type(one)(**told), humaneval=rank / 16 + len(modules) / 64)
    figure = target_modules(selected(load(folder)), "")
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["r = 2", "r = 8"]
    assert curves(figure.axes[1]) == {
        "Attention": [(8, 0.5625)], "MLP": [(8, 0.546875)], "All": [(8, 0.609375)],
    }  # fmt: skip
    assert "LoRA on Attention; LoRA on MLP" in texts(target_modules(selected(load_paper()), ""))


def test_rates_optimisers_and_alphas_are_told_apart(write: Write) -> None:
    for rate, score in ((1e-4, 0.2), (1e-3, 0.4)):
        at = CODE | {"lr_peak": rate}
        write(axes(**at), humaneval=score)
        write(axes(**at | {"optimizer": "torch.optim.AdamW"}), humaneval=score / 2)
        write(axes("lora", rank=8, **at, target_modules=ALL), humaneval=score - 0.1)
        low = {"alpha": 8, "method_name": "lora_r8_alpha8", "target_modules": ALL}
        folder = write(axes("lora", rank=8, **at | low), humaneval=score - 0.15)
    found = selected(load(folder))
    by_rate = curves(learning_rates(found, "").axes[0])
    assert by_rate["LoRA r=8"] == [(1e-4, pytest.approx(0.1)), (1e-3, pytest.approx(0.3))]
    by_optimizer = curves(optimizers(found, "").axes[0])
    assert by_optimizer["full, AdamW"] == [(1e-4, 0.1), (1e-3, 0.2)]
    assert by_optimizer["full, lion"] == [(1e-4, 0.2), (1e-3, 0.4)]
    assert set(by_optimizer) == {"full, AdamW", "full, lion"}  # LoRA had one optimiser
    by_alpha = curves(alphas(found, "").axes[0])
    assert by_alpha["α = 8"] == [(1e-4, pytest.approx(0.05)), (1e-3, pytest.approx(0.25))]
    assert by_alpha["α = 16"] == by_rate["LoRA r=8"]
    assert set(without_ablations(found).label) == {"full", "LoRA r=8"}
    variants = found[found.label.isin(["full AdamW", "LoRA r=8 α=8"])]
    assert set(without_ablations(variants[variants["rank"].notna()]).label) == {"LoRA r=8 α=8"}


def test_loss_is_drawn_over_budget_and_rate_with_the_best_rate_told(write: Write) -> None:
    for rate, loss in ((1e-4, 0.5), (1e-3, 0.25), (1e-2, 1.0)):
        folder = write(axes(lr_peak=rate), nll_validation=loss)
    write(axes(lr_peak=1e-3, duration=4.0, run_duration=4.0), nll_validation=0.75)
    found = selected(load(folder))
    panel = optimal_rates(found, "").axes[3]
    assert curves(panel)["full"] == [(1e-4, 0.5), (1e-3, 0.25), (1e-2, 1.0)]
    (ring,) = [line for line in panel.get_lines() if line.get_markersize() == 10]
    assert list(ring.get_xdata()) == [1e-3]
    assert curves(loss_against_budget(found, "").axes[3])["full"] == [(4, 0.75), (8, 0.25)]


def test_scores_are_drawn_over_what_the_records_say_they_cost(write: Write) -> None:
    folder = write(axes(), gsm8k=0.5)
    (path,) = folder.rglob("*.json")
    tree = json.loads(path.read_text())
    tree["training"] = {"train_flops": 1e12, "train_seconds": 1800.0}
    path.write_text(json.dumps(tree))
    flops, hours = scores_against_cost(selected(load(folder)), "").axes
    assert curves(flops)["full"] == [(1e12, 0.5)] and curves(hours)["full"] == [(0.5, 0.5)]


def test_throughput_is_drawn_over_the_batch(tmp_path: Path) -> None:
    for batch in (8, 64):
        speed = {"tokens_per_second": Metric(value=100.0 * batch)}
        record(tmp_path, "throughput", speed, {"global_batch_size": batch}, method="full")
    figure = throughput(load(tmp_path), "")
    assert curves(figure.axes[0]) == {"full": [(8, 800), (64, 6400)]}
    assert "no records for\npeak memory" in texts(figure)


def test_throughput_is_drawn_of_the_circumstances_that_most_benchmarks_have(tmp_path: Path) -> None:
    for batch, chunk, speed in ((8, 2048, 1.0), (64, 2048, 2.0), (8, 512, 9.0)):
        here = {"global_batch_size": batch, "loss_chunk_tokens": chunk}
        metrics = {"tokens_per_second": Metric(value=speed)}
        record(tmp_path, "throughput", metrics, here, method="full", seed=chunk)
    assert curves(throughput(load(tmp_path), "").axes[0]) == {"full": [(8, 1), (64, 2)]}


def test_pass_at_k_takes_four_epochs_and_the_most_samples(tmp_path: Path) -> None:
    few, many = ({"samples": n, "temperature": 0.8} for n in (1, 4))
    for method, passed in (("base", 1), ("full", 2)):
        where = CODE | {"method": method} | ({} if method == "base" else {"duration": 4.0})
        exact = {  # one problem, 4 samples of which `passed` pass
            f"pass@{k}": Metric(value=1 - math.comb(4 - passed, k) / math.comb(4, k), stderr=0.1)
            for k in (1, 2, 4)
        }
        record(tmp_path, "humaneval", exact, many, **where)
        record(tmp_path, "humaneval", {"pass@1": Metric(value=0.9)}, few, **where)
    record(tmp_path, "humaneval", {"pass@1": Metric(value=0.7)}, many, **CODE)  # eight epochs
    scores = load(tmp_path)
    panel = pass_at_k(selected(scores), scores, "").axes[0]
    assert curves(panel) == {
        "base model": [(1, 0.25), (2, 0.5), (4, 1.0)],
        "full": [(1, 0.5), (2, pytest.approx(5 / 6)), (4, 1.0)],
    }
    assert panel.get_title(loc="left") == "4 samples at temperature 0.8"


def test_diversity_shows_quartiles_over_problems_of_the_sampling_with_most_samples(
    tmp_path: Path,
) -> None:
    few, many = ({"samples": str(n), "samples_per_problem": n} for n in (5, 50))
    for method, seed, settings, counts in (
        ("base", 0, many, [10.0, 20.0, 30.0]),
        ("base", 0, few, [5.0, 5.0, 5.0]),
        ("full", 0, many, [1.0, 2.0, 6.0]),
        ("full", 1, many, [3.0, 2.0, 10.0]),
        ("full", 2, few, [1.0, 1.0, 1.0]),
    ):
        found = {name: Metric(value=float(np.mean(counts)), items=counts, n=3)
                 for name in ("unique_passing", "unique_failing")}  # fmt: skip
        if method == "full":
            found["unique_passing.over_base"] = Metric(value=0.5 + seed, stderr=0.1)
        record(tmp_path, "diversity", found, settings, **CODE, method=method, seed=seed)
    scores = load(tmp_path)
    passing, _, ratio = diversity(selected(scores), scores, "").axes
    assert [text.get_text() for text in passing.get_xticklabels()] == ["base model", "full"]
    means = [line.get_ydata()[0] for line in passing.get_lines() if line.get_marker() == "o"]
    assert means == [20, 4]  # of 2, 2 and 8, the means of two seeds
    assert curves(ratio)["passing"] == [(pytest.approx(0.9), 0.5), (pytest.approx(0.9), 1.5)]


@pytest.fixture
def analysed(tmp_path: Path) -> pd.DataFrame:
    """Records and tables of weights, as `lvf.analysis.table.matrices` has them."""
    rng = np.random.default_rng(0)
    for method, duration in (("full", 1e6), ("full", 4e6), ("lora", 4e6)):
        rows = []
        for layer in range(3):
            for module in ("q_proj", "up_proj"):
                base = rng.standard_normal((12, 8))
                update = rng.standard_normal((12, 8)) * duration / 1e7
                vectors = [np.linalg.svd(m)[0] for m in (base, base + update)]
                sigma = [np.linalg.svd(m, compute_uv=False) for m in (update, base, base + update)]
                rows.append({
                    "layer": layer, "module": module, "out_features": 12, "in_features": 8,
                    "rank90": layer + (1 if method == "lora" else duration / 1e6),
                    "largest_cosines": np.abs(vectors[0].T @ vectors[1][:, :4]).max(axis=0),
                    "singular_values": sigma[0], "base_singular_values": sigma[1],
                    "tuned_singular_values": sigma[2],
                })  # fmt: skip
        where = CPT | {"method": method, "duration": duration}
        path = record(tmp_path, "weights", {"rank90": Metric(value=1.0)}, {}, **where)
        pd.DataFrame(rows).to_parquet(path.with_suffix(".parquet"))
    scores = load(tmp_path)
    return weights_of(scores, selected(scores))


def test_ranks_are_drawn_layer_by_layer_lighter_for_longer(analysed: pd.DataFrame) -> None:
    q, up = ranks_by_layer(analysed, "").axes
    assert (q.get_title(loc="left"), up.get_title(loc="left")) == ("q_proj", "up_proj")
    short, long, largest = q.get_lines()
    assert list(short.get_ydata()) == [1, 2, 3] and list(long.get_ydata()) == [4, 5, 6]
    assert sum(long.get_color()[:3]) > sum(short.get_color()[:3])
    assert largest.get_ydata()[0] == 8


def test_spectra_are_those_of_the_matrix_at_the_papers_depth(analysed: pd.DataFrame) -> None:
    values, variance = spectra(analysed, "").axes
    chosen = (
        analysed[
            (analysed.label == "full") & (analysed.duration == 4e6) & (analysed.module == "q_proj")
        ]
        .set_index("layer")
        .loc[2]
    )  # 26 of 32 layers is 2.4 of 3
    assert list(values.get_lines()[2].get_ydata()) == list(chosen.singular_values)
    explained = np.cumsum(chosen.singular_values**2) / np.sum(chosen.singular_values**2)
    assert np.allclose(variance.get_lines()[2].get_ydata(), explained)


def test_intruders_are_counted_below_their_threshold(analysed: pd.DataFrame) -> None:
    over_time, over_epsilon = intruders(analysed, "").axes
    full = analysed[analysed.label == "full"]
    counts = [
        sum((c < 0.5).sum() for c in full[full.duration == d].largest_cosines) for d in (1e6, 4e6)
    ]
    (line,) = (one for one in over_time.get_lines() if one.get_label() == "full")
    assert list(line.get_ydata()) == counts
    assert all(np.all(np.diff(one.get_ydata()) >= 0) for one in over_epsilon.get_lines())


def test_random_spectra_grow_with_c_and_then_with_its_square() -> None:
    panel = random_spectra("", size=120).axes[1]
    amounts, distances = panel.get_lines()[0].get_data()
    slopes = np.diff(np.log10(distances)) / np.diff(np.log10(amounts))
    assert slopes[:3] == pytest.approx(1, abs=0.05) and slopes[-1] > 1.3


def test_every_figure_of_the_catalogue_can_be_drawn_from_nothing() -> None:
    nothing = load([])
    data = Data(selected(nothing), nothing)
    for name in CATALOGUE.keys() - {"figS8"}:
        (figure,) = drawn(name, data).values()
        assert "no records for" in texts(figure), name
