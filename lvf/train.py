"""`python -m lvf.train`: prepare what is missing, train, measure every export."""

from functools import partial

from lvf.bench import benchmark
from lvf.config.compose import entry_point
from lvf.config.schema import RunConfig
from lvf.config.validate import require_compiler, require_consent, require_trackers
from lvf.log import log_to


def run(cfg: RunConfig) -> None:
    """One run from corpus to records; started again it does only what is missing.

    An experiment that sets `bench.steps` is a benchmark, which is timed and not kept.

    Raises:
        UserError: bad input; raised before any work where it can be known before.
    """
    if cfg.bench.steps is not None:
        benchmark(cfg)
        return
    require_consent(cfg)
    require_compiler(cfg)
    require_trackers(cfg)
    from lvf.launching.ranks import help_leader
    from lvf.launching.together import as_started, leads, telling_others

    cfg = as_started(cfg)
    if not leads(cfg):
        help_leader(cfg)
        return
    with telling_others(cfg):
        _lead(cfg)


def _lead(cfg: RunConfig) -> None:
    print("loading libraries ...", flush=True)
    from lvf.data.report import left_out
    from lvf.data.shards import prepare
    from lvf.evals.model_card import write_cards
    from lvf.evals.subjects import check_measurable, measure_run
    from lvf.launching.ranks import train_on_ranks
    from lvf.launching.slurm_queue import start_evaluation
    from lvf.launching.together import check_started
    from lvf.runs.checkpoints import prune
    from lvf.runs.run_folder import TRAINED, open_run_folder, run_folder
    from lvf.runs.trunk import kept_batches
    from lvf.training.build_model import check_model
    from lvf.training.trackers import log_scores
    from lvf.training.trainer import check_optimizer, check_same_shards, start_of, train

    folder = run_folder(cfg)
    with folder.recording_refusal():
        check_started(cfg)
        check_model(cfg)
        check_optimizer(cfg)
        start_of(cfg, folder)  # a branch without its trunk is told before the data are made
        prepared = prepare(cfg)
        for line in left_out(prepared):
            print(line)
        check_measurable(cfg, prepared)
        lock = open_run_folder(cfg).lock()
        log_to(folder.log())
        is_trained = folder.status().get("state") == TRAINED
        is_at_stop = cfg.runtime.stop_at in folder.exported_moments()
        if not is_trained:
            check_same_shards(cfg, prepared, folder)
    with lock:
        if is_trained:
            print(f"{folder.path} is trained already: nothing to train")
        elif not is_at_stop:
            try:
                if cfg.runtime.world_size > 1:
                    train_on_ranks(cfg, prepared, folder)
                else:
                    train(cfg, prepared, folder, partial(start_evaluation, folder))
            except SystemExit:
                if cfg.runtime.stop_at not in folder.exported_moments():
                    raise
        if folder.status()["state"] == TRAINED:
            prune(folder.checkpoints, kept_batches(cfg))
        if not cfg.runtime.measure:
            print(f"next     python -m lvf.evaluate with the same settings, for {folder.path}")
            return
        records = measure_run(cfg, prepared, folder)
        write_cards(cfg, folder)
        folder.mark_measured(cfg)
        log_scores(cfg, folder)
    from lvf.reporting.tables.results import (
        print_run,  # pandas, which the first batch need not wait for
    )

    print_run(records)
    print(f"run      {folder.path}\nshards   {prepared.folder}\nrecords  {cfg.paths.records}")
    print(f"next     python -m lvf.report records={cfg.paths.records}")


main = entry_point(run)

if __name__ == "__main__":
    main()
