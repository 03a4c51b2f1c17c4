"""Reads documents from where a corpus lives: local files, the embedded world, or the hub."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from pathlib import Path

from lvf.config.schema import SourceConfig, stable_hash
from lvf.data.readers import FORMATS, Fault, RawRow, Stretch, check_row, cut, read
from lvf.data.tally import Tally, describe, refuse_unusable
from lvf.errors import UserError
from lvf.log import silence_own_handlers

EMBEDDED = "embedded:"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
HASHED_WHOLE_BYTES = 1 << 30
"""Larger files are told apart by size and time of change: hashing them would take minutes."""

PART_ROWS = 8192
"""Rows of a corpus that are prepared together. Each part is packed by itself: measured on 7473
GSM8K pairs, a part has 4.1 % more rows of 1024 than its tokens need."""
Row = tuple[str, dict[str, str] | Fault]
"""Place of a row (file and line), and its columns or what is wrong with it."""


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a corpus, the same ones on every machine that cuts it."""

    number: int
    stretches: tuple[Stretch, ...] = ()
    """Where a local corpus' rows are, so that whoever wants them can read them."""
    rows: tuple[tuple[str, RawRow], ...] = ()
    """The rows themselves of a hub corpus, with their places."""
    most_rows: int = PART_ROWS
    """Rows to use, fewer only where `max_documents` ends within the part."""

    @property
    def num_rows(self) -> int:
        """Rows in the part, whether usable or not."""
        present = sum(stretch.num_rows for stretch in self.stretches) + len(self.rows)
        return min(present, self.most_rows)


def cut_corpus(source: SourceConfig, max_documents: int | None = None) -> Iterator[Part]:
    """Cut a corpus into parts of up to `PART_ROWS` rows, in its own order.

    A .jsonl or .parquet row is a document. A .txt file has the one column `text`: within a folder
    each .txt file is a document, a single .txt file holds documents separated by blank lines.
    Local files are only looked through for the ends of rows; a hub corpus is fetched.

    Raises:
        UserError: the source is missing or unreadable.
    """
    files = local_files(source)
    parts = _hub_parts(source) if files is None else _local_parts(source, files)
    left = sys.maxsize if max_documents is None else max_documents
    for part in parts:
        if part.num_rows >= left:
            yield replace(part, most_rows=left)
            return
        yield part
        left -= part.num_rows


def part_rows(part: Part, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a part.

    Raises:
        UserError: a file cannot be read.
    """
    rows: Iterator[Row] = ((where, check_row(row, columns)) for where, row in part.rows)
    if part.stretches:
        rows = chain.from_iterable(read(stretch, columns) for stretch in part.stretches)
    return islice(rows, part.most_rows)


def read_documents(
    source: SourceConfig,
    columns: Sequence[str],
    max_documents: int | None = None,
    strict: bool = False,
) -> Iterator[dict[str, str]]:
    """Yield the named columns of each usable row among the first `max_documents`.

    Unusable rows are left out, and counted on stderr with the places of the first of them.

    Raises:
        UserError: the source is missing, unreadable, or has no usable row; with `strict`, also
            if it has an unusable one.
    """
    tally = Tally()
    for part in cut_corpus(source, max_documents):
        for place, row in part_rows(part, columns):
            if isinstance(row, Fault):
                tally.note(row.kind, f"{place}: {row.detail}")
            else:
                tally.documents += 1
                yield row
        if tally.found and not tally.documents:
            break
    refuse_unusable(tally, source.path, strict)
    if tally.found:
        print(f"{source.path}: left out", *describe(tally, tally.found), sep="\n", file=sys.stderr)


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
    allowed = ", ".join(FORMATS)
    if path.is_file():
        if path.suffix not in FORMATS:
            raise UserError(f"{path} is not one of {allowed}")
        return [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in FORMATS)
        if not files:
            raise UserError(f"{path} holds no {allowed} file")
        return files
    if path.suffix not in FORMATS and HUB_ID.fullmatch(source.path):
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


def _local_parts(source: SourceConfig, files: list[Path]) -> Iterator[Part]:
    """Whole stretches together as long as they are few rows: small files share a part."""
    whole_files = Path(source.path).expanduser().is_dir()
    number, num_rows = 0, 0
    together: list[Stretch] = []
    for stretch in (one for path in files for one in cut(path, whole_files, PART_ROWS)):
        if num_rows + stretch.num_rows > PART_ROWS:
            yield Part(number, tuple(together))
            number, num_rows, together = number + 1, 0, []
        together.append(stretch)
        num_rows += stretch.num_rows
    if together:
        yield Part(number, tuple(together))


def _hub_parts(source: SourceConfig) -> Iterator[Part]:
    import datasets

    silence_own_handlers()

    try:
        rows = datasets.load_dataset(
            source.path,
            source.subset,
            data_dir=source.data_dir,
            split=source.split,
            revision=source.revision,
            streaming=True,
            trust_remote_code=False,  # datasets 3 could run a corpus's own script
        )
        numbered = ((f"{source.path} row {n}", row) for n, row in enumerate(rows, start=1))
        for number in count():
            if not (together := tuple(islice(numbered, PART_ROWS))):
                return
            yield Part(number, rows=together)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source.path} (subset {source.subset}, split {source.split}) is no local path, and "
            f"cannot be read from the hub: {error}. Check the name and the network; for a gated "
            "corpus log in with `hf auth login`; or set data.train.path to a local copy."
        ) from error
