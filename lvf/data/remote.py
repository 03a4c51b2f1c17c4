"""Shards on object storage, written and read by streaming's own remotes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

from lvf.errors import PreparationInterruptedError

ATTEMPTS = 5
"""How often a transfer is tried, with pauses of 1, 2, 4 and 8 seconds; the libraries of the stores
try again by themselves within each attempt, a few seconds long."""


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
        PreparationInterruptedError: the remote refuses, or a fault of the network lasts.
    """
    from streaming.base.storage.upload import CloudUploader

    with telling_trouble(remote):
        uploader = CloudUploader.get(
            (str(folder), remote), keep_local=True, exist_ok=True, retry=ATTEMPTS
        )
        for name in names:
            uploader.upload_file(name)


def download(remote: str, folder: Path, names: Sequence[str]) -> bool:
    """Copy files of the remote into a folder in this order; False at the first that is missing.

    Raises:
        PreparationInterruptedError: the remote refuses, or a fault of the network lasts.
    """
    from streaming.base.util import retry

    with telling_trouble(remote):
        copy = retry(num_attempts=ATTEMPTS)(_copy_if_there)
        return all(copy(f"{remote}/{name}", folder / name) for name in names)


def _copy_if_there(remote: str, local: Path) -> bool:
    from botocore.exceptions import ClientError
    from streaming.base.storage.download import CloudDownloader

    try:
        CloudDownloader.direct_download(remote, str(local))
    except FileNotFoundError:
        return False
    except ClientError as error:  # the library of S3, which has no FileNotFoundError
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True


@contextmanager
def telling_trouble(remote: str) -> Iterator[None]:
    """Turn the errors of all stores' libraries into a message.

    Raises:
        PreparationInterruptedError: whatever went wrong.
    """
    try:
        yield
    except Exception as error:  # each store's library has its own kinds
        raise PreparationInterruptedError(
            f"{remote} cannot be reached: {error}. Check the network, its name in paths.shards, "
            "your rights and the credentials in the environment, as for mosaicml-streaming. What "
            "is finished is kept: the same command goes on from there."
        ) from error
