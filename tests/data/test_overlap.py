"""Training text that stands in an evaluation set is found, listed and left out on request."""

import json
import random
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest

from lvf.config.compose import compose
from lvf.config.evals_schema import EvalsConfig
from lvf.config.schema import RunConfig
from lvf.data.evaluation_items import evaluation_items
from lvf.data.overlap import FEWEST_WORDS, NGRAM_WORDS, Items, OverlapIndex
from lvf.data.report import report
from lvf.data.shards import prepare
from lvf.errors import UserError

from .conftest import MakeRun, pair, read_rows, write_jsonl


def words_of(text: str) -> list[str]:
    """Words without case and punctuation, by another way than a regular expression."""
    cleaned = (c if c.isalnum() or c == "_" else " " for c in text.lower())
    return "".join(cleaned).split()


def brute_force(items: Items, text: str) -> set[tuple[str, int]]:
    """Every item with a window of words that is somewhere in the text."""
    words = words_of(text)
    found = set()
    for task, some in items.items():
        for number, texts in enumerate(some):
            for one in map(words_of, texts):
                size = min(NGRAM_WORDS, len(one))
                if size < FEWEST_WORDS:
                    continue
                windows = [one[at : at + size] for at in range(len(one) - size + 1)]
                if any(words[at : at + size] in windows for at in range(len(words) - size + 1)):
                    found.add((task, number))
    return found


def test_matches_are_those_of_comparing_every_window_with_every_other() -> None:
    rng = random.Random(0)
    vocabulary = ["the", "Cat", "sat,", "on", "a", "mat.", "it's", "x_1", "ÄÖ", "7"]

    def text(longest: int) -> str:
        return " ".join(rng.choices(vocabulary[:2], k=rng.randrange(longest)))

    items = {task: [[text(9), text(20)] for _ in range(40)] for task in ("one", "two")}
    items["one"][0] = ["", "The cat... sat (on) a MAT: it's x_1 ÄÖ 7 on a mat"]
    documents = [text(60) for _ in range(150)]
    documents += ["", "so the cat sat on a mat it's x_1 äö 7 on a mat again", "cat " * 12]
    index = OverlapIndex(items)
    found = index.find(documents)
    expected = [brute_force(items, document) for document in documents]
    assert [{(hit.task, hit.item) for hit in hits} for hits in found] == expected
    assert ("one", 0) in expected[-2] and 20 < sum(map(bool, expected)) < len(documents)
    for document, hits in zip(documents, found, strict=True):
        assert all(hit.words in " ".join(words_of(document)) for hit in hits)


def test_a_match_does_not_run_over_the_end_of_a_document_or_of_a_text() -> None:
    words = [f"word{number}" for number in range(16)]
    index = OverlapIndex({"task": [[" ".join(words)], [" ".join(words[:8]), " ".join(words[8:])]]})
    halves = index.find([" ".join(words[:8]), " ".join(words[8:])])
    assert [[hit.item for hit in hits] for hits in halves] == [[1], [1]]
    assert OverlapIndex({}).find(["anything"]) == [[]]


def quoting(tmp_path: Path, make_run: MakeRun) -> tuple[EvalsConfig, list[dict[str, str]], Path]:
    """A benchmark, and documents of which two quote it."""
    question = " ".join(f"number {n} of the list" for n in range(4))
    write_jsonl(tmp_path / "test.jsonl", [{"question": "short", "answer": question.upper()}])
    rows = [pair(seed) for seed in range(60)]
    rows[7] = {"query": f"It says: {question}!", "response": "yes"}
    rows[33] = {"query": "What does it say?", "response": question}
    evals = compose("domain=math").evals
    evals.benchmarks, evals.tasks, evals.forgetting = str(tmp_path), ["gsm8k"], []
    evals.lm_eval["gsm8k"].files = {"train": "none.jsonl", "test": "test.jsonl"}
    return evals, rows, tmp_path / "test.jsonl"


def test_hits_are_listed_with_the_place_of_the_document_and_the_item(
    tmp_path: Path, make_run: MakeRun
) -> None:
    evals, rows, _ = quoting(tmp_path, make_run)
    cfg = make_run(rows, seq_len=128)
    cfg.evals = evals
    prepared = prepare(cfg)
    listed = [json.loads(x) for x in (prepared.folder / "overlaps.jsonl").read_text().splitlines()]
    assert [hit["document"] for hit in listed] == [f"{cfg.data.train.path}:{n}" for n in (8, 34)]
    assert {(hit["task"], hit["item"]) for hit in listed} == {("gsm8k", 0)}
    assert prepared.stats["documents"] == 60
    told = report(prepared, cfg)
    assert "2 documents share 13 words with an evaluation item (still in" in told
    assert "compared with gsm8k (1)" in told and "train.jsonl:34: gsm8k item 0" in told


def test_on_request_what_overlaps_is_not_trained_on(
    tmp_path: Path, make_run: MakeRun, tokenizer: object
) -> None:
    evals, rows, benchmark = quoting(tmp_path, make_run)
    cfg = make_run(rows, seq_len=128)
    cfg.evals, cfg.data.exclude_overlap = evals, True
    prepared = prepare(cfg)
    assert prepared.stats["documents"] == 58
    decode = tokenizer.decode  # type: ignore[attr-defined]
    trained = " ".join(decode(row["input_ids"]) for row in read_rows(prepared.train))
    assert "number 3 of the list" not in trained and pair(8)["query"] in trained
    benchmark.write_text(json.dumps({"question": "now another"}) + "\n")
    assert prepare(cfg).folder != prepared.folder  # the items are an input of the shards
    benchmark.unlink()
    with pytest.raises(UserError, match="test.jsonl cannot be read"):
        prepare(cfg)


def test_a_missing_evaluation_set_is_told_and_harms_nothing_else(
    tmp_path: Path, make_run: MakeRun
) -> None:
    evals, rows, benchmark = quoting(tmp_path, make_run)
    cfg = make_run(rows, seq_len=128)
    cfg.evals = evals
    benchmark.unlink()
    told = report(prepare(cfg), cfg)
    assert f"compared with nothing; not with gsm8k: {benchmark} cannot be read" in told


def test_a_group_is_compared_with_all_its_subsets_and_a_missing_one_spoils_no_other(
    tmp_path: Path, make_run: MakeRun
) -> None:
    evals, rows, _ = quoting(tmp_path, make_run)
    evals.tasks = ["gsm8k", "mmlu"]
    folder = tmp_path / "a [b]{c}"
    for number, subject in enumerate(("anatomy", "virology")):
        (folder / "mmlu" / subject).mkdir(parents=True)
        items = [{"question": f"{rows[5]['query']} {n}" * number, "answer": 1} for n in range(3)]
        table = pyarrow.Table.from_pylist(items)
        name = folder / "mmlu" / subject / "test-00000-of-00001.parquet"
        pyarrow.parquet.write_table(table, name)
    shutil.copy(tmp_path / "test.jsonl", folder)
    evals.benchmarks = str(folder)
    assert {task: len(some) for task, some in evaluation_items(evals).items()} == {
        "gsm8k": 1, "mmlu": 6,
    }  # fmt: skip
    cfg = make_run(rows, seq_len=128)
    cfg.evals = evals
    assert "compared with gsm8k (1), mmlu (6)" in report(prepare(cfg), cfg)
    shutil.rmtree(folder / "mmlu")
    told = report(prepare(make_with(cfg, tmp_path)), cfg)
    assert "compared with gsm8k (1); not with mmlu: " in told
    assert "train.jsonl:34: gsm8k item 0" in told


def make_with(cfg: RunConfig, tmp_path: Path) -> RunConfig:
    """The same run on shards that are not made yet."""
    cfg.paths.shards = str(tmp_path / "others")
    return cfg


def test_the_items_are_those_that_are_scored_and_all_their_texts(shared_data: Path) -> None:
    cfg = compose("domain=math", f"evals.benchmarks={shared_data}/benchmarks")
    cfg.evals.tasks, cfg.evals.humaneval.file = ["gsm8k", "humaneval"], None
    items = evaluation_items(cfg.evals)
    counts = {task: len(some) for task, some in items.items()}
    assert counts == {
        "gsm8k": 1319, "hellaswag": 10042, "arc_challenge": 1172, "winogrande": 1267,
        "humaneval": 164,
    }  # fmt: skip
    lines = (shared_data / "benchmarks" / "hellaswag_validation.jsonl").read_text().splitlines()
    assert set(json.loads(lines[5])["endings"]) < set(items["hellaswag"][5])
