"""Chat messages as a pair: the conversation up to its last answer, and that answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MESSAGES = "messages"
"""The column of a conversation: a list of {"role", "content"}."""


def with_pair(row: Mapping[str, Any], answer_end: str = "") -> Mapping[str, Any]:
    """Add the columns `prompt` and `response` to a row that has `messages`; else the row itself.

    The marks are those with which Tülu was trained. The pair ends with the last answer, which alone
    is learnt, as by llm-foundry's default (target_responses="last"); a conversation without one has
    an empty response. Earlier answers end in `answer_end`, the tokenizer's end-of-text token, as
    the last one will. The text of a message is its content, a string or a list of parts of text,
    and its calls of tools as JSON.

    Raises:
        ValueError: a message has no text and no call, or a part that is no text.
        KeyError, TypeError, AttributeError: a message lacks its role or content.
    """
    messages = row.get(MESSAGES)
    if not isinstance(messages, list):
        return row
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    turns = [
        f"<|{one['role']}|>\n{_text_of(one)}{answer_end if one['role'] == 'assistant' else ''}\n"
        for one in messages[:-1]
    ]
    response = _text_of(messages[-1]) if messages else ""
    return {**row, "prompt": "".join(turns) + "<|assistant|>\n", "response": response}


def _text_of(message: Mapping[str, Any]) -> str:
    content, calls = message["content"], message.get("tool_calls")
    if content is None and not calls:
        raise ValueError("a message has no text: its content is null")
    parts = [content] if isinstance(content, str) else content or []
    texts = [part if isinstance(part, str) else part.get("text") for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a message has a part that is not text, such as an image")
    if calls:
        texts.append(json.dumps(_without_nulls(calls), sort_keys=True))
    return "".join(texts)


def _without_nulls(tree: Any) -> Any:
    """The same tree in every file format: Parquet has a null where JSON has no key."""
    if isinstance(tree, dict):
        return {key: _without_nulls(one) for key, one in tree.items() if one is not None}
    return [_without_nulls(one) for one in tree] if isinstance(tree, list) else tree
