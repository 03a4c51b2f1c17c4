"""`python -m lvf.analyze`: what finetuning did to the weights and to the variety of samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from lvf.config.compose import entry_point
from lvf.config.schema import RunConfig
from lvf.log import log_to

if TYPE_CHECKING:
    from lvf.analysis.subjects import Model
    from lvf.evals.measure import Subject


def run(cfg: RunConfig) -> None:
    """Analyse the exports of the run that these settings name, the model `tuned`, or `released`.

    Raises:
        UserError: there is nothing to analyse, or it does not match the base model.
    """
    print("loading libraries ...", flush=True)
    log_to(Path(cfg.paths.runs) / "log.txt")
    if cfg.released is not None:
        analyse_released(cfg.released, list(HydraConfig.get().overrides.task))
        return
    from lvf.analysis.subjects import models
    from lvf.evals.subjects import base_subject

    _analyse(cfg, models(cfg), base_subject(cfg))


def analyse_released(where: str, overrides: list[str]) -> None:
    """Analyse the paper's own models one by one, each fetched in its turn.

    Raises:
        UserError: nothing there, or a model that does not match the base model.
    """
    from lvf.evals.released import released_base, released_conditions, released_subject
    from lvf.models.released import fetch

    for cfg, found in released_conditions(where, overrides):
        for one in found:
            _analyse(cfg, [(released_subject(one, cfg), fetch(one))], released_base(cfg))


def _analyse(cfg: RunConfig, found: list[Model], base: Subject) -> None:
    from lvf.analysis.samples import analyse_samples
    from lvf.analysis.subjects import base_weights
    from lvf.analysis.weights import analyse_weights
    from lvf.reporting.tables.results import print_weights

    records = Path(cfg.paths.records)
    print_weights(analyse_weights(found, base_weights(cfg), records))
    diverse = analyse_samples([subject for subject, _ in found], base, records)
    print(f"{len(diverse)} sets of samples counted\nrecords  {records}")


main = entry_point(run)

if __name__ == "__main__":
    main()
