"""What finetuning did to the weights: paper Figs 6, S7 and S8, and intruder dimensions."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lvf.analysis.noise import noise_spectra, spectral_distances
from lvf.analysis.table import EPSILON, EPSILONS, matrices
from lvf.reporting.figures import style
from lvf.reporting.select.compare import of_drawn_models
from lvf.reporting.select.settings import duration_text
from lvf.reporting.select.variant import ATTENTION, MLP

SPECTRA = {
    "base_singular_values": "W base",
    "tuned_singular_values": "W finetuned",
    "singular_values": "Δ = finetuned − base",
}
DASHES: tuple[Any, ...] = ("-", (0, (4, 3)), "-")
"""So that a line under another shows."""
AMOUNTS = tuple(float(c) for c in np.logspace(-6, 0, 7))
"""Of noise, in the right panel of Fig. S8."""
DEPTH = 26 / 32
"""Relative depth of the layer that the paper shows: layer 26 of Llama-2-7B's 32."""


def weights_of(scores: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """A row for each matrix of every model whose weights were analysed (`python -m lvf.analyze`).

    Trained models that have another learning rate than their variant's chosen rate are left out.

    Args:
        scores: the table of `lvf.records.store.load`, whose records of the task `weights` lie
            beside their tables of matrices.
        models: `Selection.models` of these scores.

    Returns:
        The tables' columns, and `scale`, `domain`, `regime`, `run_id`, `checkpoint`, `method`,
        `rank`, `role`, `label`, `duration` and `duration_unit`.
    """
    axes = ["scale", "domain", "regime", "run_id", "checkpoint", "method", "rank", "role", "label",
            "duration", "duration_unit"]  # fmt: skip
    records = of_drawn_models(scores, models)
    records = records[records.task == "weights"].drop_duplicates("path")
    tables = []
    for record in records.itertuples():
        table = matrices(Path(str(record.path)))
        tables.append(table.assign(**{name: getattr(record, name) for name in axes}))
    empty = pd.DataFrame(columns=pd.Index([*axes, "layer", "module", "rank90"]))
    return pd.concat(tables, ignore_index=True) if tables else empty


@style.styled
def ranks_by_layer(weights: pd.DataFrame, title: str) -> Figure:
    """Rank that explains 90 % of the update's variance, layer by layer (paper Fig. 6).

    A panel a module type; a line a duration of full finetuning, lighter is longer; dashed is the
    largest rank that the matrix can have. Of several conditions the one with the most durations.

    Args:
        weights: rows of `weights_of` of one scale.
        title: heading.
    """
    full = _one_condition(_full(weights))
    modules = [name for name in ATTENTION + MLP if (full.module == name).any()] or ["all modules"]
    figure, places = style.panels(len(modules), min(4, len(modules)), (2.9, 2.5), legend=1.4)
    durations = sorted(full.duration.unique())
    shades = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.9, len(durations)))
    for axes, module in zip(places, modules, strict=True):
        axes.set_title(module)
        here = full[(full.module == module) & (full.layer >= 0)]
        if here.empty:
            style.say_missing(axes, "updates of\nfull finetuning")
            continue
        for duration, shade in zip(durations, shades, strict=True):
            line = here[here.duration == duration].groupby("layer").rank90.mean()
            axes.plot(line.index, line.to_numpy(), color=shade, linewidth=1.2, marker=".")
        largest = here[["out_features", "in_features"]].min(axis=1).max()
        axes.axhline(largest, **style.BASE_LINE)
        axes.set(xlabel="layer", ylim=(0, None))
    places[0].set_ylabel("rank for 90 % of variance")
    legend = [
        Line2D([], [], color=shade, marker=".", label=_length(full, duration))
        for duration, shade in zip(durations, shades, strict=True)
    ]
    return style.finish(figure, title, more=legend)


@style.styled
def spectra(weights: pd.DataFrame, title: str) -> Figure:
    """Singular values of one W_q before and after, and of its update (paper Fig. S7).

    Left: the values; right: the share of variance that the largest explain. The matrix lies at the
    depth of the paper's layer 26, in the longest full finetuning.
    """
    full = _one_condition(_full(weights[weights.module == "q_proj"]))
    if full.empty:
        return style.nothing(title, "spectra of W_q", 2, legend=2.3)
    figure, places = style.panels(2, 2, legend=2.3)
    looks = style.contrasts(list(SPECTRA.values()))
    full = full[full.duration == full.duration.max()]
    wanted = round(DEPTH * (full.layer.max() + 1))
    matrix = full.iloc[(full.layer - wanted).abs().argmin()]
    for (column, name), dashes in zip(SPECTRA.items(), DASHES, strict=True):
        sigma = np.asarray(matrix[column], dtype=float)
        index = np.arange(1, len(sigma) + 1)
        look: dict[str, Any] = {"color": looks[name][0], "linestyle": dashes}
        places[0].plot(index, sigma, **look)
        places[1].plot(index, np.cumsum(sigma**2) / np.sum(sigma**2), **look)
    places[1].axhline(0.9, **style.BASE_LINE)
    places[0].set(yscale="log", xlabel="index", ylabel="singular value")
    places[1].set(xlabel="number of singular vectors", ylabel="explained variance")
    lines = _lines(looks)
    title = f"{title}: layer {matrix.layer}, {_length(full, full.duration.max())}"
    return style.finish(figure, title, more=lines)


@style.styled
def random_spectra(title: str, size: int = 1000) -> Figure:
    """Spectra of a Gaussian matrix with and without noise (paper Fig. S8); needs no records.

    Left: A, A + 0.1 B and 0.1 B, both (size, size). Right: mean |sigma(A) - sigma(A + c B)| over c,
    which grows with c where noise is small and with c^2 where it is large.
    """
    spectra_of = dict(
        zip(("A", "A + 0.1 B", "0.1 B"), noise_spectra(size).T.to_numpy(), strict=True)
    )
    moved = spectral_distances(AMOUNTS, size)
    amounts, differences = moved.c.to_numpy(), moved.distance.to_numpy()
    figure, places = style.panels(2, 2, legend=1.9)
    looks = style.contrasts(list(spectra_of))
    for (name, sigma), dashes in zip(spectra_of.items(), DASHES, strict=True):
        index = np.arange(1, size + 1)
        places[0].plot(index, sigma, color=looks[name][0], linestyle=dashes)
    places[0].set(xlabel="index", ylabel="singular value")
    places[1].plot(amounts, differences, color="black", marker="o")
    for power, line in (("c", differences[0] * amounts / amounts[0]),
                       ("c²", differences[-1] * amounts**2)):  # fmt: skip
        places[1].plot(amounts, line, color="0.5", linestyle="--")
        places[1].annotate(
            f"∝ {power}", (amounts[2], line[2]), xytext=(8, -8), color="0.35",
            textcoords="offset points",
        )  # fmt: skip
    places[1].set(xscale="log", yscale="log", xlabel="c", ylabel="mean |σ(A) − σ(A + cB)|")
    return style.finish(figure, title, more=_lines(looks))


def _lines(looks: dict[str, style.Look]) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, linestyle=dashes, label=name)
        for (name, (colour, _)), dashes in zip(looks.items(), DASHES, strict=True)
    ]


@style.styled
def intruders(weights: pd.DataFrame, title: str) -> Figure:
    """Intruder dimensions by method, over training and over their threshold.

    Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of Equivalence" (2410.21228): the
    tuned matrix's leading ten singular vectors whose cosine with every one of the base is below
    epsilon, summed over the matrices of all blocks. Left: over duration, epsilon = 0.5; right: over
    epsilon, at the longest duration.
    """
    rows = _one_condition(weights)
    if rows.empty:
        return style.nothing(title, "analysed weights", 2)
    figure, places = style.panels(2, 2)
    looks = style.looks(rows)
    blocks = rows[rows.layer >= 0]
    for label, method in blocks.groupby("label", sort=False):
        colour, marker = looks[str(label)]
        counts = {d: _counts(rows) for d, rows in method.groupby("duration")}
        longest = max(counts)
        look: dict[str, Any] = {"color": colour, "marker": marker}
        at_half = [counts[d][EPSILONS.index(EPSILON)] for d in sorted(counts)]
        places[0].plot(sorted(counts), at_half, **look, label=label)
        places[1].plot(EPSILONS, counts[longest], **look)
    style.duration_axis(places[0], blocks)
    places[0].set_ylabel("intruder dimensions, ε = 0.5")
    places[1].set(xlabel="ε", ylabel="intruder dimensions")
    return style.finish(figure, title, looks)


def _counts(rows: pd.DataFrame) -> np.ndarray:
    """Intruders of one model at each epsilon, mean over the models (seeds) in the rows."""
    cosines = np.concatenate([np.asarray(matrix, dtype=float) for matrix in rows.largest_cosines])
    return np.array([(cosines < epsilon).sum() for epsilon in EPSILONS]) / rows.run_id.nunique()


def _full(weights: pd.DataFrame) -> pd.DataFrame:
    """Plain full finetuning."""
    return weights[(weights.method == "full") & (weights.role == "main")]


def _one_condition(weights: pd.DataFrame) -> pd.DataFrame:
    """Rows of the condition with the most durations, code CPT first (the paper's)."""
    conditions = [rows for _, rows in weights.groupby(["domain", "regime"], sort=True)]
    conditions.sort(key=lambda rows: rows.regime.iloc[0] == "cpt", reverse=True)
    return max(conditions, key=lambda rows: rows.duration.nunique(), default=weights)


def _length(rows: pd.DataFrame, duration: float) -> str:
    return f"{duration_text(duration, True)} {rows.duration_unit.iloc[0]}"
