"""How a training ends: the first error is its outcome, on all ranks, within seconds."""

from __future__ import annotations

import atexit
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from lvf.errors import UserError
from lvf.runs.run_folder import DIVERGED, FAILED, STOPPED, RunFolder, is_rank_zero
from lvf.training.stopping import TRY_AGAIN, StoppedError

if TYPE_CHECKING:
    from composer import Trainer

    from lvf.training.lifeline import Lifeline

COLLECTIVE_TIMEOUT_SECONDS = 1800.0
"""How long ranks wait for one that exports; Composer's 300 is short for 27 GB on a slow disk."""
NEWS_SECONDS = 4.0
"""Within which a rank hears of another's end, where that is why its collective has failed."""
Result = TypeVar("Result")


@contextmanager
def joint_outcome(folder: RunFolder) -> Iterator[None]:
    """Write how a training ended before its time, and tell the user; every rank calls this.

    Rank 0 alone writes the status, as long as it lives. An error on one rank ends all: the others'
    collectives fail (gloo), or their lifelines break (NCCL).

    Raises:
        UserError: the run diverged, or the disk is full.
        SystemExit: a signal stopped it (status `TRY_AGAIN`).
    """
    from composer.utils import dist

    from lvf.training.divergence import DivergedError

    if is_rank_zero():
        folder.forget_failure()
    lifeline = _start_together(folder) if dist.get_world_size() > 1 else None
    try:
        yield
    except StoppedError as reason:
        if is_rank_zero():
            folder.write_status(STOPPED)
            print(f"{reason}; the same command continues it", flush=True)
        _close(lifeline)
        raise SystemExit(TRY_AGAIN) from reason
    except DivergedError as error:
        _fail(folder, lifeline, DIVERGED, str(error))
        raise UserError(f"{folder.path.name} diverged: {error}. Try a smaller rate.") from error
    except Exception as error:
        if _is_full_disk(error, folder):
            _fail(folder, lifeline, FAILED, f"the disk is full: {error}")
            raise UserError(
                f"the disk of {folder.path} is full: {error}. Make room and start the same command "
                "again: it continues from its last checkpoint."
            ) from error
        _fail(folder, lifeline, FAILED, f"{type(error).__name__}: {error}")
        raise
    _close(lifeline)


def on_rank_zero(work: Callable[[], Result]) -> Result:
    """What `work` gives on rank 0, or the `UserError` it raises, on all ranks; each calls this."""
    from composer.utils import dist

    outcome: list[Result | UserError | None] = [None]
    if is_rank_zero():
        try:
            outcome = [work()]
        except UserError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome)
    (result,) = outcome
    if isinstance(result, UserError):
        raise result
    return result  # type: ignore[return-value]


@contextmanager
def closing(trainer: Trainer) -> Iterator[None]:
    """Close a trainer; Composer's own `close` waits for all ranks, which an error may not do."""
    from torch.distributed.checkpoint import state_dict

    close = trainer.engine.close
    try:
        yield
        close = trainer.close
    except StoppedError:  # on all ranks
        close = trainer.close
        raise
    finally:
        close()
        # Composer would close again at the end of the process, and keeps the model until then.
        atexit.unregister(trainer.engine._close)
        # torch 2.7 caches the names of each model's parameters, with the model, for ever.
        names = getattr(state_dict, "_get_fqns", None)
        getattr(names, "cache_clear", lambda: None)()


def _start_together(folder: RunFolder) -> Lifeline:
    import torch
    from composer.utils import dist

    from lvf.training.lifeline import Lifeline

    # Composer's name of what torchrun calls the group; without it no checkpoint is loaded.
    os.environ.setdefault("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    dist.initialize_dist(
        "gpu" if torch.cuda.is_available() else "cpu", timeout=COLLECTIVE_TIMEOUT_SECONDS
    )

    def before_end() -> None:
        _fail(folder, lifeline, FAILED, "")

    lifeline = Lifeline(before_end)
    return lifeline


def _close(lifeline: Lifeline | None) -> None:
    if lifeline:
        lifeline.close()


def _fail(folder: RunFolder, lifeline: Lifeline | None, state: str, error: str) -> None:
    """Record the first error of all ranks; a lost rank is the cause of what follows from that."""
    lost = lifeline.lost_within(NEWS_SECONDS) if lifeline else None
    if lost is not None:
        error = f"rank {lost} has ended without a word: killed, or out of memory? {error}".rstrip()
    folder.claim_failure(state, error)
    if is_rank_zero() or lost == 0:
        folder.settle_failure()


def _is_full_disk(error: Exception, folder: RunFolder) -> bool:
    """Whether there was no room: the OS and safetensors say so, torch says only that it failed."""
    free_bytes = shutil.disk_usage(folder.path).free
    return os.strerror(errno.ENOSPC) in str(error) or free_bytes < 1 << 20
