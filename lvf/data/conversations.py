"""Chat messages as a pair: the conversation up to its last answer, and that answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_pair(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the columns `prompt` and `response` to a row that has `messages`; else the row itself.

    The marks are those with which Tülu was trained. The pair ends with the last answer, which alone
    is learnt, as by llm-foundry's default (target_responses="last"); a conversation without one has
    an empty response.
    """
    messages = row.get("messages")
    if not isinstance(messages, list):
        return row
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    turns = [f"<|{one['role']}|>\n{one['content']}\n" for one in messages[:-1]]
    response = messages[-1]["content"] if messages else ""
    return {**row, "prompt": "".join(turns) + "<|assistant|>\n", "response": response}
