"""Unique samples and their rarefaction against brute force."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lvf.analysis.diversity import (
    diversity_metrics,
    expected_unique,
    generations,
    problem_table,
)
from lvf.analysis.samples import analyse_samples
from lvf.evals.measure import Subject
from lvf.records.schema import read_record
from tests.reporting.conftest import axes

COUNTS = [[1, 1, 1, 1], [4], [3, 1], [2, 2, 3], [5, 1, 1, 1]]


def labels(counts: list[int]) -> list[int]:
    return [label for label, count in enumerate(counts) for _ in range(count)]


@pytest.mark.parametrize("counts", COUNTS)
def test_rarefaction_is_the_mean_over_all_subsets(counts: list[int]) -> None:
    drawn = labels(counts)
    for size in range(len(drawn) + 1):
        subsets = itertools.combinations(range(len(drawn)), size)
        uniques = [len({drawn[i] for i in subset}) for subset in subsets]
        assert expected_unique(counts, size) == pytest.approx(np.mean(uniques))


def test_rarefaction_is_unbiased_for_new_samples_of_the_same_distribution() -> None:
    p, samples, size = [0.6, 0.3, 0.1], 5, 3
    mean = 0.0
    for drawn in itertools.product(range(3), repeat=samples):
        counts = [drawn.count(label) for label in range(3)]
        mean += math.prod(p[label] for label in drawn) * expected_unique(counts, size)
    assert mean == pytest.approx(sum(1 - (1 - share) ** size for share in p))


def test_more_cannot_be_drawn_than_there_are() -> None:
    with pytest.raises(ValueError, match="5 samples of 4"):
        expected_unique([3, 1], 5)


def sample(task: str, completion: str, passed: bool) -> dict[str, Any]:
    return {"task_id": task, "completion": completion, "passed": passed}


def test_unique_samples_are_counted_by_string_and_verdict() -> None:
    made = [sample("a", "x", True)] * 3 + [sample("a", "y", True), sample("a", "z", False)]
    made += [sample("b", "x", False)] * 4 + [sample("b", "x ", False)]
    table = problem_table(generations(made)).set_index("task_id")
    assert list(table.unique) == [3, 2]
    assert list(table.unique_passing) == [2, 0]
    assert list(table.unique_failing) == [1, 2]
    pairs_that_differ = [3 * 1 + 3 * 1 + 1 * 1, 4 * 1]
    assert list(table.distinct_pair) == pytest.approx([n / 10 for n in pairs_that_differ])


def test_a_program_that_depends_on_chance_is_one_string_of_both_verdicts() -> None:
    made = [sample("a", "x", True), sample("a", "x", False), sample("a", "y", False)]
    (row,) = problem_table(generations(made)).to_dict("records")
    assert (row["unique"], row["unique_passing"], row["unique_failing"]) == (2, 1, 2)


def random_samples(seed: int, problems: int, samples: int) -> list[dict[str, Any]]:
    """Completions of every problem from one distribution; the first two of five pass."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(5, size=(problems, samples), p=[0.5, 0.2, 0.15, 0.1, 0.05])
    return [sample(str(p), str(d), bool(d < 2)) for p, row in enumerate(drawn) for d in row]


def test_two_samplings_of_one_model_differ_by_no_more_than_chance_whatever_their_sizes() -> None:
    many, few = (generations(random_samples(n, 400, n)) for n in (50, 8))
    metrics = diversity_metrics(problem_table(few, many))
    assert metrics["unique"].value < 5 * 0.9  # few samples find fewer strings
    for name in ("unique", "unique_passing", "unique_failing"):
        ratio = metrics[f"{name}.over_base"]
        assert ratio.stderr is not None and ratio.stderr < 0.02
        assert abs(ratio.value - 1) < 3 * ratio.stderr


def test_the_ratio_and_its_error_are_those_of_sums_over_problems() -> None:
    own, base = generations(random_samples(1, 60, 12)), generations(random_samples(2, 60, 9))
    table = problem_table(own, base)
    able = table[table["unique_failing.size"] >= 2]
    ratio = diversity_metrics(table)["unique_failing.over_base"]
    above, below = (
        able["unique_failing.rarefied"].to_numpy(),
        able["unique_failing.base"].to_numpy(),
    )
    assert ratio.n == len(able) < 60
    assert ratio.value == pytest.approx(above.sum() / below.sum())
    rng = np.random.default_rng(0)
    picked = rng.integers(len(able), size=(4000, len(able)))
    bootstrapped = above[picked].sum(1) / below[picked].sum(1)
    assert ratio.stderr == pytest.approx(bootstrapped.std(), rel=0.1)


def subject(folder: Path, method: str) -> Subject:
    return Subject(
        run_id=method, checkpoint="base" if method == "base" else "ba000004", axes=axes(method),
        training={}, load=lambda: pytest.fail("no model is needed"), folder=folder / method,
    )  # fmt: skip


def write_samples(subject: Subject, made: list[dict[str, Any]], settings: str) -> Path:
    subject.folder.mkdir(parents=True, exist_ok=True)
    file = subject.folder / f"humaneval-{settings}.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in made))
    return file


def test_stored_samples_become_records_beside_their_problem_tables(tmp_path: Path) -> None:
    base, tuned = subject(tmp_path, "base"), subject(tmp_path, "full")
    write_samples(base, random_samples(1, 6, 20), "aaaa")
    write_samples(tuned, random_samples(2, 6, 20), "aaaa")
    write_samples(tuned, random_samples(3, 6, 20), "bbbb")  # settings that the base lacks
    not_judged = [
        {k: v for k, v in one.items() if k != "passed"} for one in random_samples(4, 2, 2)
    ]
    write_samples(tuned, not_judged, "cccc")
    write_samples(tuned, [], "dddd")  # whose sampling has just begun
    paths = analyse_samples([tuned], base, tmp_path / "records")
    of_base, compared, alone = (read_record(path) for path in paths)
    assert (of_base.run_id, of_base.task) == ("base", "diversity")
    assert "unique.over_base" in compared.metrics
    assert "unique.over_base" not in alone.metrics and "unique.over_base" not in of_base.metrics
    assert compared.settings["samples_per_problem"] == 20
    table = pd.read_parquet(paths[1].with_suffix(".parquet"))
    assert compared.metrics["unique_passing"].items == list(table.unique_passing)
    assert [sum(counts) for counts in table.passing + table.failing] == [20] * 6
    before = [path.stat().st_mtime_ns for path in paths]
    assert analyse_samples([tuned], base, tmp_path / "records") == paths
    assert [path.stat().st_mtime_ns for path in paths] == before
