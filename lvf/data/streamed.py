"""streaming's data set and loader, which end with an error where a remote's shard cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from streaming import Stream, StreamingDataLoader, StreamingDataset

from lvf.data.remote import telling_trouble
from lvf.errors import PreparationInterruptedError


class RemoteRows(StreamingDataset):
    """Rows of a remote in the order of an epoch.

    Where a download in the background fails, streaming prints that and ends the epoch as if it were
    over: the training would go on with fewer batches. Where its two background threads both fail,
    it waits for ever for them to end: only a thread that did not fail counts as ended.
    """

    def __init__(self, *, streams: list[Stream], **arguments: Any) -> None:
        """Open the rows, which come from the remote when they are wanted.

        Raises:
            PreparationInterruptedError: the remote cannot be reached.
        """
        self.place = str(streams[0].remote)
        self.failure: BaseException | None = None
        with telling_trouble(self.place):
            super().__init__(streams=streams, **arguments)

    def on_exception(self, future: Future) -> None:
        """Keep what went wrong in the background for `__iter__`, and count the thread as ended.

        streaming calls this at the end of each background thread.
        """
        self.failure = self.failure or future.exception()
        if future.exception():
            self._iterator.on_exit()
            super().on_exception(future)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Go through this rank's (and worker's) rows.

        Raises:
            PreparationInterruptedError: a shard cannot be had.
        """
        with telling_trouble(self.place):
            try:
                yield from super().__iter__()
            except RuntimeError as error:  # "Background thread failed. Check other traceback."
                raise self.failure or error from None
            if self.failure:
                raise self.failure


class RowLoader(StreamingDataLoader):
    """Batches of rows; an error of a worker is as short as it would be without workers."""

    def __iter__(self) -> Any:
        """Go through the batches.

        Raises:
            PreparationInterruptedError: a shard cannot be had.
        """
        try:
            yield from super().__iter__()
        except PreparationInterruptedError as error:  # of a worker: with its traceback before it
            message = str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
            raise PreparationInterruptedError(message) from error
