"""Chat messages as pairs."""

import json
from pathlib import Path

import pytest

from lvf.config.data_schema import SourceConfig
from lvf.data.conversations import with_pair
from lvf.data.sources import read_documents
from lvf.errors import UserError


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


TALK = [turn("system", "Be brief."), turn("user", "2+2?"), turn("assistant", "4"),
        turn("user", "And 3+3?"), turn("assistant", "6"), turn("user", "Thanks")]  # fmt: skip


def test_the_last_answer_is_the_response_and_all_before_it_the_prompt() -> None:
    pair = with_pair({"id": 1, "messages": TALK})
    assert pair["response"] == "6"
    assert pair["prompt"] == (
        "<|system|>\nBe brief.\n<|user|>\n2+2?\n<|assistant|>\n4\n<|user|>\nAnd 3+3?\n"
        "<|assistant|>\n"
    )


def test_earlier_answers_end_in_the_end_of_text_token_and_nothing_else_does() -> None:
    pair = with_pair({"messages": TALK}, "</s>")
    assert pair["response"] == "6"  # every document is ended anyhow
    assert pair["prompt"] == (
        "<|system|>\nBe brief.\n<|user|>\n2+2?\n<|assistant|>\n4</s>\n<|user|>\nAnd 3+3?\n"
        "<|assistant|>\n"
    )


def test_rows_without_messages_are_left_alone() -> None:
    row = {"query": "a", "response": "b"}
    assert with_pair(row) is row


def test_a_file_of_conversations_is_read_as_pairs(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": TALK}) + "\n")
    (row,) = read_documents(SourceConfig(path=str(file)), ["prompt", "response"])
    assert row["response"] == "6"
    file.write_text(json.dumps({"messages": TALK[:2]}) + "\n")
    with pytest.raises(UserError, match="column response is empty"):
        list(read_documents(SourceConfig(path=str(file)), ["prompt", "response"]))
