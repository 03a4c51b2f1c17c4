"""`python -m lvf.evaluate`: measure a trained run or other models, where records lack."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from lvf.config.compose import entry_point
from lvf.config.schema import RunConfig
from lvf.config.validate import require_consent, require_trackers
from lvf.errors import UserError
from lvf.log import log_to


def run(cfg: RunConfig) -> None:
    """Measure what the run that these settings name has exported so far, `tuned` or `released`.

    Of a run, `runtime.export` chooses one export. `strength`, `truncate` and `damp` also measure
    altered models.

    Raises:
        UserError: the run has exported nothing yet, or does not match the base model.
    """
    if cfg.released is not None:
        if cfg.strength or cfg.truncate or cfg.damp:
            raise UserError(
                "strength, truncate and damp alter one model: name it with tuned=/path/to/folder, "
                "and its base with model.path=..., instead of released=..."
            )
        print("loading libraries ...", flush=True)
        log_to(Path(cfg.paths.runs) / "log.txt")
        evaluate_released(cfg.released, list(HydraConfig.get().overrides.task))
        return
    require_consent(cfg)
    require_trackers(cfg)
    print("loading libraries ...", flush=True)
    from lvf.analysis.alter import altered_subjects
    from lvf.analysis.subjects import base_weights, models
    from lvf.data.shards import prepare
    from lvf.evals.model_card import write_cards
    from lvf.evals.subjects import measure_all, measure_first_task
    from lvf.reporting.tables.results import print_run
    from lvf.runs.run_folder import run_folder
    from lvf.training.trackers import log_scores

    folder = run_folder(cfg)
    if cfg.tuned is None and not folder.exports_of(cfg):
        moment = "" if cfg.runtime.export is None else f" of duration {cfg.runtime.export:g}"
        raise UserError(
            f"{folder.path} has no exported model{moment}; train it first with the same settings: "
            "python -m lvf.train ..."
        )
    log_to(folder.log() if cfg.tuned is None else Path(cfg.paths.runs) / "log.txt")
    named = models(cfg)
    subjects = [subject for subject, _ in named]
    if cfg.strength or cfg.truncate or cfg.damp:
        subjects += altered_subjects(cfg, named, base_weights(cfg))
    records = measure_all(subjects, cfg, prepare(cfg))
    if cfg.tuned is None:
        records += measure_first_task([subject for subject, _ in named], cfg)
        write_cards(cfg, folder)
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
