"""Reads documents from where a corpus lives: local files, the embedded world, or the hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lvf.config import SourceConfig, stable_hash
from lvf.data.conversations import with_pair
from lvf.errors import UserError

EMBEDDED = "embedded:"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
HASHED_WHOLE_BYTES = 1 << 30
"""Larger files are told apart by size and time of change: hashing them would take minutes."""

NumberedRow = tuple[int, Mapping[str, Any]]


def read_documents(
    source: SourceConfig, columns: Sequence[str], max_documents: int | None = None
) -> Iterator[dict[str, str]]:
    """Yield the named columns of each document, in the corpus' own order.

    A .jsonl or .parquet row is a document. A .txt file has the one column `text`: within a folder
    each .txt file is a document, a single .txt file holds documents separated by blank lines.

    Raises:
        UserError: nothing there, nothing in it, a missing column, a broken or empty value. Local
            files are held to this; unusable rows of a hub corpus, which its user cannot mend, are
            left out and counted on stderr.
    """
    files = local_files(source)
    if files is None:
        documents = _hub_documents(source, columns)
    else:
        whole_files = Path(source.path).expanduser().is_dir()
        documents = (row for path in files for row in _file_documents(path, columns, whole_files))
    return islice(documents, max_documents)


def source_fingerprint(source: SourceConfig) -> str:
    """Hash that changes when the documents do; a hub corpus goes by its id and revision.

    Raises:
        UserError: a local file is missing or unreadable.
    """
    files = local_files(source)
    if files is None:
        return stable_hash(
            [source.path, source.subset, source.data_dir, source.split, source.revision]
        )
    try:
        return stable_hash([[path.name, _file_hash(path)] for path in files])
    except OSError as error:
        raise UserError(f"{source.path} cannot be read: {error}") from error


def local_files(source: SourceConfig) -> list[Path] | None:
    """Files of a local source in reading order; None where the source is a hub id.

    Raises:
        UserError: the path is neither a usable file or folder nor a possible hub id.
    """
    if source.path.startswith(EMBEDDED):
        return [_embedded_file(source.path.removeprefix(EMBEDDED))]
    path = Path(source.path).expanduser()
    allowed = ", ".join(READERS)
    if path.is_file():
        if path.suffix not in READERS:
            raise UserError(f"{path} is not one of {allowed}")
        return [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in READERS)
        if not files:
            raise UserError(f"{path} holds no {allowed} file")
        return files
    if path.suffix not in READERS and HUB_ID.fullmatch(source.path):
        return None
    raise UserError(
        f"{path} does not exist. A source is a {allowed} file, a folder of them, a hub id such as "
        "meta-math/MetaMathQA, or embedded:train/math_ift; set it with data.train.path=..."
    )


def _embedded_file(stem: str) -> Path:
    from lvf.embedded.corpora import write_world

    cache = Path(os.environ.get("LVF_CACHE", "~/.cache/lvf")).expanduser()
    try:
        world = write_world(cache / "world")
    except OSError as error:
        raise UserError(
            f"the embedded world cannot be written to {cache}: {error}. Set the environment "
            "variable LVF_CACHE to a folder with room."
        ) from error
    path = world / f"{stem}.jsonl"
    if not path.is_file():
        files = sorted(world.rglob("*.jsonl"))
        known = [str(file.relative_to(world).with_suffix("")) for file in files]
        raise UserError(f"{EMBEDDED}{stem} is not one of {', '.join(known)}")
    return path


def _file_hash(path: Path) -> str:
    status = path.stat()
    if status.st_size > HASHED_WHOLE_BYTES:
        return f"{status.st_size} bytes, changed at {status.st_mtime_ns}"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _file_documents(
    path: Path, columns: Sequence[str], whole_file: bool
) -> Iterator[dict[str, str]]:
    """Yield a file's documents; after a bad one, count the others before raising."""
    first_fault, num_faults, num_rows = "", 0, 0
    try:
        for number, row in READERS[path.suffix](path, whole_file):
            num_rows += 1
            row = with_pair(row)
            _require_columns(f"{path}:{number}", row, columns)
            if fault := _fault(row, columns):
                first_fault = first_fault or f"{path}:{number}: {fault}"
                num_faults += 1
            elif not num_faults:
                yield {column: row[column] for column in columns}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if num_faults:
        raise UserError(
            f"{first_fault}; {num_faults} of {num_rows} rows of this file are like this. "
            "Mend or remove them."
        )
    if not num_rows:
        raise UserError(f"{path} is empty: it holds no document")


def _require_columns(where: str, row: Mapping[str, Any], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in row]
    if missing:
        raise UserError(
            f"{where}: no column {', '.join(missing)}; there are {', '.join(row) or 'none'}. Set "
            "data.text_column, or data.prompt_column and data.response_column."
        )


def _fault(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Say what makes a row unusable; empty if nothing does."""
    for column in columns:
        value = row[column]
        if not isinstance(value, str):
            return f"column {column} is {type(value).__name__}, not a string"
        if not value.strip():
            return f"column {column} is empty"
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return f"column {column} holds half a surrogate pair, which is no text"
    return ""


def _jsonl_rows(path: Path, _whole_file: bool) -> Iterator[NumberedRow]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = _decode(line, f"{path}:{number}")
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path}:{number}: broken JSON ({error.msg}, column {error.colno}); each line "
                    "must be one JSON object"
                ) from error
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: {type(row).__name__}, not a JSON object")
            yield number, row


def _parquet_rows(path: Path, _whole_file: bool) -> Iterator[NumberedRow]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a whole Parquet file: {error}") from error


def _text_rows(path: Path, whole_file: bool) -> Iterator[NumberedRow]:
    text = _decode(path.read_bytes(), str(path))
    if whole_file:
        yield 1, {"text": text}
        return
    paragraph: list[str] = []
    # Not splitlines, which also breaks at form feeds and other characters within a line.
    for number, line in enumerate([*text.replace("\r\n", "\n").split("\n"), ""], start=1):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield number - len(paragraph), {"text": "\n".join(paragraph)}
            paragraph = []


READERS = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows, ".txt": _text_rows}


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 (byte {error.start}: {error.reason}); save the file as UTF-8"
        ) from error


def _hub_documents(source: SourceConfig, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    import datasets

    num_unusable = 0
    try:
        rows = datasets.load_dataset(
            source.path,
            source.subset,
            data_dir=source.data_dir,
            split=source.split,
            revision=source.revision,
            streaming=True,
        )
        for number, row in enumerate(map(with_pair, rows), start=1):
            _require_columns(f"{source.path} row {number}", row, columns)
            if _fault(row, columns):
                num_unusable += 1
            else:
                yield {column: row[column] for column in columns}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source.path} (subset {source.subset}, split {source.split}) is no local path, and "
            f"cannot be read from the hub: {error}. Check the name and the network; for a gated "
            "corpus log in with `hf auth login`; or set data.train.path to a local copy."
        ) from error
    if num_unusable:
        print(f"{source.path}: left out {num_unusable} empty or broken rows", file=sys.stderr)
