"""Reads the rows of files, whole or stretch by stretch, and says what is wrong with a row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lvf.data.conversations import with_pair
from lvf.errors import UserError


class Fault(NamedTuple):
    """Why a row cannot be used."""

    kind: str
    """Rows of the same kind are counted together."""
    detail: str


@dataclass(frozen=True)
class Stretch:
    """Consecutive rows of a file, which can be read without reading what stands before them."""

    path: Path
    num_rows: int
    first: int = 1
    """Number of the first line (.jsonl, .txt) or row (.parquet), from 1."""
    start: int = 0
    end: int = 0
    """Bytes from and up to which it reaches; rows in .parquet."""
    whole_file: bool = False
    """Whether the file is one document (a .txt file of a folder)."""


RawRow = Mapping[str, Any] | Fault
NumberedRow = tuple[int, RawRow]


def cut(path: Path, whole_file: bool, most_rows: int) -> Iterator[Stretch]:
    """Cut a file into stretches of at most `most_rows` rows, in order.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        yield from FORMATS[path.suffix].cut(path, whole_file, most_rows)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read(stretch: Stretch, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str] | Fault]]:
    """Yield place and named columns, or the fault, of each row; blank lines are no rows.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        for number, row in FORMATS[stretch.path.suffix].read(stretch, columns):
            yield f"{stretch.path}:{number}", check_row(row, columns)
    except OSError as error:
        raise UserError(f"{stretch.path} cannot be read: {error}") from error


def check_row(row: RawRow, columns: Sequence[str]) -> dict[str, str] | Fault:
    """The named columns of a row, or what makes it unusable."""
    if isinstance(row, Fault):
        return row
    try:
        row = with_pair(row)
    except (KeyError, TypeError):
        return Fault("broken conversation", "a message lacks its role or content")
    for column in columns:
        if column not in row:
            return Fault(
                "missing column",
                f"no column {column}; there are {', '.join(row) or 'none'}. Set "
                "data.text_column, or data.prompt_column and data.response_column",
            )
        value = row[column]
        if not isinstance(value, str):
            return Fault("not text", f"column {column} is {type(value).__name__}, not a string")
        if not value or value.isspace():
            return Fault(f"empty {column}", f"column {column} is empty")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                detail = f"column {column} holds half a surrogate pair, which is no text"
                return Fault("not text", detail)
    return {column: row[column] for column in columns}


def _cut_jsonl(path: Path, _whole_file: bool, most_rows: int) -> Iterator[Stretch]:
    start = end = num_rows = number = 0
    first = 1
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            end += len(line)
            num_rows += not line.isspace()
            if num_rows == most_rows:
                yield Stretch(path, num_rows, first, start, end)
                start, first, num_rows = end, number + 1, 0
    if num_rows:
        yield Stretch(path, num_rows, first, start, end)


def _cut_text(path: Path, whole_file: bool, most_rows: int) -> Iterator[Stretch]:
    if whole_file:
        yield Stretch(path, 1, whole_file=True)
        return
    start = end = num_rows = 0
    first, within = 1, False
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            blank = line.isspace()
            if not blank and not within:
                if num_rows == most_rows:
                    yield Stretch(path, num_rows, first, start, end)
                    start, first, num_rows = end, number, 0
                num_rows += 1
            within = not blank
            end += len(line)
    if num_rows:
        yield Stretch(path, num_rows, first, start, end)


def _cut_parquet(path: Path, _whole_file: bool, most_rows: int) -> Iterator[Stretch]:
    with _parquet_file(path) as file:
        num_rows = file.metadata.num_rows
    for start in range(0, num_rows, most_rows):
        end = min(start + most_rows, num_rows)
        yield Stretch(path, end - start, start + 1, start, end)


def _lines(stretch: Stretch) -> Iterator[tuple[int, bytes]]:
    with stretch.path.open("rb") as file:
        place = file.seek(stretch.start)
        for number, line in enumerate(file, start=stretch.first):
            if place >= stretch.end:
                return
            place += len(line)
            yield number, line


def _read_jsonl(stretch: Stretch, _columns: Sequence[str]) -> Iterator[NumberedRow]:
    for number, line in _lines(stretch):
        if not line.isspace():
            yield number, _json_row(line)


def _json_row(line: bytes) -> RawRow:
    text = _decode(line)
    if isinstance(text, Fault):
        return text
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{error.msg}, column {error.colno}"
        return Fault("broken JSON", f"broken JSON ({where}); each line must be one JSON object")
    if not isinstance(row, dict):
        return Fault("no JSON object", f"{type(row).__name__}, not a JSON object")
    return row


def _read_text(stretch: Stretch, _columns: Sequence[str]) -> Iterator[NumberedRow]:
    if stretch.whole_file:
        yield 1, _text_row(stretch.path.read_bytes())
        return
    paragraph: list[bytes] = []
    first = 0
    for number, line in _lines(stretch):
        if line.isspace():
            if paragraph:
                yield first, _text_row(b"".join(paragraph).rstrip(b"\r\n"))
            paragraph = []
        else:
            first = first if paragraph else number
            paragraph.append(line)
    if paragraph:
        yield first, _text_row(b"".join(paragraph).rstrip(b"\r\n"))


def _text_row(raw: bytes) -> RawRow:
    text = _decode(raw.replace(b"\r\n", b"\n"))
    return text if isinstance(text, Fault) else {"text": text}


def _read_parquet(stretch: Stretch, columns: Sequence[str]) -> Iterator[NumberedRow]:
    with _parquet_file(stretch.path) as file:
        # All columns where one is missing, so that the fault can name those there are.
        wanted = list(columns) if set(columns) <= set(file.schema_arrow.names) else None
        end = 0
        for group in range(file.num_row_groups):
            start, end = end, end + file.metadata.row_group(group).num_rows
            if start < stretch.end and end > stretch.start:  # the others are not even decoded
                at = start
                for batch in file.iter_batches(1024, row_groups=[group], columns=wanted):
                    for number, row in enumerate(batch.to_pylist(), start=at):
                        if stretch.start <= number < stretch.end:
                            yield number + 1, row
                    at += len(batch)


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        yield parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a whole Parquet file: {error}") from error


def _decode(raw: bytes) -> str | Fault:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        detail = f"not UTF-8 (byte {error.start}: {error.reason}); save the file as UTF-8"
        return Fault("not UTF-8", detail)


class Format(NamedTuple):
    """How files of a suffix are cut and read."""

    cut: Callable[[Path, bool, int], Iterator[Stretch]]
    read: Callable[[Stretch, Sequence[str]], Iterator[NumberedRow]]


FORMATS = {
    ".jsonl": Format(_cut_jsonl, _read_jsonl),
    ".parquet": Format(_cut_parquet, _read_parquet),
    ".txt": Format(_cut_text, _read_text),
}
