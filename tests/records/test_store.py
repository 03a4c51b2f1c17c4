"""Reading records: typed, complete, and not stopped by a broken file."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lvf.records.store import RecordWarning, items, load, load_paper

from .conftest import METRICS, Write, axes

GSM8K = METRICS["gsm8k"]


def test_a_missing_or_empty_folder_gives_an_empty_table_with_typed_columns(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        found = load(folder)
        assert len(found) == 0
        assert found["rank"].dtype == "Int64" and found.value.dtype == "float64"
        assert {"run_id", "checkpoint", "task", "metric", "stderr", "n", "path"} <= set(found)


def test_each_metric_is_a_row_with_its_axes(write: Write) -> None:
    some = ["q_proj", "v_proj"]
    here = axes("lora", rank=8, lr_peak=5e-3, seed=2, target_modules=some)
    folder = write(here, gsm8k=0.25, nll_target=[1.0, 3.0])
    found = load(folder).set_index("metric")
    assert sorted(found.index) == ["exact_match,strict-match", "nll_per_token", "tokens"]
    row = found.loc["nll_per_token"]
    assert (row.value, row.n, row["rank"], row.seed, row.lr_peak) == (2.0, 2, 8, 2, 5e-3)
    assert row.target_modules == "q_proj,v_proj" and row.has_items
    assert not found.loc["exact_match,strict-match"].has_items


def test_broken_and_alien_files_are_named_and_the_rest_is_read(write: Write) -> None:
    folder = write(axes(), run_id="good", gsm8k=0.5)
    good = json.loads(next(folder.rglob("*.json")).read_text())
    no_number = {"metrics": {"acc": {"value": "much", "stderr": None, "n": 9, "items": None}}}
    a_list = {"metrics": {"acc": {"value": [0.5], "stderr": None, "n": 9, "items": None}}}
    bad = {
        "numbers.json": json.dumps(good | a_list),
        "half.json": '{"source": "lvf", ',
        "list.json": "[1, 2]",
        "alien.json": '{"name": "something else"}',
        "newer.json": json.dumps(good | {"schema_version": 99}),
        "words.json": json.dumps(good | no_number),
    }
    for name, text in bad.items():
        (folder / name).write_text(text)
    (folder / "latin.json").write_bytes(b'{"source": "l\xe4f"}')
    (folder / "gone.json").symlink_to(folder / "nowhere")
    with pytest.warns(RecordWarning) as caught:
        found = load(folder)
    assert list(found.run_id) == ["good"]
    told = str(caught[0].message)
    assert all(name in told for name in (*bad, "latin.json", "gone.json"))
    assert all(why in told for why in ("schema 99", "'axes'", "'much'", "No such file", "utf-8"))


def test_an_older_record_takes_the_defaults_of_what_it_lacks(write: Write) -> None:
    folder = write(axes("lora", rank=8), run_id="old", gsm8k=0.5)
    (file,) = folder.rglob("*.json")
    tree = json.loads(file.read_text())
    del tree["axes"]["cooled_down"], tree["training"], tree["metrics"][GSM8K]["items"]
    file.write_text(json.dumps(tree))
    write(axes("lora", rank=8), run_id="new", gsm8k=0.25)
    found = load(folder).set_index("run_id")
    assert found.cooled_down.tolist() == [True, True] and not found.has_items.any()
    assert found.value.to_dict() == {"old": 0.5, "new": 0.25}
    assert found.dtypes["rank"] == "Int64" and found.tokens.isna().all()


def test_items_are_in_the_order_of_the_record(write: Write) -> None:
    folder = write(axes(), gsm8k=[1.0, 0.0, 0.0, 1.0])
    row = load(folder).iloc[0]
    scores = items(row.path, row.metric)
    assert scores is not None and scores.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("task", ["nll_source", "kl_base"])
def test_items_on_text_have_the_ratio_as_mean_and_its_standard_error(
    write: Write, task: str
) -> None:
    nats, tokens = np.array([4.0, 9.0, 2.5, 12.0]), np.array([2.0, 5.0, 1.0, 8.0])
    folder = write(axes(), **{task: (nats, tokens)})
    row = load(folder).set_index("metric").loc[METRICS[task]]
    scores = items(row.path, METRICS[task])
    assert scores is not None
    ratio = nats.sum() / tokens.sum()
    residuals = nats - ratio * tokens
    cochran = math.sqrt(4 / 3 * (residuals**2).sum()) / tokens.sum()
    assert scores.mean() == pytest.approx(ratio) == row.value
    assert scores.std(ddof=1) / 2 == pytest.approx(cochran)


@pytest.mark.parametrize(
    ("dataset", "method_name", "duration", "task", "value"),
    [  # typed by hand from the paper's tables S1, S2, S3, S4, S5, S6, S7, S8, S12, S13
        ("starcoder_python", "lora_r256", 20e9, "humaneval", 0.224),
        ("starcoder_python", "full", 4e9, "forgetting", 0.599),
        ("openwebmath", "full", 16e9, "gsm8k", 0.283),
        ("openwebmath", "lora_r16", 0.25e9, "forgetting", 0.640),
        ("magicoder_evol_instruct", "lora_r256", 4, "humaneval", 0.498),
        ("magicoder_evol_instruct", "full", 16, "forgetting", 0.414),
        ("metamathqa", "lora_r64", 2, "gsm8k", 0.588),
        ("metamathqa", "lora_r16", 16, "forgetting", 0.596),
        ("tulu_v2_mix", "lora_r256", 4, "gsm8k", 0.335),
        ("tulu_v2_mix", "full", 6, "forgetting", 0.621),
        ("metamathqa", "base", 0, "gsm8k", 0.145),
        ("starcoder_python", "base", 0, "humaneval", 0.138),
    ],
)
def test_the_published_numbers_are_the_papers(
    dataset: str, method_name: str, duration: float, task: str, value: float
) -> None:
    paper = load_paper()
    cell = paper[(paper.dataset == dataset) & (paper.method_name == method_name)]
    cell = cell[(cell.duration == duration) & (cell.task == task)]
    assert list(cell.value) == [value]
    assert set(cell.source) == {"paper"}


def test_all_256_cells_of_the_papers_tables_are_there() -> None:
    paper = load_paper()
    assert (paper.method != "base").sum() == 4 * 4 * 8 + 4 * 4 * 5 + 4 * 4 * 3
    assert list(paper.columns) == list(load(Path("/nowhere")).columns)


def test_published_numbers_have_the_binomial_noise_of_their_answers() -> None:
    paper = load_paper()
    stderr = paper[paper.run_id == "paper-metamathqa-full-4"].set_index("task").stderr
    assert stderr["gsm8k"] == pytest.approx(math.sqrt(0.642 * 0.358 / 1319))
    code = paper[(paper.run_id == "paper-magicoder_evol_instruct-full-8")].set_index("task")
    assert code.stderr["humaneval"] == pytest.approx(math.sqrt(0.497 * 0.503 / 164))
    assert code.n["humaneval"] == 164 and code.n["forgetting"] == 10042 + 1172 + 1267
    # three accuracies drawn independently around one value: the spread of their mean
    rng = np.random.default_rng(0)
    drawn = [rng.binomial(n, 0.446, size=20_000) / n for n in (10042, 1172, 1267)]
    assert code.stderr["forgetting"] == pytest.approx(np.mean(drawn, axis=0).std(), rel=0.02)
    assert paper[paper.task == "mt_bench"].stderr.isna().all()
