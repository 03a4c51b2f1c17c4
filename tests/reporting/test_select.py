"""The selection: variants, the rule of learning rates, and what they leave out, by name."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lvf.config.schema import CONF_DIR
from lvf.records.checkpoints import models
from lvf.records.store import load
from lvf.reporting.claims.evidence import evidence_sets
from lvf.reporting.claims.judge import judge
from lvf.reporting.claims.table import claims_markdown
from lvf.reporting.figures.curves import CONDITIONS, over_durations
from lvf.reporting.figures.tradeoff import pareto
from lvf.reporting.select.selection import Selection, chosen_learning_rate, select, selected
from lvf.reporting.select.variant import Variant, with_variants
from lvf.reporting.tables.paper import TABLES, paper_table

from .conftest import Write, axes
from .drawn import curves, texts

RECORDS = CONF_DIR.parent / "results" / "embedded" / "records.tar.zst"
ALL = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
METHODS = ("full", "LoRA r=2", "LoRA r=8", "LoRA r=32")
TABLE = {("code", "cpt"): 0, ("math", "cpt"): 2, ("code", "ift"): 4, ("math", "ift"): 6}


def selection(folder: Path) -> Selection:
    scores = load(folder)
    return select(with_variants(models(scores)), scores)


def variant(method_name: str, **fields: object) -> Variant:
    """The variant of a record with this method's name."""
    here = {
        "rank": None,
        "alpha": None,
        "target_modules": None,
        "optimizer": "lion_pytorch.Lion",
        "replay": None,
    } | fields
    method = "full" if method_name.startswith("full") else "lora"
    row = pd.DataFrame([{"method": method, "method_name": method_name, **here}])
    return Variant.of(next(row.itertuples()))


def test_a_variant_is_read_from_what_a_record_says_and_not_from_what_it_is_called() -> None:
    twice = variant("lora_r32", rank=32, alpha=64, target_modules=ALL)
    assert variant("lora_r32_alpha64", rank=32, alpha=64, target_modules=ALL) == twice
    assert variant("lora", rank=32, alpha=64, target_modules=ALL) == twice and twice.is_plain
    assert variant("lora_r32_alpha32", rank=32, alpha=32, target_modules=ALL) != twice
    attention = variant(
        "lora_attention_r8", rank=8, alpha=16, target_modules="v_proj,q_proj,k_proj,o_proj"
    )
    assert attention.modules == "attention" and attention.family == "lora"
    assert variant("dora_r8", rank=8, alpha=16, target_modules=ALL).family == "dora"
    assert (
        variant("attention_only", rank=8, alpha=16, target_modules="q_proj").family
        == "attention_only"
    )
    assert variant("full_decay_1e-4").weight_decay == 1e-4
    assert variant("full_attention_dropout_5").attention_dropout == pytest.approx(0.05)
    assert variant("full", optimizer="torch.optim.AdamW").optimizer_name == "AdamW"


def test_labels_tell_apart_what_differs_under_one_name(write: Write) -> None:
    write(axes("lora", rank=8), gsm8k=0.1)
    write(axes("lora", rank=2), gsm8k=0.1)
    folder = write(axes("lora", rank=8, alpha=32.0), gsm8k=0.2)
    assert set(selected(load(folder)).label) == {"LoRA r=2", "LoRA r=8", "LoRA r=8 α=32"}


def test_a_label_does_not_tell_the_optimiser_that_most_models_have(write: Write) -> None:
    for seed in (0, 1):
        write(axes(seed=seed), gsm8k=0.1)
    folder = write(axes(optimizer="torch.optim.AdamW"), gsm8k=0.2)
    found = selected(load(folder))
    assert sorted(found.label) == ["full", "full", "full AdamW"]
    assert list(found.sort_values("label").role) == ["main", "main", "ablation"]


def test_two_runs_of_one_seed_are_not_taken_for_two_seeds(write: Write) -> None:
    write(axes(), run_id="full-bbbbbb", gsm8k=0.9, created_at="2026-01-02T00:00:00+00:00")
    folder = write(axes(), run_id="full-aaaaaa", gsm8k=0.1)
    found = selection(folder)
    assert list(found.models.run_id) == ["full-aaaaaa"]
    (line,) = map(str, found.left_out)
    assert line == ("left out: math ift, run full-bbbbbb, because run full-aaaaaa has the same "
                    "settings and seed")  # fmt: skip


def test_a_branch_and_a_run_of_its_own_with_the_same_scores_are_one_model(write: Write) -> None:
    write(axes(), run_id="full-branch", gsm8k=0.4, nll_validation=1.5)
    folder = write(axes(), run_id="full-alone", nll_validation=1.5)
    write(axes(seed=1), run_id="full-other", nll_validation=1.5)
    found = selection(folder)
    assert list(found.models.run_id) == ["full-branch", "full-other"]
    assert set(found.models.label) == {"full"} and found.models.setting.nunique() == 1
    assert "full-alone" in str(found.left_out[0])


def test_the_rate_of_the_longest_duration_is_that_of_all(write: Write) -> None:
    for duration, losses in ((1.0, (0.1, 0.2)), (8.0, (0.2, 0.1))):
        for rate, loss in zip((1e-3, 2e-3), losses, strict=True):
            length = {"duration": duration, "run_duration": duration}
            folder = write(axes(lr_peak=rate, **length), gsm8k=rate, nll_validation=loss)
    found = selected(load(folder))
    assert chosen_learning_rate(found) == 2e-3
    assert set(found[found.is_chosen].lr_peak) == {2e-3} and found.is_chosen.sum() == 2
    assert curves(over_durations(found, "target", "").axes[3])["full"] == [(1, 2e-3), (8, 2e-3)]


def test_scored_runs_whose_chosen_rate_has_no_score_are_named(write: Write) -> None:
    write(axes(), gsm8k=0.6, nll_validation=0.5)
    for seed in (0, 1):
        write(axes("lora", lr_peak=1e-3, seed=seed), gsm8k=0.4, nll_validation=0.3)
    folder = write(axes("lora", lr_peak=2e-3), nll_validation=0.2)
    found, scores = selection(folder), load(folder)
    line = (
        "left out: math ift, target of LoRA r=8 at 8 epochs and 1e-3 (2 models), because its "
        "chosen learning rate 2e-3 has no target there"
    )
    assert [str(one) for one in found.left_out] == [line]
    assert line in claims_markdown(judge(found.models, scores), found.left_out)
    figure = over_durations(found.models, "target", "")
    assert set(curves(figure.axes[3])) == {"full"}
    assert "no score: LoRA r=8 (8 epochs)" in texts(figure)


def test_a_variant_without_a_loss_to_choose_by_is_named_and_drawn_at_all_its_rates(
    write: Write,
) -> None:
    write(axes(lr_peak=1e-3), gsm8k=0.4)
    found = selection(write(axes(lr_peak=2e-3), gsm8k=0.5, nll_validation=0.1))
    assert not found.models.is_chosen.any()
    assert "full (2 models), because it has the learning rates 1e-3 and 2e-3" in str(
        found.left_out[0]
    )
    drawn = curves(over_durations(found.models, "target", "").axes[3])
    assert drawn["full"] == [(8, 0.4), (8, 0.5)]


@pytest.fixture(scope="module")
def committed() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of the committed records, and their marked models."""
    scores = load(RECORDS)
    return scores, selected(scores)


@pytest.fixture(scope="module")
def expected(
    committed: tuple[pd.DataFrame, pd.DataFrame],
) -> dict[tuple[str, str, str], dict[float, float]]:
    """Mean target score by duration of each main method, chosen row by row."""
    losses: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    targets: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in committed[0].itertuples():
        if row.method_name not in ("full", "lora_r2", "lora_r8", "lora_r32"):
            continue
        if row.optimizer != "lion_pytorch.Lion":
            continue
        label = "full" if row.method == "full" else f"LoRA r={row.rank}"
        key = row.domain, row.regime, label
        if (row.task, row.metric) == ("nll_validation", "nll_per_token"):
            losses[key][row.duration][row.lr_peak].append(row.value)
        is_maths = (row.domain, row.metric) == ("math", "exact_match,strict-match")
        is_code = (row.domain, row.metric) == ("code", "pass@1")
        if is_maths or (is_code and json.loads(row.settings)["samples"] == 1):
            targets[key][row.duration][row.lr_peak].append(row.value)
    found = {}
    for key, by_duration in losses.items():
        by_rate = {rate: np.mean(x) for rate, x in by_duration[max(by_duration)].items()}
        rate = min(by_rate, key=lambda one: by_rate[one])
        found[key] = {
            duration: float(np.mean(rates[rate]))
            for duration, rates in targets[key].items() if rates.get(rate)
        }  # fmt: skip
    return found


@pytest.mark.slow
def test_claims_figures_and_tables_compare_72_settings_at_the_same_rates(
    committed: tuple[pd.DataFrame, pd.DataFrame],
    expected: dict[tuple[str, str, str], dict[float, float]],
) -> None:
    scores, found = committed
    assert sum(map(len, expected.values())) == 72
    (evidence,) = evidence_sets(found, scores)
    means = evidence.main.groupby(["domain", "regime", "label", "duration"]).target.mean()
    assert len(means) == 72
    figures = [over_durations(found, "target", ""), pareto(found, "")]
    for panel, beside, condition in zip(*(f.axes for f in figures), CONDITIONS, strict=True):
        table = paper_table(TABLES[TABLE[condition]], found, scores)
        table = table.set_index(["method", "duration"]).measured
        for label in METHODS:
            scored = expected[(*condition, label)]
            assert means.loc[(*condition, label)].to_dict() == pytest.approx(scored)
            assert dict(curves(panel)[label]) == pytest.approx(scored)
            assert table.loc[label].to_dict() == pytest.approx(scored)
            kept = sorted(target for _, target in curves(beside)[label])
            assert kept == pytest.approx(sorted(scored.values()))
