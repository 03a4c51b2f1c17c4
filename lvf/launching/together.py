"""How the processes of a run were started, and what the one that leads tells the others to do.

The command that trains runs once: then it starts its ranks itself. It may also be started on every
rank by torchrun, or on every node by Slurm's srun. Then the first process leads: it prepares data,
holds the run's lock, measures. The others wait for its order, which the first of torchrun's puts
into the store where they meet, the first of srun's into a file of the folder that all share.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from lvf.config.schema import RunConfig
from lvf.config.validate import validate
from lvf.data.shards import Prepared
from lvf.errors import UserError
from lvf.launching.slurm import JOB_SCRIPT
from lvf.runs.run_folder import is_rank_zero, write_json

if TYPE_CHECKING:
    from torch.distributed import TCPStore

POLL_SECONDS = 0.5


def by_torchrun() -> bool:
    """Whether torchrun has started this process as one of a run's ranks."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def as_started(cfg: RunConfig) -> RunConfig:
    """The run on the ranks that torchrun has started, if it has; else as it is.

    Raises:
        UserError: they cannot share its batches, or it is a multirun, whose runs would mix.
    """
    if not by_torchrun():
        return cfg
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError("torchrun starts one run at a time: leave -m out, or start without it")
    ranks, world_size = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    runtime = replace(cfg.runtime, nproc_per_node=ranks, nodes=world_size // ranks)
    started = replace(cfg, runtime=runtime)
    validate(started)
    return started


def check_started(cfg: RunConfig) -> None:
    """Refuse a run of several nodes that was not started on each of them.

    Raises:
        UserError: names the commands that do so, and the setting for this machine alone.
    """
    nodes = cfg.runtime.nodes
    if by_torchrun() or nodes == 1 or nodes == _nodes_of_srun():
        return
    raise UserError(
        f"runtime.nodes={nodes}, but the run was started on {_nodes_of_srun()}: on Slurm start it "
        f"with sbatch --nodes={nodes} {JOB_SCRIPT} python -m lvf.train ...; elsewhere on each with "
        f"torchrun --nnodes={nodes} --nproc-per-node={cfg.runtime.nproc_per_node} "
        "--rdzv-backend=c10d --rdzv-endpoint=FIRST_NODE:29500 -m lvf.train ...; or, on this "
        "machine alone, set runtime.nodes=1 and runtime.nproc_per_node to its GPUs"
    )


def leads(cfg: RunConfig) -> bool:
    """Whether this process decides and writes for the run."""
    if by_torchrun():
        return is_rank_zero()
    return not _has_other_nodes(cfg) or os.environ["SLURM_NODEID"] == "0"


def order(cfg: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """What a rank has to know; `lvf.launching.rank` reads it."""
    sets = [one for one in (prepared, prepared.replay) if one is not None]
    return {
        "config": asdict(cfg),
        "shards": [{"folder": str(one.folder), "remote": one.remote} for one in sets],
    }


@contextmanager
def telling_others(cfg: RunConfig) -> Iterator[None]:
    """Let the others end, too, when this process ends without an order to them."""
    try:
        yield
    finally:
        tell(cfg, None)


def tell(cfg: RunConfig, what: dict[str, Any] | None) -> None:
    """Give the others their order; only the first one counts. None: there is nothing to do."""
    if by_torchrun() and cfg.runtime.world_size > 1:
        _store().compare_set(_key(), "", json.dumps(what))
    elif _has_other_nodes(cfg) and not (file := order_file(cfg)).exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, what)


def order_of_leader(cfg: RunConfig) -> dict[str, Any] | None:
    """Wait for what the first process tells the others, however long it prepares data."""
    if by_torchrun():
        _store().wait([_key()], timedelta(days=30))
        return json.loads(_store().get(_key()))
    while not order_file(cfg).exists():
        time.sleep(POLL_SECONDS)
    return json.loads(order_file(cfg).read_text())


def order_file(cfg: RunConfig) -> Path:
    """Where the first of several nodes leaves the order of this start."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    start = ".".join(os.environ.get(name, "0") for name in names)
    return Path(cfg.paths.runs) / "slurm" / "starts" / f"{start}.json"


def leave_ranks() -> None:
    """Be a single process again, when all ranks of torchrun have trained."""
    import torch.distributed

    torch.distributed.destroy_process_group()
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        os.environ.pop(name, None)


def _nodes_of_srun() -> int:
    return int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))


def _has_other_nodes(cfg: RunConfig) -> bool:
    return not by_torchrun() and cfg.runtime.nodes == _nodes_of_srun() > 1


def _key() -> str:
    return f"lvf_order_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


@functools.cache
def _store() -> TCPStore:
    """Where torchrun's ranks meet; its agent keeps it, or else rank 0."""
    from torch.distributed import TCPStore

    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=is_rank_zero() and not by_agent,
        wait_for_workers=False,
        multi_tenant=True,
    )
