"""Shards on object storage, written and read by streaming's own remotes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

from lvf.errors import PreparationInterruptedError


def remote_of(shards: str) -> str | None:
    """The remote that `paths.shards` names, as streaming knows it; None if it is a local folder.

    A path after `file://` is a remote as well: to streaming it is one without a scheme.
    """
    if "://" not in shards:
        return None
    return urlparse(shards).path if shards.startswith("file://") else shards.rstrip("/")


def upload(folder: Path, remote: str, names: Sequence[str]) -> None:
    """Copy files of a folder to the remote, one after the other in this order.

    Raises:
        PreparationInterruptedError: the remote refuses.
    """
    from streaming.base.storage.upload import CloudUploader

    with _telling_trouble(remote):
        uploader = CloudUploader.get((str(folder), remote), keep_local=True, exist_ok=True)
        for name in names:
            uploader.upload_file(name)


def download(remote: str, folder: Path, names: Sequence[str]) -> bool:
    """Copy files of the remote into a folder in this order; False at the first that is missing.

    Raises:
        PreparationInterruptedError: the remote refuses.
    """
    from streaming.base.storage.download import CloudDownloader

    with _telling_trouble(remote):
        for name in names:
            try:
                CloudDownloader.direct_download(f"{remote}/{name}", str(folder / name))
            except FileNotFoundError:
                return False
        return True


@contextmanager
def _telling_trouble(remote: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each store's library has its own kinds
        raise PreparationInterruptedError(
            f"{remote} cannot be reached: {error}. Check its name in paths.shards, your rights and "
            "the credentials in the environment, as for mosaicml-streaming."
        ) from error
