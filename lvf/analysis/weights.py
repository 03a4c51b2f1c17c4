"""Measure what finetuning did to every matrix of a model, keeping each matrix as it is done."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lvf.analysis.changes import Change, Tuned, pieces
from lvf.analysis.intruders import Decomposition, decompose, largest_cosines
from lvf.analysis.spectra import VARIANCE, factor_singular_values, measures, singular_values
from lvf.analysis.table import ROUNDING_SHARE, TOP_K, matrix_table, summaries, write_table
from lvf.analysis.tensors import Weights, place
from lvf.config.schema import stable_hash
from lvf.evals.measure import Subject, record_of
from lvf.records.schema import record_path, write_record
from lvf.runs.run_folder import write_json

INPUTS = {"variance": VARIANCE, "top_k": TOP_K}
HASH = stable_hash(INPUTS)


def weights_record(subject: Subject, records: Path) -> Path:
    """Where the record of a model's weights is or will be; its table lies beside it."""
    return record_path(records, subject.run_id, subject.checkpoint, "weights", HASH)


def analyse_weights(models: list[tuple[Subject, Path]], base: Path, records: Path) -> list[Path]:
    """Write a record and a table for each model that has none; returns the records' paths.

    A base matrix is decomposed once for all models. Every finished matrix is kept in the subject's
    folder, so that a restart does only the rest.

    Args:
        models: who is measured, and the folder of its weights: a model or a PEFT adapter.
        base: folder of the model that all were finetuned from.
        records: folder of the records.

    Raises:
        UserError: weights are missing, do not match the base, or are not plain LoRA.
    """
    missing = [(s, folder) for s, folder in models if not weights_record(s, records).exists()]
    if missing:
        base_weights = Weights(base)
        tuned = [(subject, Tuned(base_weights, folder)) for subject, folder in missing]
        _fill(base_weights, tuned)
        for subject, model in tuned:
            _conclude(subject, model, records)
    return [weights_record(subject, records) for subject, _ in models]


def _fill(base: Weights, tuned: list[tuple[Subject, Tuned]]) -> None:
    """Analyse every matrix that has no file yet, in the order of the layers."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pairs = [(name, subject, model) for subject, model in tuned for name in model.names]
    todo = [pair for pair in pairs if not _matrix_file(pair[1], pair[0]).exists()]
    todo.sort(key=lambda pair: (place(pair[0]), pair[0]))
    done = len(pairs) - len(todo)
    bar = tqdm(
        total=len(pairs), initial=done, desc="Analysing weights", unit="matrix", disable=False
    )
    with bar:
        for name, same_matrix in itertools.groupby(todo, key=lambda pair: pair[0]):
            base_matrix = base.read(name).to(device)
            base_parts = decompose(pieces(base_matrix))
            for _, subject, model in same_matrix:
                change = model.change(name, base_matrix, device)
                write_json(_matrix_file(subject, name), analyse_matrix(name, change, base_parts))
                bar.update()


def _matrix_file(subject: Subject, name: str) -> Path:
    folder = subject.folder / f"weights-{HASH}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.json"


def analyse_matrix(name: str, change: Change, base: Decomposition) -> dict[str, Any]:
    """The row of one matrix in the table, as `lvf.analysis.table.matrices` describes it."""
    if change.factors is None:
        sigma = singular_values(change.update_pieces, max(change.base.shape))
    else:
        sigma = factor_singular_values(*change.factors)
    tuned = decompose(change.tuned_pieces(), TOP_K)
    found = measures(sigma)
    energy = found["frobenius_norm"] ** 2
    where = place(name)
    return {
        "name": name,
        "layer": where.layer,
        "module": where.module,
        "out_features": change.base.shape[0],
        "in_features": change.base.shape[1],
        **found,
        "relative_norm": found["frobenius_norm"] / float(base.sigma.norm()),
        "rounding_share": change.rounding_energy() / energy if energy else 0.0,
        "largest_cosines": largest_cosines(change, base, tuned).tolist(),
        "singular_values": sigma.tolist(),
        "base_singular_values": base.sigma.tolist(),
        "tuned_singular_values": tuned.sigma.tolist(),
    }


def _conclude(subject: Subject, model: Tuned, records: Path) -> None:
    """Gather the matrices into the table and write the record that names it."""
    path = weights_record(subject, records)
    rows = [json.loads(_matrix_file(subject, name).read_text()) for name in model.names]
    table = matrix_table(rows)
    write_table(path, table)
    if unsure := int((table.rounding_share > ROUNDING_SHARE).sum()):
        print(
            f"{subject.run_id}: {unsure} of {len(table)} updates are so small that the data type "
            f"of the stored weights has rounded off over {ROUNDING_SHARE:.0%} of them. Their ranks "
            "are those of rounding: no mean of ranks is recorded. Give weights saved in float32."
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    settings = INPUTS | {"table": path.with_suffix(".parquet").name, "device": device}
    write_record(path, record_of(subject, "weights", summaries(table), settings))
