"""One rank of a run; torchrun starts it with the files that `lvf.launching.ranks` wrote."""

import json
import os
import sys
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

from omegaconf import OmegaConf

from lvf.config.compose import exit_on_user_error, to_schema
from lvf.config.schema import RunConfig
from lvf.launching.ranks import die_with_parent
from lvf.launching.slurm_queue import start_evaluation
from lvf.log import keep_from_terminal, log_to
from lvf.runs.run_folder import is_rank_zero, run_folder
from lvf.training.stopping import TRY_AGAIN


def main(config: str, shards: str, replay: str | None = None) -> None:
    """Train, or time the training, with the others of `WORLD_SIZE`.

    Args:
        config: JSON file of a resolved `RunConfig`.
        shards: Folder of the prepared shards.
        replay: That of the source text, if the run replays some.
    """
    die_with_parent()
    if not is_rank_zero():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # rank 0 says it; errors go elsewhere
    keep_from_terminal()
    from lvf.benchmarking.throughput import time_steps
    from lvf.data.shards import load_prepared
    from lvf.training.trainer import train

    composed = OmegaConf.structured(RunConfig)
    composed.merge_with(json.loads(Path(config).read_text()))
    cfg = to_schema(composed, RunConfig)
    with exit_on_user_error():
        try:
            folder, prepared = run_folder(cfg), load_prepared(Path(shards))
            if replay is not None:
                prepared = replace(prepared, replay=load_prepared(Path(replay)))
            log_to(folder.log(int(os.environ["RANK"])))
            if cfg.bench.steps is None:
                train(cfg, prepared, folder, partial(start_evaluation, folder))
            else:
                time_steps(cfg, prepared, folder)
        except SystemExit as end:
            if end.code != TRY_AGAIN:  # the status file tells; torchrun would tell of a failure
                raise


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException as error:
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        # The interpreter's own end could wait for collectives that the others will never join.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(error.code or 0) if isinstance(error, SystemExit) else 1)
