"""`python -m lvf.evaluate`: measure a trained run, or released models, where records lack."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from lvf.config.compose import entry_point
from lvf.config.schema import RunConfig
from lvf.config.validate import require_consent, require_trackers
from lvf.errors import UserError
from lvf.log import log_to


def run(cfg: RunConfig) -> None:
    """Measure what the run that these settings name has exported so far, or `released` models.

    Of a run, `runtime.export` chooses one export.

    Raises:
        UserError: the run has exported nothing yet.
    """
    if cfg.released is not None:
        print("loading libraries ...", flush=True)
        log_to(Path(cfg.paths.runs) / "log.txt")
        evaluate_released(cfg.released, list(HydraConfig.get().overrides.task))
        return
    require_consent(cfg)
    require_trackers(cfg)
    print("loading libraries ...", flush=True)
    from lvf.data.shards import prepare
    from lvf.evals.subjects import measure_run
    from lvf.reporting.tables.results import print_run
    from lvf.runs.run_folder import run_folder
    from lvf.training.trackers import log_scores

    folder = run_folder(cfg)
    if not folder.exports_of(cfg):
        moment = "" if cfg.runtime.export is None else f" of duration {cfg.runtime.export:g}"
        raise UserError(
            f"{folder.path} has no exported model{moment}; train it first with the same settings: "
            "python -m lvf.train ..."
        )
    log_to(folder.log())
    records = measure_run(cfg, prepare(cfg), folder)
    folder.mark_measured(cfg)
    log_scores(cfg, folder)
    print_run(records)
    print(f"records  {cfg.paths.records}")


def evaluate_released(where: str, overrides: list[str]) -> None:
    """Measure the paper's own models (`python -m lvf.evaluate released=...`).

    Raises:
        UserError: nothing there, or a missing file or task.
    """
    from lvf.evals.released import measure_released
    from lvf.reporting.tables.results import print_run

    print_run(measure_released(where, overrides))


main = entry_point(run)

if __name__ == "__main__":
    main()
