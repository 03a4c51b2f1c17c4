"""Reads the rows of data files one after the other, and says what is wrong with a row."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from lvf.data.conversations import MESSAGES, with_pair
from lvf.errors import UserError


class BadRow(NamedTuple):
    """Why a row cannot be used."""

    kind: str
    """Rows of the same kind are counted together."""
    detail: str


RawRow = bytes | Mapping[str, Any] | BadRow
"""A line of JSON that `check_row` will parse, the columns of a row, or why there are none."""
NumberedRow = tuple[int, RawRow]
COMPRESSIONS = (".gz", ".zst")
BETWEEN = re.compile(r"[\s,]*")
"""What stands between the elements of a JSON list."""


def format_of(path: Path) -> str | None:
    """The suffix in `FORMATS` that says how a file is read; None if it is no data file."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else None


def read(path: Path, columns: Sequence[str], whole_text: bool) -> Iterator[tuple[str, RawRow]]:
    """Yield the place (file and line; in Parquet file and row) of each row, and the row.

    Blank lines are no rows.

    Args:
        path: a file in one of `FORMATS`, perhaps compressed.
        columns: those that `check_row` will be asked for.
        whole_text: whether a .txt file is one row; else blank lines separate its rows.

    Raises:
        UserError: the file cannot be read.
    """
    suffix = format_of(path)
    assert suffix is not None  # `local_files` saw to it
    try:
        if suffix == ".parquet":
            rows = _read_parquet(path, columns)
            yield from ((f"{path}:{number}", row) for number, row in rows)
            return
        with _open(path) as file:
            if suffix == ".txt" and whole_text:
                yield f"{path}:1", _text_row(file.read())
                return
            yield from ((f"{path}:{number}", row) for number, row in FORMATS[suffix](file))
    except (OSError, ValueError) as error:  # those of pyarrow are ValueErrors
        raise UserError(f"{path} cannot be read: {error}") from error


def check_row(row: RawRow, columns: Sequence[str], answer_end: str = "") -> dict[str, str] | BadRow:
    """The named columns of a row, or what makes it unusable.

    The columns' own values count. A row without a value in one of them, but with a conversation in
    its column `messages`, has the conversation's `prompt` and `response` (`with_pair`, which
    takes `answer_end`).
    """
    if isinstance(row, bytes):
        row = _json_row(row)
    if isinstance(row, BadRow):
        return row
    if any(row.get(column) is None for column in columns):
        try:
            row = with_pair(row, answer_end)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            why = str(error) if isinstance(error, ValueError) else "a message lacks role or content"
            return BadRow("broken conversation", why)
    for column in columns:
        if column not in row:
            return BadRow(
                "missing column",
                f"no column {column}; there are {', '.join(map(str, row)) or 'none'}. Set "
                "data.text_column, or data.prompt_column and data.response_column",
            )
        value = row[column]
        if not isinstance(value, str):
            return BadRow("not text", f"column {column} is {type(value).__name__}, not a string")
        if not value or value.isspace():
            return BadRow(f"empty {column}", f"column {column} is empty")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                why = "bytes that are not UTF-8, or half a surrogate pair, which is no text"
                return BadRow("not text", f"column {column} holds {why}")
    return {column: row[column] for column in columns}


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() not in COMPRESSIONS:
        return path.open("rb")
    import pyarrow

    compression = {".gz": "gzip", ".zst": "zstd"}[path.suffix.lower()]
    stream = pyarrow.input_stream(str(path), compression=compression)
    return cast(BinaryIO, io.BufferedReader(stream, 1 << 20))


def _read_jsonl(file: BinaryIO) -> Iterator[NumberedRow]:
    for number, line in enumerate(file, start=1):
        if not line.isspace():
            yield number, line


def _read_json(file: BinaryIO) -> Iterator[NumberedRow]:
    """A list of objects, or lines of JSON, which are often given this suffix."""
    start = cast(io.BufferedReader, file).peek(64).removeprefix(b"\xef\xbb\xbf")
    if not start.lstrip().startswith(b"["):
        yield from _read_jsonl(file)
        return
    text = _decode(file.read())
    if isinstance(text, BadRow):
        yield 1, text
        return
    line, place, decoder = 1, text.index("[") + 1, json.JSONDecoder()
    line += text.count("\n", 0, place)
    while True:
        gap = cast(re.Match[str], BETWEEN.match(text, place))
        line += text.count("\n", place, gap.end())
        start_of_row = gap.end()
        if text.startswith("]", start_of_row):
            return
        try:
            row, place = decoder.raw_decode(text, start_of_row)
        except (ValueError, RecursionError) as error:
            yield line, BadRow("broken JSON", f"broken JSON ({error}); what follows is not read")
            return
        yield line, _object(row)
        line += text.count("\n", start_of_row, place)


def _json_row(line: bytes) -> Mapping[str, Any] | BadRow:
    text = _decode(line)
    if isinstance(text, BadRow):
        return text
    try:
        return _object(json.loads(text))
    except json.JSONDecodeError as error:
        where = f"{error.msg}, column {error.colno}"
        return BadRow("broken JSON", f"broken JSON ({where}); each line must be one JSON object")
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limits
        return BadRow("broken JSON", f"JSON that cannot be read: {error}")


def _object(row: Any) -> Mapping[str, Any] | BadRow:
    if not isinstance(row, dict):
        return BadRow("no JSON object", f"{type(row).__name__}, not a JSON object")
    return row


def _read_csv(file: BinaryIO) -> Iterator[NumberedRow]:
    """The first line names the columns. Every value is text."""
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
    reader = csv.reader(text)
    names = next(reader, [])
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, BadRow("broken CSV", str(error))
            continue
        if values and len(values) != len(names):
            why = f"{len(values)} fields, not the {len(names)} of the first line"
            yield number, BadRow("broken CSV", why)
        elif values:
            yield number, dict(zip(names, values, strict=True))


def _read_text(file: BinaryIO) -> Iterator[NumberedRow]:
    """The rows of a .txt file, separated by blank lines, with the numbers of their first lines."""
    paragraph: list[bytes] = []
    first = 0
    for number, line in enumerate(file, start=1):
        if not line.isspace():
            first = first if paragraph else number
            paragraph.append(line)
        elif paragraph:
            yield first, _text_row(b"".join(paragraph).rstrip(b"\r\n"))
            paragraph = []
    if paragraph:
        yield first, _text_row(b"".join(paragraph).rstrip(b"\r\n"))


def _text_row(raw: bytes) -> RawRow:
    text = _decode(raw.replace(b"\r\n", b"\n"))
    return text if isinstance(text, BadRow) else {"text": text}


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[NumberedRow]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a whole Parquet file: {error}") from error
    with file:
        # All columns where one is missing, so that the message can name those there are.
        names = set(file.schema_arrow.names)
        wanted = [*columns, *({MESSAGES} & names)] if set(columns) <= names else None
        number = 0
        for batch in file.iter_batches(1024, columns=wanted):
            for row in _batch_rows(batch):
                number += 1
                yield number, row


def _batch_rows(batch: Any) -> Iterator[RawRow]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        if len(batch) > 1:
            for at in range(len(batch)):
                yield from _batch_rows(batch.slice(at, 1))
        else:
            yield BadRow("not UTF-8", f"not UTF-8 (byte {error.start}: {error.reason})")


def _decode(raw: bytes) -> str | BadRow:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        why = f"not UTF-8 (byte {error.start}: {error.reason}); save the file as UTF-8"
        return BadRow("not UTF-8", why)


FORMATS: dict[str, Callable[..., Iterator[NumberedRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".txt": _read_text,
    ".parquet": _read_parquet,
}
"""How files of a suffix are read; all but Parquet may be compressed (`COMPRESSIONS`) as well."""
