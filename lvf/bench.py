"""`python -m lvf.bench`: how fast a method trains, and in how much memory, on this device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lvf.config.compose import entry_point
from lvf.config.schema import RunConfig
from lvf.config.validate import require_compiler
from lvf.log import log_to

if TYPE_CHECKING:
    from lvf.data.shards import Prepared
    from lvf.runs.run_folder import RunFolder

DEFAULT_STEPS = 10


def run(cfg: RunConfig) -> None:
    """Time the steps of a run, keep nothing of it, write one record and print it.

    Raises:
        UserError: bad input, before any work starts; or the device's memory is too small.
    """
    if cfg.bench.steps is None:
        cfg.bench.steps = DEFAULT_STEPS
    benchmark(cfg)


def benchmark(cfg: RunConfig) -> Path | None:
    """Measure, unless a record of just this is there.

    Returns:
        The record's path; None where another process leads.

    Raises:
        UserError: bad input, before any work starts; or the device's memory is too small.
    """
    require_compiler(cfg)
    from lvf.launching.ranks import help_leader
    from lvf.launching.together import as_started, leads, telling_others

    cfg = as_started(cfg)
    if not leads(cfg):
        help_leader(cfg)
        return None
    with telling_others(cfg):
        return _lead(cfg)


def _lead(cfg: RunConfig) -> Path:
    print("loading libraries ...", flush=True)
    from lvf.benchmarking.figures import table
    from lvf.benchmarking.throughput import benchmark_path, time_steps
    from lvf.launching.ranks import train_on_ranks
    from lvf.launching.together import check_started
    from lvf.records.schema import read_record
    from lvf.reporting.tables.results import console
    from lvf.runs.run_folder import open_run_folder
    from lvf.training.build_model import check_model

    check_started(cfg)
    check_model(cfg)
    path = benchmark_path(cfg)
    if path.exists():
        print(f"measured already; to measure again delete {path}")
    else:
        folder = open_run_folder(cfg)
        log_to(folder.log())
        with folder.lock(), _rows(cfg, folder) as prepared:
            work = train_on_ranks if cfg.runtime.world_size > 1 else time_steps
            work(cfg, prepared, folder)
    console().print(table(read_record(path)))
    print(f"record   {path}")
    return path


def _rows(cfg: RunConfig, folder: RunFolder) -> AbstractContextManager[Prepared]:
    """The run's shards, or random ones of as many rows as are used."""
    from lvf.benchmarking.synthetic import synthetic_shards
    from lvf.benchmarking.throughput import num_steps
    from lvf.data.shards import prepare

    if cfg.bench.data == "real":
        return nullcontext(prepare(cfg))
    return synthetic_shards(cfg, folder.path / "synthetic", num_steps(cfg))


main = entry_point(run)

if __name__ == "__main__":
    main()
