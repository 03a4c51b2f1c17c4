"""Finds where a corpus lives (local files, the embedded world, the hub) and cuts it into parts."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from lvf.config.data_schema import SourceConfig
from lvf.config.schema import EMBEDDED, stable_hash
from lvf.data.corpus_stats import CorpusStats, describe, refuse_unusable
from lvf.data.fingerprint import file_hash
from lvf.data.readers import FORMATS, BadRow, RawRow, check_row, format_of, read
from lvf.embedded.files import embedded_file
from lvf.errors import PreparationInterruptedError, UserError
from lvf.log import silence_own_handlers
from lvf.models.hub import ask_hub

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
NO_DATA = re.compile(
    r"\..*|__.*|checkpoints?(-\d+)?|(dataset_infos?|dataset_dict|config|state)\.json"
    r"|(.*licen[cs]e.*|(copying|notice|readme|changelog|citation|authors|requirements)\b.*)\.txt",
    re.IGNORECASE,
)
"""Names of files and folders that are no data, whatever their suffix."""
PART_ROWS = 8192
"""Rows of a corpus that are prepared together. Each part is packed by itself: measured on 7473
GSM8K pairs, a part has 4.1 % more rows of 1024 than its tokens need."""
Row = tuple[str, dict[str, str]]


class Part(NamedTuple):
    """Consecutive rows of a corpus, the same ones on every machine that cuts it."""

    number: int
    rows: tuple[tuple[str, RawRow], ...]
    """Place and content of each row, usable or not."""


def cut_corpus(
    source: SourceConfig, columns: Sequence[str], max_documents: int | None = None
) -> Iterator[Part]:
    """Cut the first `max_documents` rows of a corpus into parts of `PART_ROWS`, in its own order.

    A row is a document. A .txt file has the one column `text`: within a folder each .txt file is a
    document, a single .txt file holds documents separated by blank lines.

    Raises:
        UserError: the source is missing or unreadable. `PreparationInterruptedError` if the hub
            fails, perhaps after some parts.
    """
    files = local_files(source)
    if files is None:
        rows = _hub_rows(source)
    else:
        whole_text = Path(source.path).expanduser().is_dir()
        rows = (row for path in files for row in read(path, columns, whole_text))
    rows = islice(rows, max_documents)
    for number in count():
        if not (together := tuple(islice(rows, PART_ROWS))):
            return
        yield Part(number, together)


def usable_rows(
    part: Part, columns: Sequence[str], stats: CorpusStats, answer_end: str = ""
) -> Iterator[Row]:
    """Yield place (file and line) and named columns of each usable row; note the others.

    `answer_end` stands behind each answer of a conversation but the last.
    """
    for place, raw in part.rows:
        row = check_row(raw, columns, answer_end)
        if isinstance(row, BadRow):
            stats.note(row.kind, f"{place}: {row.detail}")
        else:
            yield place, row


def read_documents(
    source: SourceConfig,
    columns: Sequence[str],
    max_documents: int | None = None,
    strict: bool = False,
    answer_end: str = "",
) -> Iterator[dict[str, str]]:
    """Yield the named columns of each usable row among the first `max_documents`.

    Unusable rows are left out, and counted on stderr with the places of the first of them.

    Raises:
        UserError: the source is missing, unreadable, or has no usable row; with `strict`, also
            if it has an unusable one.
    """
    stats = CorpusStats()
    for part in cut_corpus(source, columns, max_documents):
        for _, row in usable_rows(part, columns, stats, answer_end):
            stats.documents += 1
            yield row
        if stats.found and not stats.documents:
            break
    refuse_unusable(stats, source.path, strict)
    if stats.found:
        print(f"{source.path}: left out", *describe(stats, stats.found), sep="\n", file=sys.stderr)


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
        return stable_hash([[path.name, file_hash(path)] for path in files])
    except OSError as error:
        raise UserError(f"{source.path} cannot be read: {error}") from error


def local_files(source: SourceConfig) -> list[Path] | None:
    """Files of a local source in reading order; None where the source is a hub id.

    Of a folder these are the files of the source's `split`, `subset` and `data_dir`, which mean
    what they mean on the hub; in a folder without splits every data file belongs to `train`.

    Raises:
        UserError: the path is neither a usable file or folder nor a possible hub id, or a folder
            has no such split or subset.
    """
    if source.path.startswith(EMBEDDED):
        return [embedded_file(source.path.removeprefix(EMBEDDED))]
    path = Path(source.path).expanduser()
    allowed = f"{', '.join(FORMATS)} (also .gz and .zst)"
    if path.is_file():
        if format_of(path) is None:
            raise UserError(f"{path} is not one of {allowed}")
        return [path]
    if path.is_dir():
        data = [file for file in _all_files(path) if _is_data(file.relative_to(path))]
        if not data:
            raise UserError(f"{path} holds no {allowed} file")
        return _files_of_split(path, source, data)
    if format_of(path) is None and HUB_ID.fullmatch(source.path):
        return None
    raise UserError(
        f"{path} does not exist. A source is a {allowed} file, a folder of them, a hub id such as "
        "meta-math/MetaMathQA, or embedded:train/math_ift; set it with data.train.path=..."
    )


def unread_files(source: SourceConfig) -> list[str]:
    """Files of a local folder that are not read: other splits, hidden files, licences and such."""
    folder = Path(source.path).expanduser()
    if source.path.startswith(EMBEDDED) or not folder.is_dir():
        return []
    unread = set(_all_files(folder)) - set(local_files(source) or [])
    names = [path.relative_to(folder).as_posix() for path in unread]
    return sorted(names, key=lambda name: (name.startswith("."), name))


def _all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_data(path: Path) -> bool:
    return format_of(path) is not None and not any(map(NO_DATA.fullmatch, path.parts))


def _files_of_split(folder: Path, source: SourceConfig, data: list[Path]) -> list[Path]:
    """Those of the data files that belong to a split, which datasets finds as on the hub."""
    from datasets.data_files import DataFilesDict, get_data_patterns, sanitize_patterns

    config = {} if source.data_dir else _config_of_card(folder, source)
    base = folder / (source.data_dir or config.get("data_dir") or "")
    data = [path for path in data if path.is_relative_to(base)]
    escaped = glob.escape(str(base))
    splits: dict[str, list[Path]] = {}
    try:
        given = config.get("data_files")
        patterns = sanitize_patterns(given) if given else get_data_patterns(escaped)
        for split, matched in DataFilesDict.from_patterns(patterns, escaped).items():
            if files := [path for path in data if str(path.absolute()) in set(matched)]:
                splits[str(split)] = files
    except (OSError, ValueError) as error:  # nothing fits a pattern of the card
        raise UserError(f"the files of {base} cannot be assigned to splits: {error}") from error
    if not splits and data and not given:
        splits = {"train": data}
    if source.split not in splits:
        known = ", ".join(splits) or "none"
        raise UserError(
            f"{base} has no split {source.split}; there are: {known}. Set data.train.split=..., or "
            "give the path of a file instead of a folder"
        )
    return splits[source.split]


def _config_of_card(folder: Path, source: SourceConfig) -> dict[str, Any]:
    """What README.md says about the files of a subset, as the hub's data sets have it."""
    from huggingface_hub import metadata_load

    card = folder / "README.md"
    try:
        tree = (metadata_load(card) if card.is_file() else None) or {}
        configs = {str(one["config_name"]): one for one in tree.get("configs", [])}
    except Exception as error:  # whatever yaml finds wrong
        raise UserError(f"{card}: its head is not as that of a data set: {error}") from error
    default = [name for name, one in configs.items() if one.get("default")]
    names = default or (["default"] if "default" in configs else list(configs))
    if source.subset is not None:
        names = [source.subset]
    elif not configs:
        return {}
    if len(names) > 1 or names[0] not in configs:
        raise UserError(
            f"{folder} has no subset {source.subset}; there are: {', '.join(configs) or 'none'}. "
            "Set data.train.subset=..."
        )
    return dict(configs[names[0]])


def _hub_rows(source: SourceConfig) -> Iterator[tuple[str, RawRow]]:
    import datasets

    silence_own_handlers()

    try:
        rows = ask_hub(
            lambda: datasets.load_dataset(
                source.path,
                source.subset,
                data_dir=source.data_dir,
                split=source.split,
                revision=source.revision,
                streaming=True,
                trust_remote_code=False,  # datasets 3 could run a corpus's own script
            )
        )
        for number, row in enumerate(rows, start=1):
            yield f"{source.path} row {number}", row
    except Exception as error:  # each way to the hub has its own kinds
        raise PreparationInterruptedError(
            f"{source.path} (subset {source.subset}, split {source.split}) is no local path, and "
            f"cannot be read from the hub: {error}. Check the name and the network; for a gated "
            "corpus log in with `hf auth login`; or set data.train.path to a local copy. Parts "
            "that are prepared are kept: the same command goes on with what is missing."
        ) from error
