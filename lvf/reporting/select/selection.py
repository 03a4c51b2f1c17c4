"""Which runs are compared: the only place that decides it, for claims, tables, figures and page.

1. A run counts once: of several with the same settings and seed, the run with the most scores, and
   of those the earliest.
2. A variant is compared at a single learning rate, the same at every duration: that of the lowest
   validation loss (`nll_validation`, mean over seeds) at the longest duration that it was trained
   for. All its rates at that duration compete, whether their benchmarks were scored or not. With
   several rates of which some lack a validation loss, no rate can be chosen: comparisons leave the
   variant out, and figures of scores draw all of its rates.
3. Main methods are full finetuning, and LoRA with alpha = 2r on all linear maps, both by the
   optimiser that most runs of the experiment have.
4. Checkpoints that were altered after training are kept apart (`Selection.altered`), and second
   runs of a sequence of tasks (`Selection.sequences`).

What a rule leaves out although it has scores is named: see `Selection.left_out`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from lvf.records.checkpoints import GROUP, in_few_blocks, measures, models
from lvf.reporting.select.altered import altered_models
from lvf.reporting.select.compare import MODEL
from lvf.reporting.select.sequence import is_apart, sequences
from lvf.reporting.select.settings import SETTING, duration_text, learning_rate_text
from lvf.reporting.select.variant import UNIT, VARIANT, with_variants

SCORED = ("target", "retention", "nll_source")
SEEDS = [*GROUP, *SETTING, "seed"]
"""Trained models that agree in these are the same run, made again."""
SEVERAL_SAMPLES = r"pass@(?!1$)\d+$"
"""Metrics of several samples a problem."""


@dataclass(frozen=True)
class LeftOut:
    """Something measured that a rule keeps out of the comparisons."""

    evidence_set: str
    condition: str
    """Domain and regime."""
    what: str
    because: str

    def __str__(self) -> str:
        return f"left out: {self.condition}, {self.what}, because {self.because}"


@dataclass(frozen=True)
class Selection:
    """Measured models, marked by the rules above, and what these leave out."""

    models: pd.DataFrame
    """Rows of `lvf.records.checkpoints.models` that count, with the columns of `with_variants`, and

    - `variant`: a number that models of one variant in one experiment have in common;
    - `setting`: a number that models have in common which differ in their seed alone;
    - `series`: one that models have in common which differ in seed and length alone;
    - `condition`: one that models of the same base, data and regime have in common;
    - `is_chosen`: whether the model has its variant's chosen learning rate (also the base model);
    - `is_drawn`: the same, and all models of variants that have no chosen rate."""
    left_out: tuple[LeftOut, ...] = ()
    altered: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Models altered after training, which no other comparison takes: see `altered_models`."""
    sequences: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Runs that started from another task's, likewise: see `lvf.reporting.select.sequence`."""


def selected(scores: pd.DataFrame) -> pd.DataFrame:
    """The marked models of scores as of `lvf.records.store.load`."""
    return select(with_variants(models(scores)), scores).models


def select(measured: pd.DataFrame, scores: pd.DataFrame) -> Selection:
    """Apply the rules.

    Args:
        measured: `lvf.records.checkpoints.models` of the scores, by `with_variants`; or some of
            its rows, among which to choose.
        scores: rows of `lvf.records.store.load`.
    """
    whole, measured = measured, measured[~is_apart(measured)]
    repeated = _repeated(measured)
    rows = measured.drop(index=[index for index, _ in repeated])
    rows = rows.assign(
        variant=rows.groupby([*UNIT, *VARIANT], dropna=False).ngroup(),
        setting=rows.groupby([*GROUP, *SETTING], dropna=False).ngroup(),
        series=rows.groupby([*UNIT, *VARIANT, "lr_peak"], dropna=False).ngroup(),
        condition=rows.groupby(GROUP, dropna=False).ngroup(),
    )
    is_chosen = pd.Series(rows.method == "base", dtype=bool)
    left_out = [
        _left_out(measured.loc[index], f"run {measured.run_id[index]}",
                  f"run {measured.run_id[other]} has the same settings and seed")
        for index, other in repeated
    ]  # fmt: skip
    trained = rows[rows.method != "base"]
    for _, variant in trained.groupby("variant"):
        rate = chosen_learning_rate(variant)
        if rate is not None:
            is_chosen[variant.index] = (variant.lr_peak == rate) | (
                variant.lr_peak.isna() & pd.isna(rate)
            )
    has_choice = is_chosen.groupby(rows.variant).transform("any").astype(bool)
    rows = in_few_blocks(rows.assign(is_chosen=is_chosen, is_drawn=is_chosen | ~has_choice))
    scores = scores[~is_apart(scores)]
    left_out += [*_without_a_rate(rows), *_not_scored(rows, scores), *_not_main(rows)]
    altered = altered_models(whole, rows)
    return Selection(rows, tuple(left_out), altered, sequences(whole))


def chosen_learning_rate(variant: pd.DataFrame) -> float | None:
    """The rate of the lowest mean validation loss at the longest duration, of one variant's models.

    Checkpoints that are not cooled down compete only where there are no others.

    Returns:
        NaN for a single rate that is not known. None where there are several rates and some lack
        a validation loss.
    """
    finished = variant[variant.cooled_down]
    rows = variant if finished.empty else finished
    longest = rows[rows.duration == rows.duration.max()]
    if longest.empty:  # of models from elsewhere no duration is known
        longest = rows
    by_rate = longest.groupby("lr_peak", dropna=False)
    losses = by_rate.nll_validation.mean()
    if len(losses) == 1:
        return float(losses.index[0])
    return None if losses.isna().any() else float(losses.idxmin())


def not_scored(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """What a figure of a measure leaves out: scored rows of variants and durations whose chosen
    learning rate is not scored.

    Args:
        rows: models, or settings (see `lvf.reporting.select.settings.settings`).
        measure: a column.
    """
    scored = rows[rows[measure].notna() & (rows.method != "base")]
    drawn = scored.groupby(["variant", "duration"], dropna=False).is_drawn.transform("any")
    return scored[~drawn.astype(bool)]


def main_methods(rows: pd.DataFrame) -> pd.DataFrame:
    """Base and main methods."""
    return rows[rows.role.isin(["base", "main"])]


def without_ablations(rows: pd.DataFrame) -> pd.DataFrame:
    """Without variants that differ from a main method in a setting, if anything else is left."""
    kept = rows[rows.role != "ablation"]
    return rows if (kept.method == "base").all() else kept


def evidence_set_name(source: str, scale: str, model: str) -> str:
    """What verdicts call the records of one source, scale and base model."""
    if source == "paper":
        return "published"
    return scale if scale == model else f"{scale} {model}"


def _repeated(rows: pd.DataFrame) -> list[tuple[Any, Any]]:
    """Index of each trained model that is a run made again, and of the model that counts."""
    trained = rows[rows.method != "base"]
    twins = trained[trained.duplicated(SEEDS, keep=False)]
    pairs = []
    for _, same in twins.groupby(SEEDS, dropna=False):
        num_missing = same[measures()].isna().sum(axis=1)
        order = (
            same.assign(num_missing=num_missing).sort_values(["num_missing", "created_at"]).index
        )
        pairs += [(index, order[0]) for index in order[1:]]
    return pairs


def _left_out(row: Any, what: str, because: str) -> LeftOut:
    """Something of the condition that a row of models is of."""
    name = evidence_set_name(str(row.source), str(row.scale), str(row.model))
    return LeftOut(name, f"{row.domain} {row.regime}", what, because)


def _lengths(rows: pd.DataFrame) -> str:
    lengths = [duration_text(duration, True) for duration in sorted(set(rows.duration))]
    return f"{', '.join(lengths)} {rows.duration_unit.iloc[0]}"


def _rates(rows: pd.DataFrame) -> str:
    return " and ".join(learning_rate_text(rate) for rate in sorted(set(rows.lr_peak.dropna())))


def _without_a_rate(rows: pd.DataFrame) -> Iterator[LeftOut]:
    """Variants with several rates and no validation loss to choose by."""
    for _, variant in rows.groupby("variant"):
        if not variant.is_chosen.any():
            yield _left_out(
                variant.iloc[0], f"{variant.label.iloc[0]} ({len(variant)} models)",
                f"it has the learning rates {_rates(variant)}, and not all have a validation loss "
                "to choose by",
            )  # fmt: skip


def _not_scored(rows: pd.DataFrame, scores: pd.DataFrame) -> Iterator[LeftOut]:
    """What other rates of a variant and duration were scored on, and the chosen rate was not."""
    kinds = {
        "diversity": scores.task == "diversity",
        "weights": scores.task == "weights",
        "pass@k": scores.metric.str.match(SEVERAL_SAMPLES).astype(bool),
    }
    models = pd.MultiIndex.from_frame(rows[MODEL])
    for name, has_it in kinds.items():
        known = models.isin(pd.MultiIndex.from_frame(scores.loc[has_it, MODEL]))
        rows = rows.assign(**{name: pd.Series(1.0, rows.index).where(known)})
    missing = pd.concat(not_scored(rows, name).assign(kind=name) for name in (*SCORED, *kinds))
    for (_, kind), same in missing.groupby(["variant", "kind"]):
        chosen = rows[rows.is_chosen & (rows.variant == same.variant.iloc[0])]
        if len(chosen):
            yield _left_out(
                same.iloc[0],
                f"{kind} of {same.label.iloc[0]} at {_lengths(same)} and {_rates(same)} "
                f"({len(same)} models)",
                f"its chosen learning rate {_rates(chosen)} has no {kind} there",
            )  # fmt: skip


def _not_main(rows: pd.DataFrame) -> Iterator[LeftOut]:
    """Variants that take part only in claims and figures of their own."""
    others = rows[rows.role.isin(["ablation", "relative"])]
    for _, same in others.groupby(UNIT, dropna=False, sort=True):
        labels = ", ".join(sorted(set(same.label)))
        yield _left_out(
            same.iloc[0], f"{labels} ({len(same)} models), of comparisons of the main methods",
            "those are full finetuning and LoRA with alpha = 2r on all maps, by one optimiser",
        )  # fmt: skip
