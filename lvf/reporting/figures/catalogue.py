"""Every figure by name: what it is called, which notebook shows it, and how it is drawn."""

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from lvf.config.schema import CONF_DIR, PACKAGE
from lvf.records.checkpoints import models
from lvf.records.store import load, load_paper
from lvf.reporting.claims.judge import Verdict, judge
from lvf.reporting.figures import (
    ablations,
    cost,
    curves,
    equal_learning,
    generations,
    style,
    tradeoff,
    weights,
)
from lvf.reporting.figures.forest import forest
from lvf.reporting.select.altered import of_group
from lvf.reporting.select.selection import select
from lvf.reporting.select.sequence import is_apart
from lvf.reporting.select.settings import groups
from lvf.reporting.select.variant import with_variants

# A wheel has no records and no place for figures: there it is the folder that one works in.
ROOT = Path.cwd() if CONF_DIR.parent == PACKAGE else CONF_DIR.parent
RECORDS = ROOT / "results" / "embedded" / "records.tar.zst"
FIGURES = ROOT / "runs" / "figures"


@dataclass(frozen=True)
class Data:
    """What figures are drawn from."""

    models: pd.DataFrame
    """`Selection.models` of `lvf.reporting.select.selection`, with the published numbers."""
    scores: pd.DataFrame
    """`lvf.records.store.load`, likewise."""
    altered: pd.DataFrame = field(default_factory=pd.DataFrame)
    """`Selection.altered`."""

    @classmethod
    def read(cls, records: Path | None = None) -> "Data":
        """Read records, and the paper's published numbers beside them.

        Args:
            records: their folder or packed file; by default `LVF_RECORDS`, else the repository's
                own records.
        """
        source = records or Path(os.environ.get("LVF_RECORDS", RECORDS))
        if source.is_file():
            return _read_once(source, source.stat().st_mtime_ns)
        return _read(source)

    @functools.cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """On every claim, by every evidence set."""
        return tuple(judge(self.models, self.scores, altered=self.altered))

    @functools.cached_property
    def weights(self) -> pd.DataFrame:
        """`lvf.reporting.figures.weights.weights_of` the scores."""
        return weights.weights_of(self.scores, self.models)

    def parts(self, by: str) -> Iterator[tuple[str, "Data"]]:
        """The data of each `scale`, or of each `group` of comparable models, by name."""
        if by == "group":
            for name, group in groups(self.models):
                yield name, replace(self, models=group, altered=of_group(self.altered, group))
            return
        for scale in sorted(self.models.scale.unique()):
            frames = [frame[frame.scale == scale] for frame in (self.models, self.scores)]
            yield str(scale), Data(*frames)


def _read(source: Path) -> Data:
    scores = pd.concat([load(source), load_paper()], ignore_index=True)
    selection = select(with_variants(models(scores)), scores)
    return Data(selection.models, scores[~is_apart(scores)], altered=selection.altered)


@functools.lru_cache(maxsize=1)
def _read_once(source: Path, modified: int) -> Data:
    """Of a packed file, once for all notebooks of a kernel."""
    return _read(source)


@dataclass(frozen=True)
class Entry:
    """One figure of the catalogue."""

    name: str
    """Stem of its files."""
    notebook: str
    title: str
    function: Callable[..., Figure]
    of: tuple[str, ...] = ("models",)
    """The fields of `Data` that the function takes beside the title."""
    by: str = "scale"
    """`scale`, `group` or `claim`: it is drawn once for each; or `once`."""

    def draw(self, data: Data, title: str) -> Figure:
        """Draw it from some data."""
        return self.function(title=title, **{name: getattr(data, name) for name in self.of})


BOTH = ("models", "scores")
FIGURES_OF_THE_PAPER = [
    Entry("fig1", "learning", "Fig. 1: learning the target domain",
          partial(curves.over_durations, measure="target")),
    Entry("fig2", "learning", "Fig. 2: forgetting the source domain",
          partial(curves.over_durations, measure="retention")),
    Entry("fig3", "tradeoff", "Fig. 3: learning and forgetting", tradeoff.pareto),
    Entry("fig4", "ablations", "Fig. 4: regularisation", ablations.regularisation),
    Entry("fig5", "generations", "Fig. 5: diversity", generations.diversity, BOTH),
    Entry("fig6", "weights", "Fig. 6: rank of the update", weights.ranks_by_layer, ("weights",)),
    Entry("fig7", "ablations", "Fig. 7: target modules", ablations.target_modules),
    Entry("figS1", "ablations", "Fig. S1: learning rates", ablations.learning_rates),
    Entry("figS2", "ablations", "Fig. S2: Lion and AdamW", ablations.optimizers),
    Entry("figS3", "ablations", "Fig. S3: alpha", ablations.alphas),
    Entry("figS4", "tulu", "Fig. S4: Tülu, MT-bench",
          partial(curves.tulu, tasks=["mt_bench"]), BOTH),
    Entry("figS5", "tulu", "Fig. S5: Tülu, GSM8K and MMLU",
          partial(curves.tulu, tasks=["gsm8k", "mmlu"]), BOTH),
    Entry("figS6", "tulu", "Fig. S6: Tülu, forgetting",
          partial(curves.tulu, tasks=["retention"]), BOTH),
    Entry("figS7", "weights", "Fig. S7: spectra of W_q", weights.spectra, ("weights",)),
    Entry("figS8", "weights", "Fig. S8: spectra of random matrices", weights.random_spectra, (),
          by="once"),
    Entry("figS9", "generations", "Fig. S9: pass@k", generations.pass_at_k, BOTH),
    Entry("figS10", "cost", "Fig. S10: throughput, memory", cost.throughput, ("scores",)),
    Entry("v1-tasks", "learning", "v1 Figs S4 and S5: forgetting by task",
          curves.retention_by_task),
]  # fmt: skip
"""In the order of the paper."""
FIGURES_BEYOND = [
    Entry("claim", "claims", "Claims", partial(style.nothing, what="any claim"), (), by="claim"),
    Entry("frontier", "tradeoff", "Learning and forgetting over rates", tradeoff.frontier,
          ("models", "altered"), by="group"),
    Entry("equal-learning", "tradeoff", "Forgetting at equal learning",
          equal_learning.at_equal_learning),
    Entry("hypervolume", "tradeoff", "Hypervolume", equal_learning.hypervolumes),
    Entry("cost", "cost", "Score against cost", cost.scores_against_cost),
    Entry("budget", "cost", "Loss against budget by rank", cost.loss_against_budget),
    Entry("rates", "cost", "Optimal rate by rank", cost.optimal_rates),
    Entry("intruders", "weights", "Intruder dimensions", weights.intruders, ("weights",)),
]  # fmt: skip
CATALOGUE = {entry.name: entry for entry in FIGURES_OF_THE_PAPER + FIGURES_BEYOND}


def drawn(name: str, data: Data) -> dict[str, Figure]:
    """A figure of the catalogue for every scale (or group) that has data for it, by file stem.

    Where none has, a figure that says what there are no records for.
    """
    entry = CATALOGUE[name]
    if entry.by == "once":
        return {name: entry.draw(data, entry.title)}
    if entry.by == "claim":
        forests = {
            f"{name}-{one.evidence_set}-{one.number}".replace(" ", "_"): forest(one)
            for one in data.verdicts
            if one.effect is not None
        }
        return forests or {name: entry.draw(data, entry.title)}
    figures = {
        f"{name}-{part}": entry.draw(its_data, f"{entry.title} ({_named(part, its_data, entry)})")
        for part, its_data in data.parts(entry.by)
    }
    with_data = {stem: figure for stem, figure in figures.items() if style.has_data(figure)}
    return with_data or {name: entry.draw(data, entry.title)}


def _named(part: str, data: Data, entry: Entry) -> str:
    """A scale as it is called; a group by its domain and regime, without its configuration's id."""
    if entry.by == "scale":
        return f"{part} scale"
    first = data.models[data.models.method != "base"].iloc[0]
    return f"{first.domain} {style.REGIMES.get(first.regime, first.regime)}, {first.scale} scale"


def draw(name: str, data: Data, out: Path | None = None) -> list[Figure]:
    """The figures of `drawn`, saved as PDF and PNG.

    Args:
        name: key of `CATALOGUE`.
        data: what to draw.
        out: folder; by default `LVF_FIGURES`, else runs/figures of the repository.
    """
    folder = out or Path(os.environ.get("LVF_FIGURES", FIGURES))
    figures = drawn(name, data)
    for stem, figure in figures.items():
        style.save(figure, folder / stem)
    return list(figures.values())
