"""Record files, in folders or packed in one compressed file (tar and zstd) that reads like one."""

import functools
import io
import tarfile
from pathlib import Path

from lvf.errors import UserError

SUFFIX = ".tar.zst"
PACKED = (".json", ".parquet")
"""Files that belong to records: themselves, and tables beside them."""
LEVEL = 19
"""Of zstd: a tenth smaller than level 15, and read as fast."""


def record_files(source: Path) -> list[Path]:
    """Paths of the JSON files of a folder, of a packed file, or of packed files in a folder.

    The path of a packed record goes on behind the packed file, such as
    `records.tar.zst/run/ba000100--gsm8k--1f6e.json`; `read_bytes` understands it.
    """
    if _is_packed(source):
        return sorted(source / name for name in _members(source) if name.endswith(".json"))
    packed = [path for path in source.rglob(f"*{SUFFIX}") if _is_packed(path)]
    inside = [path for archive in packed for path in record_files(archive)]
    return sorted([*source.rglob("*.json"), *inside])


def read_bytes(path: Path) -> bytes:
    """The content of a file, which may lie in a packed file.

    Raises:
        OSError: there is no such file.
        UserError: the packed file is broken.
    """
    if SUFFIX in str(path):
        for folder in path.parents:
            if _is_packed(folder):
                name = path.relative_to(folder).as_posix()
                try:
                    return _members(folder)[name]
                except KeyError:
                    raise FileNotFoundError(f"{folder} holds no {name}") from None
    return path.read_bytes()


def pack(folder: Path) -> Path:
    """Pack the records of a folder, and the tables beside them, into `<folder>.tar.zst`.

    The same files give the same bytes. `tar xf` unpacks them again.

    Raises:
        UserError: the folder holds no records.
    """
    import pyarrow as pa

    paths = [path for path in folder.rglob("*") if path.suffix in PACKED and path.is_file()]
    if not paths:
        raise UserError(f"records={folder} holds no record files (*.json) to pack")
    archive = folder.with_name(folder.name + SUFFIX)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for path in sorted(paths, key=_task_then_run):
            content = path.read_bytes()
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    temporary = archive.with_name(archive.name + ".tmp")
    codec = pa.Codec("zstd", compression_level=LEVEL)
    temporary.write_bytes(codec.compress(raw.getvalue(), asbytes=True))
    temporary.replace(archive)
    return archive


def _task_then_run(path: Path) -> tuple[str, list[str], Path]:
    """Like beside like: the records of a task compress best together."""
    return path.suffix, path.name.split("--")[1:], path


def _is_packed(path: Path) -> bool:
    return path.name.endswith(SUFFIX) and path.is_file()


def _members(archive: Path) -> dict[str, bytes]:
    """Contents of a packed file by name, read once."""
    return _read(archive, archive.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(archive: Path, modified: int) -> dict[str, bytes]:
    import pyarrow as pa

    contents: dict[str, bytes] = {}
    try:
        with (
            pa.input_stream(str(archive), compression="zstd") as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for entry in tar:
                file = tar.extractfile(entry)
                if file is not None:
                    contents[entry.name] = file.read()
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{archive} cannot be read: {error}. Copy or pack it again") from error
    return contents
