"""One row per checkpoint: measures, differences to the base, and settings never mixed."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lvf.records.checkpoints import models
from lvf.records.schema import Metric, Record, read_record, record_path, write_record
from lvf.records.store import RecordWarning, load, load_paper

from .conftest import Write, axes, metric


def model(folder: Path, method: str = "full") -> pd.Series:
    """The only model of a method."""
    found = models(load(folder))
    (index,) = found.index[found.method == method]
    return found.loc[index]


def test_the_target_is_that_of_the_domain(write: Write) -> None:
    write(axes(), run_id="m", gsm8k=0.5, humaneval=0.1)
    folder = write(axes(domain="code", dataset="c"), run_id="c", gsm8k=0.2, humaneval=0.7)
    found = models(load(folder)).set_index("domain")
    assert found.target["math"] == 0.5 and found.target["code"] == 0.7
    assert found.target_metric.isna().all()  # no items, so nowhere to read them from


def test_retention_is_the_mean_of_three_with_a_third_of_the_root_sum_of_squares(
    write: Write,
) -> None:
    parts = {"hellaswag": [1.0, 0.0, 1.0, 1.0], "arc_challenge": [1.0, 0.0], "winogrande": 0.5}
    one = model(write(axes(), **parts))
    assert one.retention == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert one.retention_se == pytest.approx(math.sqrt(0.25**2 + 0.5**2 + 0.01**2) / 3)
    assert (one.hellaswag, one.arc_challenge, one.winogrande) == (0.75, 0.5, 0.5)


def test_without_one_of_its_parts_there_is_no_retention(write: Write) -> None:
    one = model(write(axes(), hellaswag=0.9, arc_challenge=0.8))
    assert math.isnan(one.retention) and one.hellaswag == 0.9


def test_each_scale_averages_the_score_that_it_names(tmp_path: Path) -> None:
    for scale in ("embedded", "small", "paper"):
        for task in ("hellaswag", "arc_challenge", "winogrande"):
            record = Record(
                source="lvf", run_id=scale, checkpoint="x", task=task, axes=axes(scale=scale),
                metrics={"acc": metric(0.25), "acc_mean_token": metric(0.75)},
            )  # fmt: skip
            write_record(record_path(tmp_path, scale, "x", task, "0"), record)
    found = models(load(tmp_path)).set_index("scale").retention
    assert dict(found) == {"embedded": 0.25, "small": 0.75, "paper": 0.75}


def test_a_file_keeps_eight_digits_of_an_item_and_all_of_the_mean(tmp_path: Path) -> None:
    third = Metric(value=1 / 3, n=4, items=[1 / 3, 2 / 3 * 1e-9, 1.0, 0.0])
    record = Record(
        source="lvf", run_id="x", checkpoint="end", task="nll_target", axes=axes(),
        metrics={"nll_per_token": third},
    )  # fmt: skip
    path = record_path(tmp_path, "x", "end", "nll_target", "0")
    write_record(path, record)
    stored = read_record(path).metrics["nll_per_token"]
    assert stored.value == 1 / 3
    assert stored.items == [0.33333333, 6.6666667e-10, 1.0, 0.0]


def test_the_difference_to_the_base_is_paired_by_item(write: Write) -> None:
    base, ours = [1.0, 0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0, 1.0]
    write(axes("base"), gsm8k=base)
    one = model(write(axes(), gsm8k=ours))
    gains = [y - x for x, y in zip(base, ours, strict=True)]
    mean = sum(gains) / 5
    variance = sum((gain - mean) ** 2 for gain in gains) / 4
    assert one.target_delta == pytest.approx(0.4) == pytest.approx(mean)
    assert one.target_delta_se == pytest.approx(math.sqrt(variance / 5))


def test_the_difference_of_likelihoods_is_paired_by_document_and_weighted_by_tokens(
    write: Write,
) -> None:
    tokens = np.array([2.0, 5.0, 1.0, 8.0])
    before, after = np.array([4.0, 9.0, 2.5, 12.0]), np.array([5.0, 13.0, 2.5, 17.0])
    write(axes("base"), nll_source=(before, tokens))
    one = model(write(axes(), nll_source=(after, tokens)))
    rise = (after - before).sum() / 16
    residuals = (after - before) - rise * tokens
    assert one.nll_source_delta == pytest.approx(rise)
    expected = math.sqrt(4 / 3 * (residuals**2).sum()) / 16
    assert one.nll_source_delta_se == pytest.approx(expected)


def test_without_common_items_the_difference_has_both_standard_errors(write: Write) -> None:
    write(axes("base"), gsm8k=0.25)
    one = model(write(axes(), gsm8k=0.75))
    assert one.target_delta == 0.5
    assert one.target_delta_se == pytest.approx(math.sqrt(2) * 0.01)


def test_every_data_set_has_its_own_base(write: Write) -> None:
    for dataset, before, after in (("a", 3.0, 1.0), ("b", 5.0, 1.0)):
        write(axes("base", dataset=dataset), nll_target=before)
        folder = write(axes(dataset=dataset), nll_target=after)
    found = models(load(folder)).set_index(["dataset", "method"])
    assert found.nll_target_delta["a", "full"] == -2 and found.nll_target_delta["b", "full"] == -4


def test_settings_are_never_mixed_and_what_is_left_out_is_said(write: Write) -> None:
    quick, whole = {"limit": 10}, {"limit": None}
    write(axes("base"), gsm8k=0.1, settings=whole)
    write(axes("base"), gsm8k=0.9, settings=quick)
    write(axes(), run_id="both", gsm8k=0.4, settings=whole)
    write(axes(), run_id="both", gsm8k=0.8, settings=quick)
    folder = write(axes(seed=1), run_id="whole", gsm8k=0.5, settings=whole)
    with pytest.warns(RecordWarning, match="several settings") as caught:
        found = models(load(folder)).set_index("run_id")
    assert (found.target["both"], found.target["whole"]) == (0.4, 0.5)
    assert found.target_delta["both"] == pytest.approx(0.3)
    told = str(caught[0].message)
    assert "3 with limit=None" in told and "2 with limit=10" in told


def test_a_base_under_other_settings_gives_no_difference(write: Write) -> None:
    write(axes("base"), gsm8k=0.1, settings={"limit": 10})
    write(axes(), run_id="a", gsm8k=0.4)
    folder = write(axes(seed=1), run_id="b", gsm8k=0.5)
    with pytest.warns(RecordWarning):
        found = models(load(folder)).set_index("run_id")
    assert math.isnan(found.target_delta["a"]) and found.target["a"] == 0.4


def test_records_that_contradict_each_other_are_reported_and_the_newest_counts(
    write: Write,
) -> None:
    folder = write(axes(), run_id="one", gsm8k=0.4)
    path = next(folder.rglob("*.json"))
    text = path.read_text().replace("0.4", "0.6").replace("2026-01", "2026-02")
    (folder / "copy.json").write_text(text)
    with pytest.warns(RecordWarning, match=r"copy\.json \(0\.6\)"):
        found = models(load(folder))
    assert list(found.target) == [0.6]


def test_published_models_have_the_average_alone_and_their_difference_to_the_base() -> None:
    paper = models(load_paper()).set_index("run_id")
    one = paper.loc["paper-magicoder_evol_instruct-full-16"]
    assert (one.target, one.retention) == (0.416, 0.414)
    assert one.retention_delta == pytest.approx(0.414 - 0.671)
    assert math.isnan(one.hellaswag)
    noise = 0.414 * 0.586 * (1 / 10042 + 1 / 1172 + 1 / 1267)
    assert one.retention_se == pytest.approx(math.sqrt(noise) / 3)
