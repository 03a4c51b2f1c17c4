"""Shards are exact, made once, named by their inputs, and whole or not there."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lvf.config.compose import compose
from lvf.config.data_schema import SourceConfig
from lvf.config.schema import RunConfig
from lvf.data.prompts import example_text
from lvf.data.recipe import recipe_inputs
from lvf.data.shards import load_prepared, prepare
from lvf.embedded.corpora import base_dir
from lvf.errors import UserError

from .conftest import MakeRun, pair, read_rows, write_jsonl

FORK = multiprocessing.get_context("fork")


def folder_names(cfg: RunConfig) -> set[str]:
    """What lies in the shard folder, but for lock files."""
    names = {path.name for path in Path(cfg.paths.shards).glob("*")}
    return {name for name in names if not name.endswith(".lock")}


def test_counts_are_those_of_tokenising_each_example_alone(
    make_run: MakeRun, tokenizer: Any
) -> None:
    cfg = make_run()
    prepared = prepare(cfg)
    num_tokens = num_loss_tokens = 0
    for seed in range(200):
        prompt, response = example_text(pair(seed), cfg.data)
        joined = len(tokenizer(prompt + response)["input_ids"]) + 1
        num_tokens += joined
        num_loss_tokens += joined - len(tokenizer(prompt)["input_ids"])
    assert (prepared.num_tokens, prepared.num_loss_tokens) == (num_tokens, num_loss_tokens)
    rows = read_rows(prepared.train)
    assert len(rows) == prepared.num_rows
    assert sum(int((row["segment_ids"] > 0).sum()) for row in rows) == num_tokens
    assert sum(int(row["loss_mask"].sum()) for row in rows) == num_loss_tokens
    padding = prepared.num_rows * cfg.training.seq_len - num_tokens
    share = padding / (prepared.num_rows * cfg.training.seq_len)
    assert prepared.stats["padding_share"] == pytest.approx(share)


def test_the_rows_decode_to_the_examples_and_the_loss_to_their_responses(
    make_run: MakeRun, tokenizer: Any
) -> None:
    cfg = make_run()
    found = set()
    for row in read_rows(prepare(cfg).train):
        for number in range(1, int(row["segment_ids"].max()) + 1):
            here = row["segment_ids"] == number
            ids, in_loss = row["input_ids"][here], row["loss_mask"][here].astype(bool)
            found.add((tokenizer.decode(ids[~in_loss]), tokenizer.decode(ids[in_loss])))
    texts = [example_text(pair(seed), cfg.data) for seed in range(200)]
    assert found == {("<s>" + prompt, response + "</s>") for prompt, response in texts}


def test_each_answer_of_a_conversation_ends_in_one_eos_token(
    make_run: MakeRun, tokenizer: Any
) -> None:
    turns = [("user", "a cat"), ("assistant", "seven dogs"), ("user", "buy"), ("assistant", "12")]
    talk = [{"role": role, "content": content} for role, content in turns]
    cfg = make_run([{"messages": talk}] * 20)
    cfg.data.prompt_column, cfg.data.response_column = "prompt", "response"
    cfg.data.template = "plain"
    cfg.data.validation = cfg.data.heldout = cfg.data.train
    cfg.training.global_batch_size = 1
    prepared = prepare(cfg)
    row = read_rows(prepared.train)[0]
    ids = row["input_ids"][row["segment_ids"] == 1]
    in_loss = row["loss_mask"][row["segment_ids"] == 1].astype(bool)
    first, last = [place for place, one in enumerate(ids) if one == tokenizer.eos_token_id]
    assert last == len(ids) - 1 and in_loss[last] and not in_loss[first]
    assert tokenizer.decode(ids[:first]).endswith("<|assistant|>\nseven dogs")
    held = json.loads(prepared.heldout.read_text().splitlines()[0])
    assert held["prompt"] == (
        "<|user|>\na cat\n<|assistant|>\nseven dogs</s>\n<|user|>\nbuy\n<|assistant|>\n"
    )


def test_columns_are_as_small_as_the_vocabulary_allows(make_run: MakeRun) -> None:
    (row, *_) = read_rows(prepare(make_run()).train)
    dtypes = {name: value.dtype.name for name, value in row.items()}
    assert dtypes == {"input_ids": "uint16", "loss_mask": "uint8", "segment_ids": "uint16"}


def test_running_text_comes_back_from_the_shards(make_run: MakeRun, tokenizer: Any) -> None:
    texts = [pair(seed)["query"] for seed in range(100)]
    cfg = make_run([{"text": text, "query": "-", "response": "-"} for text in texts])
    cfg.data.prompt_column = cfg.data.response_column = None
    cfg.data.text_column = "text"
    cfg.data.validation = cfg.data.heldout = cfg.data.train
    prepared = prepare(cfg)
    rows = read_rows(prepared.train)
    joined = [int(one) for row in rows for one in row["input_ids"][row["segment_ids"] > 0]]
    assert tokenizer.decode(joined) == "".join(f"<s>{text}</s>" for text in texts)
    held = [json.loads(line) for line in prepared.heldout.read_text().splitlines()]
    assert held == [{"prompt": "", "response": text} for text in texts]


def test_given_held_out_files_are_used_whole_and_templated(make_run: MakeRun) -> None:
    cfg = make_run()
    prepared = prepare(cfg)
    expected = [example_text(pair(seed), cfg.data) for seed in range(1000, 1010)]
    for path in (prepared.validation, prepared.heldout):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(line["prompt"], line["response"]) for line in lines] == expected


def test_held_out_documents_taken_from_train_are_not_trained_on(
    make_run: MakeRun, tokenizer: Any
) -> None:
    cfg = make_run()
    cfg.data.validation = cfg.data.heldout = None
    cfg.data.split_documents = 7
    prepared = prepare(cfg)
    trained = "".join(tokenizer.decode(row["input_ids"]) for row in read_rows(prepared.train))
    held = [json.loads(line) for path in (prepared.validation, prepared.heldout)
            for line in path.read_text().splitlines()]  # fmt: skip
    assert len(held) == 14
    assert not [one for one in held if one["prompt"] in trained]
    assert prepared.stats["documents"] == 200 - 14


def test_a_hub_corpus_is_read_only_as_far_as_its_token_budget_goes(
    make_run: MakeRun, tokenizer: Any, tmp_path: Path
) -> None:
    cfg = compose("scale=paper", "domain=math", "regime=cpt", "duration=1e9")
    # All budgets of a trunk share its rows; alone each has its own (PAPER.md section 1.4).
    assert recipe_inputs(cfg, tokenizer)["max_rows"] == 25431 * 192
    cfg.trunk.branch = False
    assert recipe_inputs(cfg, tokenizer)["max_rows"] == 1272 * 192
    cfg.data.train = make_run().data.train
    assert recipe_inputs(cfg, tokenizer)["max_rows"] is None


def test_preparing_again_does_nothing(make_run: MakeRun) -> None:
    first = prepare(make_run())
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    assert prepare(make_run()) == first
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before


def other_rows(cfg: RunConfig) -> None:
    write_jsonl(Path(cfg.data.train.path), map(pair, range(1, 201)))


def other_heldout(cfg: RunConfig) -> None:
    assert cfg.data.heldout is not None
    write_jsonl(Path(cfg.data.heldout.path), map(pair, range(2000, 2010)))


def no_validation(cfg: RunConfig) -> None:
    cfg.data.validation = None


def other_template(cfg: RunConfig) -> None:
    cfg.data.template = "plain"


def other_column(cfg: RunConfig) -> None:
    cfg.data.prompt_column = "response"


def running_text(cfg: RunConfig) -> None:
    cfg.data.prompt_column = cfg.data.response_column = None
    cfg.data.text_column = "query"


def fewer_documents(cfg: RunConfig) -> None:
    cfg.data.max_documents = 100


def shorter_rows(cfg: RunConfig) -> None:
    cfg.training.seq_len = 48


def other_tokenizer(cfg: RunConfig) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(cfg.model.path)
    tokenizer.add_tokens(["cat and"])
    cfg.model.tokenizer = str(Path(cfg.paths.shards).parent / "tokenizer")
    tokenizer.save_pretrained(cfg.model.tokenizer)


def packed_by_ratio(cfg: RunConfig) -> None:
    cfg.training.packing_ratio = 2


def without_overlap(cfg: RunConfig) -> None:
    cfg.data.exclude_overlap = True


CHANGES = [
    other_rows, other_heldout, no_validation, other_template, other_column, running_text,
    fewer_documents, shorter_rows, other_tokenizer, packed_by_ratio, without_overlap,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_any_changed_input_gives_another_folder(
    make_run: MakeRun, change: Callable[[RunConfig], None]
) -> None:
    cfg = make_run()
    before = prepare(cfg).folder
    change(cfg)
    assert prepare(cfg).folder != before


def test_what_does_not_enter_the_shards_does_not_change_their_folder(make_run: MakeRun) -> None:
    cfg = make_run()
    before = prepare(cfg).folder
    cfg.seed, cfg.duration, cfg.training.global_batch_size = 5, 3.0, 2
    assert prepare(cfg).folder == before


def test_the_recipe_names_the_inputs_and_what_they_stand_for(make_run: MakeRun) -> None:
    cfg = make_run()
    recipe = json.loads((prepare(cfg).folder / "recipe.json").read_text())
    assert recipe["data"]["train"]["path"] == cfg.data.train.path
    assert recipe["inputs"]["seq_len"] == cfg.training.seq_len
    assert recipe["stats"]["documents"] == 200


def test_two_processes_preparing_at_once_make_one_folder(make_run: MakeRun) -> None:
    cfg = make_run()
    processes = [FORK.Process(target=prepare, args=(cfg,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert folder_names(cfg) == {prepare(cfg).folder.name}


def test_bad_input_found_late_is_told_and_left_out_or_refused_and_then_leaves_nothing(
    make_run: MakeRun,
) -> None:
    cfg = make_run([*map(pair, range(300)), {"query": "", "response": "x"}])
    cfg.data.strict = True
    with pytest.raises(UserError, match=r"train.jsonl:301: column query is empty"):
        prepare(cfg)
    assert folder_names(cfg) == set()
    cfg.data.strict = False
    stats = prepare(cfg).stats
    assert (stats["documents"], stats["found"]) == (300, {"empty query": 1})
    (place,) = stats["places"]["empty query"]
    assert place.endswith("train.jsonl:301: column query is empty")


def test_strictness_holds_for_examples_longer_than_the_context(make_run: MakeRun) -> None:
    cfg = make_run(seq_len=24)
    cfg.data.strict = True
    with pytest.raises(UserError, match=r"train.jsonl:\d+: \d+ tokens; .* longer than a row"):
        prepare(cfg)


def test_after_a_full_disk_the_preparation_goes_on_where_it_was(make_run: MakeRun) -> None:
    import resource

    cfg = make_run()

    def with_little_room(queue: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            prepare(cfg)
        except UserError as error:
            queue.put(str(error))

    queue: Any = FORK.SimpleQueue()
    process = FORK.Process(target=with_little_room, args=(queue,))
    process.start()
    process.join()
    assert "cannot be written" in queue.get()
    assert not list(Path(cfg.paths.shards).rglob("recipe.json"))
    prepared = prepare(cfg)
    assert folder_names(cfg) == {prepared.folder.name}
    assert prepared.stats["documents"] == 200


def test_a_folder_that_cannot_be_written_is_refused_with_the_remedy(make_run: MakeRun) -> None:
    cfg = make_run()
    cfg.paths.shards = cfg.data.train.path  # a file stands where the folder should be
    with pytest.raises(UserError, match="cannot be written.*paths.shards"):
        prepare(cfg)


def test_fewer_rows_than_a_batch_are_refused_with_the_numbers(make_run: MakeRun) -> None:
    rows = prepare(make_run()).num_rows
    with pytest.raises(UserError, match=f"gives {rows} rows of 64 .* the {rows + 1} of one batch"):
        prepare(make_run(global_batch_size=rows + 1))


def test_prompts_that_fill_the_rows_alone_are_refused_with_the_remedy(make_run: MakeRun) -> None:
    cfg = make_run()
    cfg.data.template = "alpaca"
    with pytest.raises(UserError, match="prompts of all 200 documents.*seq_len=64"):
        prepare(cfg)


def test_too_few_documents_for_held_out_sets_are_refused(make_run: MakeRun) -> None:
    cfg = make_run(map(pair, range(5)))
    cfg.data.validation = cfg.data.heldout = None
    with pytest.raises(UserError, match="none is left for heldout.*data.heldout={path"):
        prepare(cfg)
    assert folder_names(cfg) == set()


def test_a_tokenizer_larger_than_the_model_is_refused(make_run: MakeRun) -> None:
    cfg = make_run()
    cfg.model.tokenizer = str(base_dir())
    with pytest.raises(UserError, match="has 1280 tokens, more than the 512"):
        prepare(cfg)


def test_rows_longer_than_the_model_are_refused(make_run: MakeRun) -> None:
    with pytest.raises(UserError, match="seq_len=129 exceeds the 128 positions"):
        prepare(make_run(seq_len=129))


def test_a_missing_source_is_refused_before_anything_is_made(make_run: MakeRun) -> None:
    cfg = make_run()
    cfg.data.train = SourceConfig(path="./missing.jsonl")
    with pytest.raises(UserError, match=r"missing.jsonl does not exist"):
        prepare(cfg)
    assert folder_names(cfg) == set()


def test_an_unknown_template_is_refused(make_run: MakeRun) -> None:
    cfg = make_run()
    cfg.data.template = "zephyr"
    with pytest.raises(UserError, match="'zephyr' is not one of plain"):
        prepare(cfg)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_shards_are_noticed_and_the_remedy_named(make_run: MakeRun, damage: str) -> None:
    prepared = prepare(make_run())
    (shard,) = prepared.train.rglob("*.mds")
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        shard.unlink()
    with pytest.raises(UserError, match=f"damaged.*rm -r {prepared.folder}"):
        load_prepared(prepared.folder)


def test_a_token_budget_beyond_the_corpus_is_announced(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = make_run()
    cfg.regime.duration_unit, cfg.duration = "tokens", 1.0
    prepared = prepare(cfg)
    assert "times" not in capsys.readouterr().out
    cfg.duration = 2.5 * prepared.num_rows * cfg.training.seq_len
    prepare(cfg)
    assert "goes through it 2.5 times" in capsys.readouterr().out
