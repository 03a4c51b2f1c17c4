"""`python -m lvf.analyze`: what finetuning did to the weights and to the variety of samples."""

from pathlib import Path

from lvf.compose import entry_point
from lvf.config import RunConfig


def run(cfg: RunConfig) -> None:
    """Analyse the exports of the run that these settings name, or the model `tuned`.

    Raises:
        UserError: there is nothing to analyse, or it does not match the base model.
    """
    print("loading libraries ...", flush=True)
    from lvf.analysis.samples import analyse_samples
    from lvf.analysis.subjects import base_weights, models
    from lvf.analysis.table import print_weights
    from lvf.analysis.weights import analyse_weights
    from lvf.evals.subjects import base_subject

    found, records = models(cfg), Path(cfg.paths.records)
    print_weights(analyse_weights(found, base_weights(cfg), records))
    subjects = [subject for subject, _ in found]
    diverse = analyse_samples(subjects, base_subject(cfg), records)
    print(f"{len(diverse)} sets of samples counted\nrecords  {records}")


main = entry_point(run)

if __name__ == "__main__":
    main()
