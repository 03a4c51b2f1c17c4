"""One rank of a run; torchrun starts it, with an order that `lvf.launching.ranks` wrote."""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lvf.config.compose import from_tree
from lvf.errors import UserError
from lvf.launching.slurm_queue import start_evaluation
from lvf.log import keep_from_terminal, log_to
from lvf.runs.run_folder import is_rank_zero, run_folder
from lvf.training.stopping import TRY_AGAIN


def do_part(order: dict[str, Any]) -> None:
    """Train, or time the training, with the others of `WORLD_SIZE`; rank 0 alone says so.

    An error ends the process.

    Args:
        order: of `lvf.launching.together.order`.
    """
    from lvf.benchmarking.throughput import time_steps
    from lvf.data.shards import reopen
    from lvf.training.trainer import train

    with _ending_at_once():
        cfg = from_tree(order["config"])
        folder = run_folder(cfg)
        prepared, *source = [reopen(Path(one["folder"]), one["remote"]) for one in order["shards"]]
        if source:
            prepared = replace(prepared, replay=source[0])
        log_to(folder.log(int(os.environ["RANK"])))
        if cfg.bench.steps is None:
            train(cfg, prepared, folder, partial(start_evaluation, folder))
        else:
            time_steps(cfg, prepared, folder)


def be_silent() -> None:
    """Leave what all would say to rank 0; errors go elsewhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextmanager
def _ending_at_once() -> Iterator[None]:
    """End this process where an error does, and a stopped run.

    The interpreter's own end could wait for collectives that the others will never join.
    """
    try:
        yield
    except BaseException as error:
        status = 1
        if isinstance(error, SystemExit):  # of a stopped run the status file tells
            status = 0 if error.code == TRY_AGAIN else int(error.code or 0)
        elif isinstance(error, UserError):
            status = 2
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    from lvf.launching.ranks import die_with_parent

    die_with_parent()
    if not is_rank_zero():
        be_silent()
    keep_from_terminal()
    do_part(json.loads(Path(sys.argv[1]).read_text()))
