"""What `lvf.report` prints: short, narrow, and the numbers of the files."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from lvf.records.store import load, load_paper
from lvf.reporting.claims.judge import Verdict, judge
from lvf.reporting.claims.table import answers
from lvf.reporting.select.selection import selected
from lvf.reporting.tables.results import TABLE_WIDTH
from lvf.reporting.tables.terminal import (
    answer,
    claims_table,
    main_methods_table,
    verdict_lines,
)

from .conftest import Write, axes


def printed(renderable: object) -> list[str]:
    console = Console(file=io.StringIO(), width=TABLE_WIDTH)
    console.print(renderable)
    return str(console.file.getvalue()).splitlines()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def published() -> list[Verdict]:
    scores = load_paper()
    return judge(selected(scores), scores)


def test_the_answer_says_size_and_side_of_each_difference(published: list[Verdict]) -> None:
    learned, kept, at_equal = answers(published)
    assert learned.startswith("LoRA learns less: single runs, direction only.")
    assert "full finetuning scores 0.050 more than LoRA" in learned  # the mean of Tables S1 to S7
    assert "12 of 12 comparisons agree" in learned and "0.044 more" in kept
    assert "equal learning" in at_equal


def test_a_difference_against_the_paper_is_told_as_less(write: Write) -> None:
    write(axes(), gsm8k=0.4)
    scores = load(write(axes("lora"), gsm8k=0.6))
    learned, kept, _ = answers(judge(selected(scores), scores))
    assert "full finetuning scores 0.200 less than LoRA" in learned and "too few seeds" in learned
    assert kept.startswith("LoRA forgets less: not applicable (no records of")


def test_without_target_scores_the_answer_is_by_the_loss_on_the_targets_texts(write: Write) -> None:
    write(axes(), nll_target=0.75)
    scores = load(write(axes("lora"), nll_target=1.0))
    learned, kept, _ = answers(judge(selected(scores), scores))
    assert learned.startswith("LoRA learns less, by loss: too few seeds")
    assert "is 0.250 nats per token more than that of full finetuning" in learned
    assert "1 of 1 comparisons agree" in learned and kept.startswith("LoRA forgets less")


def test_the_table_has_the_main_methods_after_their_longest_training(write: Write) -> None:
    write(axes("base"), gsm8k=0.1)
    for duration, score in ((2.0, 0.3), (8.0, 0.7)):
        write(axes(duration=duration, run_duration=duration), gsm8k=score)
    write(axes("lora", alpha=4), gsm8k=0.9)  # an ablation
    folder: Path = write(axes("lora"), gsm8k=0.5)
    text = "\n".join(printed(main_methods_table(selected(load(folder)))))
    assert "0.100" in text and "0.700" in text and "0.500" in text
    assert "0.300" not in text and "0.900" not in text


def test_without_target_scores_the_loss_on_the_targets_texts_takes_their_place(
    write: Write,
) -> None:
    write(axes("base"), nll_target=1.474)
    folder: Path = write(axes(), nll_target=0.789, nll_source=3.269, hellaswag=0.42)
    lines = printed(main_methods_table(selected(load(folder))))
    text = "\n".join(lines)
    assert "target NLL ↓" in text and "1.474" in text and "0.789" in text
    assert "target ↑" not in text and "…" not in text and max(map(len, lines)) <= TABLE_WIDTH


def test_all_published_numbers_fit_sixty_lines_of_a_hundred_columns(
    published: list[Verdict],
) -> None:
    models = selected(load_paper())
    lines = printed(answer(published, models))
    lines += printed(main_methods_table(models)) + printed(verdict_lines(published))
    assert len(lines) < 58 and max(map(len, lines)) <= TABLE_WIDTH
    table = printed(claims_table(published))
    assert len(table) < 58 and not any("…" in line[50:] for line in table)


def test_claims_without_a_number_stand_together(published: list[Verdict]) -> None:
    text = " ".join(" ".join(printed(claims_table(published))).split())
    silent = [one.number for one in published if one.effect is None]
    assert f"they need other records, models or data): {', '.join(silent)}" in text
