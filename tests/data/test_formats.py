"""Every file format gives the same documents, and a row that cannot be read is named."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from lvf.config.data_schema import SourceConfig
from lvf.data.sources import read_documents
from lvf.errors import UserError

from .conftest import write_jsonl

PAIRS = [
    {"query": f"What is {n}, and {n + 1}?\nSay it.", "response": f'It is "{2 * n}" ü.'}
    for n in range(30)
]
COLUMNS = ["query", "response"]


def read(path: Path, columns: list[str] = COLUMNS) -> list[dict[str, str]]:
    return list(read_documents(SourceConfig(path=str(path)), columns))


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_json(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, indent=1, ensure_ascii=False).encode()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink, row_group_size=7)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pyarrow.Codec("zstd").compress(content, asbytes=True))


def two_members(content: bytes) -> bytes:
    """As `cat a.gz b.gz` makes it."""
    return gzip.compress(content[:100]) + gzip.compress(content[100:])


WRITERS = {
    "a.jsonl": as_jsonl,
    "a.json": as_json,
    "lines.json": as_jsonl,
    "a.csv": as_csv,
    "a.parquet": as_parquet,
    "A.JSONL": as_jsonl,
    "a.b.jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows)),
    "two.jsonl.gz": lambda rows: two_members(as_jsonl(rows)),
    "a.json.gz": lambda rows: gzip.compress(as_json(rows)),
    "a.csv.gz": lambda rows: gzip.compress(as_csv(rows)),
    "a.jsonl.zst": lambda rows: zstd(as_jsonl(rows)),
    "a.csv.zst": lambda rows: zstd(as_csv(rows)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_rows_are_the_same_documents_in_every_format(tmp_path: Path, name: str) -> None:
    write: Callable[[list[dict[str, Any]]], bytes] = WRITERS[name]
    (tmp_path / name).write_bytes(write(PAIRS))
    assert read(tmp_path / name) == PAIRS
    assert read(tmp_path) == PAIRS  # and as the only file of a folder


def test_a_compressed_text_file_is_read_as_the_plain_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\nmore\n\ntwo\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"one\nmore\n\ntwo\n"))
    expected = [{"text": "one\nmore"}, {"text": "two"}]
    assert read(tmp_path / "a.txt", ["text"]) == read(tmp_path / "b.txt.gz", ["text"]) == expected


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


TALK = [message("user", "2+2?"), message("assistant", "4")]


@pytest.mark.parametrize("write", [as_jsonl, as_json, as_parquet])
def test_columns_of_their_own_count_before_a_conversation(
    tmp_path: Path, write: Callable[[list[dict[str, Any]]], bytes]
) -> None:
    rows = [
        {"prompt": "own", "response": "answer", "messages": TALK},
        {"prompt": None, "response": None, "messages": TALK},
        {"prompt": "half", "response": None, "messages": TALK},
    ]
    suffix = write.__name__.removeprefix("as_")
    (tmp_path / f"a.{suffix}").write_bytes(write(rows))
    talk = {"prompt": "<|user|>\n2+2?\n<|assistant|>\n", "response": "4"}
    found = read(tmp_path / f"a.{suffix}", ["prompt", "response"])
    assert found == [{"prompt": "own", "response": "answer"}, talk, talk]


@pytest.mark.parametrize("write", [as_jsonl, as_parquet])
def test_a_call_of_a_tool_is_its_json_and_parts_of_text_are_joined(
    tmp_path: Path, write: Callable[[list[dict[str, Any]]], bytes]
) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
    parts = [{"type": "text", "text": "Weather"}, {"type": "text", "text": " today?"}]
    tools = [
        message("user", "Weather?"),
        message("assistant", None, tool_calls=[call]),
        message("tool", "15"),
        message("assistant", "It is 15 degrees."),
    ]
    name = f"a.{write.__name__.removeprefix('as_')}"
    (tmp_path / name).write_bytes(write([{"messages": tools}]))
    (row,) = read(tmp_path / name, ["prompt", "response"])
    assert row["response"] == "It is 15 degrees." and "None" not in row["prompt"]
    (written,) = json.loads(row["prompt"].split("<|assistant|>\n")[1].split("\n")[0])
    assert written == call
    (tmp_path / name).write_bytes(write([{"messages": [message("user", parts), TALK[1] | {
        "content": [{"type": "text", "text": "Rain."}]}]}]))  # fmt: skip
    (row,) = read(tmp_path / name, ["prompt", "response"])
    assert row == {"prompt": "<|user|>\nWeather today?\n<|assistant|>\n", "response": "Rain."}


def test_a_message_without_text_is_no_text_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = [{"type": "image_url", "image_url": "x.png"}]
    bad = [[message("user", None), TALK[1]], [message("user", image), TALK[1]], [{"role": "user"}]]
    path = write_jsonl(tmp_path / "a.jsonl", ({"messages": one} for one in [TALK, *bad]))
    assert len(read(path, ["prompt", "response"])) == 1
    printed = capsys.readouterr().err
    assert f"{path}:2: a message has no text" in printed
    assert f"{path}:3: a message has a part that is not text" in printed


GOOD = {"query": "good", "response": "row"}
BIG = '{"query": "a", "response": "b", "id": ' + "9" * 5000 + "}"
DEEP = '{"query": "a", "response": "b", "x": ' + "[" * 200_000 + "]" * 200_000 + "}"


@pytest.mark.parametrize("odd", [BIG, DEEP], ids=["number", "nesting"])
def test_json_beyond_the_limits_of_python_is_left_out_by_line(
    tmp_path: Path, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps(GOOD), odd, json.dumps(GOOD)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert read(tmp_path / "a.jsonl") == [GOOD, GOOD]
    assert f"{tmp_path}/a.jsonl:2: JSON that cannot be read" in capsys.readouterr().err
    (tmp_path / "b.json").write_text("[" + ",\n".join(lines) + "]")
    assert read(tmp_path / "b.json") == [GOOD]
    printed = capsys.readouterr().err
    assert f"{tmp_path}/b.json:2: broken JSON" in printed and "what follows is not read" in printed


def test_a_list_that_ends_too_early_is_named_after_its_good_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(f"[\n{json.dumps(GOOD)},\n[1],\n{{")
    assert read(tmp_path / "a.json") == [GOOD]
    printed = capsys.readouterr().err
    assert "a.json:3: list, not a JSON object" in printed and "a.json:4: broken JSON" in printed


@pytest.mark.parametrize("nested", [False, True])
def test_text_of_a_parquet_file_that_is_no_utf8_is_left_out_by_row(
    tmp_path: Path, nested: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = [b"good"] * 2100
    raw[1500] = "café".encode("latin-1")
    text = pyarrow.Array.from_buffers(
        pyarrow.string(), len(raw), pyarrow.array(raw, pyarrow.binary()).buffers()
    )
    if nested:  # as the content of a message
        role = pyarrow.array(["assistant"] * len(raw))
        turns = pyarrow.StructArray.from_arrays([role, text], ["role", "content"])
        ends = pyarrow.array(range(len(raw) + 1), pyarrow.int32())
        table = pyarrow.table({"messages": pyarrow.ListArray.from_arrays(ends, turns)})
    else:
        table = pyarrow.table({"response": text, "prompt": ["p"] * len(raw)})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet", ["prompt", "response"])
    assert [row["response"] for row in found] == ["good"] * 2099
    assert f"{tmp_path}/a.parquet:1501: not UTF-8" in capsys.readouterr().err


def test_bad_rows_of_a_csv_file_are_left_out_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbfquery,response\r\n"a\r\nb",c\r\nfew\r\n\r\ncaf\xe9,x\r\nd,\r\ne,f\r\n'
    )
    found = read(tmp_path / "a.csv")
    assert found == [{"query": "a\r\nb", "response": "c"}, {"query": "e", "response": "f"}]
    printed = capsys.readouterr().err
    assert "a.csv:4: 1 fields, not the 2 of the first line" in printed
    assert "a.csv:6: column query holds bytes that are not UTF-8" in printed
    assert "a.csv:7: column response is empty" in printed


@pytest.mark.parametrize("name", ["a.b.jsonl.gz", "a.jsonl.zst"])
def test_a_compressed_file_that_is_cut_off_is_refused_by_name(tmp_path: Path, name: str) -> None:
    content = WRITERS[name](PAIRS)
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        read(tmp_path / name)
