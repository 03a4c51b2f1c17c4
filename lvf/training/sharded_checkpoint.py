"""A sharded model and its optimiser in a checkpoint: each rank writes its part and reads its own.

`torch.distributed.checkpoint` notes which part of which tensor lies where, so that any number of
ranks finds its parts again, and so does one that holds the whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from composer.core import State
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

SHARDED = ("model", "optimizers")
"""What of Composer's state is written in parts."""

# Of single processes, which have no others to talk to, and of what it uses of torch itself.
warnings.filterwarnings("ignore", module=r"torch\.distributed\.checkpoint")


def sharded_folder(checkpoint: Path) -> Path:
    """Where the parts lie; a checkpoint of a model that is not sharded has none."""
    return checkpoint / "parts"


def save_sharded(state: State, checkpoint: Path) -> None:
    """Write this rank's part, and wait until it is on disk; every rank calls this.

    Raises:
        OSError: on all ranks, what went wrong on any.
    """
    with _error_of_any_rank():
        dcp.save(_tensors(state), checkpoint_id=sharded_folder(checkpoint))


def load_sharded(state: State, checkpoint: Path) -> None:
    """Read what this rank holds, from whichever parts it was written in; every rank calls this.

    Raises:
        OSError: on all ranks, what went wrong on any.
    """
    tensors = _tensors(state)
    with _error_of_any_rank():
        dcp.load(tensors, checkpoint_id=sharded_folder(checkpoint))
    set_state_dict(
        state.model,
        state.optimizers,
        model_state_dict=tensors["model"],
        optim_state_dict=tensors["optimizers"],
        options=StateDictOptions(strict=False),  # dcp.load has missed none; a base is left out
    )


def _tensors(state: State) -> dict[str, Any]:
    """This rank's part of what is trained and of its optimiser's state, by the name of each."""
    weights, optimizers = get_state_dict(state.model, state.optimizers)
    return {"model": weights, "optimizers": optimizers}


@contextmanager
def _error_of_any_rank() -> Iterator[None]:
    """Name the first rank that failed; what torch raises of it is no `Exception`."""
    try:
        yield
    except CheckpointException as failed:
        rank, (error, _) = next(iter(failed.failures.items()))
        raise OSError(f"rank {rank}: {type(error).__name__}: {error}") from failed
