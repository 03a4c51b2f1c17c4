"""`python -m lvf.evaluate`: measure a trained run where records lack."""

from lvf.compose import entry_point
from lvf.config import RunConfig
from lvf.errors import UserError
from lvf.validate import require_consent


def run(cfg: RunConfig) -> None:
    """Measure what the run that these settings name has exported so far, or `runtime.export` of it.

    Raises:
        UserError: the run has exported nothing yet.
    """
    require_consent(cfg)
    print("loading libraries ...", flush=True)
    from lvf.data.shards import prepare
    from lvf.evals.subjects import measure_run
    from lvf.results.tables import print_run
    from lvf.training.run_folder import run_folder

    folder = run_folder(cfg)
    if not folder.exports_of(cfg):
        moment = "" if cfg.runtime.export is None else f" of duration {cfg.runtime.export:g}"
        raise UserError(
            f"{folder.path} has no exported model{moment}; train it first with the same settings: "
            "python -m lvf.train ..."
        )
    records = measure_run(cfg, prepare(cfg), folder)
    folder.mark_measured(cfg)
    print_run(records)
    print(f"records  {cfg.paths.records}")


main = entry_point(run)

if __name__ == "__main__":
    main()
