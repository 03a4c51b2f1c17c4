"""The generated world: determinism, official columns and correct answers."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from lvf.embedded import choices, code, maths, world
from lvf.embedded.corpora import BENCHMARK_ITEMS, ROWS, fingerprint, write_world
from lvf.embedded.files import embedded_file
from lvf.embedded.source import script_document

OFFICIAL = {
    "benchmarks/hellaswag_validation": "ind activity_label ctx_a ctx_b ctx endings label "
    "source_id split split_type",
    "benchmarks/arc_challenge_test": "id question choices answerKey",
    "benchmarks/winogrande_validation": "sentence option1 option2 answer",
    "benchmarks/gsm8k_test": "question answer",
    "benchmarks/humaneval_test": "task_id prompt entry_point canonical_solution test",
    "train/math_ift": "type original_question query response",
    "train/code_ift": "instruction response",
    "train/math_cpt": "text",
    "train/code_cpt": "text",
    "train/source": "text",
}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.jsonl"))
    }


def test_two_writes_of_one_seed_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    assert digests(write_world(tmp_path)) == digests(folder)


def test_another_seed_gives_another_folder() -> None:
    assert fingerprint(0) != fingerprint(1)


def test_a_written_world_is_not_written_again(folder: Path) -> None:
    before = folder.stat().st_mtime_ns
    assert write_world(folder.parent) == folder
    assert folder.stat().st_mtime_ns == before


def test_an_interrupted_write_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(choices, "choice_rows", broken)
    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_files_load_in_datasets_with_the_official_columns(
    folder: Path, name: str, tmp_path: Path
) -> None:
    from datasets import load_dataset

    data = load_dataset(
        "json", data_files=str(folder / f"{name}.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    assert data.column_names == OFFICIAL[name].split()
    part, kind = name.split("/")
    assert len(data) == (BENCHMARK_ITEMS if part == "benchmarks" else ROWS[part][kind])


def test_choice_answers_agree_with_the_facts(rows: Any) -> None:
    facts = world.world().facts
    for row in rows("benchmarks/arc_challenge_test"):
        gold = row["choices"]["text"]["ABCD".index(row["answerKey"])]
        matches = [
            (relation.name, subject)
            for relation in world.RELATIONS
            for question in (*relation.questions, *choices.REWORDED.get(relation.name, ()))
            for name, subject in facts
            if name == relation.name and question.format(s=subject) == row["question"]
        ]
        assert [facts[match] for match in matches] == [gold]
        assert len(set(row["choices"]["text"])) == 4


def test_hellaswag_items_continue_as_the_training_text_does(rows: Any) -> None:
    from lm_eval.tasks.hellaswag.utils import preprocess

    known = {
        (script.label, person.name): choices.script_sentences(script, person)
        for script in choices.scripts().items
        for person in world.world().people.items
    }
    whole = 0
    for row in rows("benchmarks/hellaswag_validation"):
        assert preprocess(row["ctx_a"]) == row["ctx_a"]
        sentences = known[row["activity_label"], row["ctx_a"].split()[0]]
        shown = [sentence for sentence in sentences if sentence in row["ctx_a"]]
        assert row["ctx_a"] == " ".join(shown)
        offered = [f"{row['ctx_b'].capitalize()} {preprocess(e)}" for e in row["endings"]]
        gold = offered[int(row["label"])]
        assert sentences.index(gold) > sentences.index(shown[-1])
        complete = shown == sentences[: len(shown)] and gold == sentences[len(shown)]
        whole += complete
        # Only a context without gaps may offer another step of the same script.
        assert len(set(offered) & set(sentences)) == 1 or complete
        assert len(set(offered)) == 4
    assert 0.5 < whole / len(rows("benchmarks/hellaswag_validation")) < 0.9


def test_each_answer_place_is_used_about_equally_often(rows: Any) -> None:
    for name, column, places in (
        ("hellaswag_validation", "label", "0123"),
        ("arc_challenge_test", "answerKey", "ABCD"),
        ("winogrande_validation", "answer", "12"),
    ):
        answers = [row[column] for row in rows(f"benchmarks/{name}")]
        for place in places:
            expected = len(answers) / len(places)
            assert abs(answers.count(place) - expected) < 0.25 * expected


def test_winogrande_options_both_stand_in_the_sentence(rows: Any) -> None:
    for row in rows("benchmarks/winogrande_validation"):
        before = row["sentence"].split("_")[0]
        assert row["sentence"].count("_") == 1
        assert row["option1"] in before and row["option2"] in before
        assert row["option1"] != row["option2"]


def test_every_reasoning_line_is_true_and_the_last_one_is_the_answer(rows: Any) -> None:
    exact = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": lambda a, b: a / b}
    pairs = [(r["query"], r["response"]) for r in rows("train/math_ift")]
    pairs += [(r["question"], r["answer"]) for r in rows("benchmarks/gsm8k_test")]
    for question, solution in pairs:
        *lines, last = solution.split("\n")
        assert 2 <= len(lines) <= 4
        result = re.search(r"\d+", question)
        value = int(result[0]) if result else -1
        for number, line in enumerate(lines):
            left, sign, right, equals, total = line.split(" ")
            assert equals == "=" and exact[sign](int(left), int(right)) == int(total)
            assert int(left) == value  # Each line goes on from the one before.
            assert number == 0 or right in re.findall(r"\d+", question)
            value = int(total)
        assert last == f"#### {value}"
        assert re.search(r"#### (\-?[0-9\.\,]+)", solution)


def test_every_canonical_solution_passes_its_own_test_and_examples(rows: Any) -> None:
    import doctest

    for row in rows("benchmarks/humaneval_test"):
        scope: dict[str, Any] = {}
        exec(f"{row['prompt']}{row['canonical_solution']}\n{row['test']}", scope)
        function = scope[row["entry_point"]]
        scope["check"](function)
        examples = doctest.DocTestParser().get_examples(function.__doc__)
        assert len(examples) == 2
        assert all(repr(eval(e.source, scope)) == e.want.strip() for e in examples)


def test_no_trivial_body_passes_a_code_test(rows: Any) -> None:
    for row in rows("benchmarks/humaneval_test"):
        argument = row["prompt"].split("(")[1].split(")")[0]
        for body in (f"return {argument}", "return 0", "return []", "return ''"):
            scope: dict[str, Any] = {}
            exec(f"{row['prompt']}    {body}\n{row['test']}", scope)
            with pytest.raises(AssertionError):
                scope["check"](scope[row["entry_point"]])


def test_code_prompts_have_the_form_of_humaneval(rows: Any) -> None:
    prompts = [row["prompt"] for row in rows("benchmarks/humaneval_test")]
    prompts += [row["instruction"] + "\n" for row in rows("train/code_ift")]
    for prompt in prompts:
        assert re.fullmatch(r'def \w+\(\w+\):\n    """.+\n\n(    .+\n)+    """\n', prompt)


def test_frequent_facts_are_stated_more_often_than_rare_ones() -> None:
    import random

    rng = random.Random(0)
    people = world.world().people
    counts = dict.fromkeys((p.name for p in people.items), 0)
    for _ in range(20_000):
        counts[script_document(rng)[0].split("|")[2]] += 1
    head, tail = ([counts[p.name] for p in people.band(*band)] for band in ((0, 0.25), (0.75, 1)))
    assert sum(head) > 5 * sum(tail) > 0


def test_splits_take_their_share_of_keys() -> None:
    splits = [world.split_of(f"key {number}") for number in range(20_000)]
    for name, share in world.SHARES.items():
        assert abs(splits.count(name) / 200 - share) < 1.5


def test_problems_have_the_number_of_steps_asked_for() -> None:
    import random

    for steps in (1, 2, 3, 4):
        assert len(maths.make_problem(random.Random(steps), steps).lines) == steps


def test_functions_compute_what_their_text_computes() -> None:
    import random

    for function in code.functions("validation"):
        scope: dict[str, Any] = {}
        exec(code.prompt(function, random.Random(0)) + function.body, scope)
        value = code._values(function.takes, random.Random(1))
        assert scope[function.name](value) == function(value)


@pytest.mark.parametrize("home", ["/proc/no home", "/dev/null"])
def test_a_home_that_cannot_be_written_has_its_cache_among_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("LVF_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert embedded_file("benchmarks/gsm8k_test").is_relative_to(tmp_path / "runs" / ".cache")
