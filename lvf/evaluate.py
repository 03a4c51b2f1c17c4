"""`python -m lvf.evaluate`: measure a trained run where records lack."""

from lvf.compose import entry_point
from lvf.config import RunConfig
from lvf.errors import UserError
from lvf.validate import require_consent


def run(cfg: RunConfig) -> None:
    """Measure what the run that these settings name has exported so far.

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
    if not folder.finished_exports():
        raise UserError(
            f"{folder.path} has no exported model; train it first with the same settings: "
            "python -m lvf.train ..."
        )
    print_run(measure_run(cfg, prepare(cfg), folder))
    print(f"records  {cfg.paths.records}")


main = entry_point(run)

if __name__ == "__main__":
    main()
