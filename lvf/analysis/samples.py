"""Diversity records from the HumanEval samples that an evaluation left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lvf.analysis.diversity import Generations, diversity_metrics, generations, problem_table
from lvf.analysis.table import write_table
from lvf.config.schema import stable_hash
from lvf.evals.measure import Subject, record_of
from lvf.records.schema import record_path, write_record


def analyse_samples(subjects: list[Subject], base: Subject, records: Path) -> list[Path]:
    """Write a `diversity` record for each finished set of samples; returns all of their paths.

    Each is compared with the base's samples of the same settings where there are any. The numbers
    of every problem lie beside the record, as `lvf.analysis.diversity.problem_table` has them.
    """
    paths = []
    for subject in (base, *subjects):
        for file in sorted(subject.folder.glob("humaneval-*.jsonl")):
            model = read_generations(file)
            if model is None:
                continue
            of_base = None if subject is base else read_generations(base.folder / file.name)
            inputs = {"samples": file.stem.rsplit("-", 1)[-1], "base": of_base is not None}
            key = stable_hash(inputs)
            path = record_path(records, subject.run_id, subject.checkpoint, "diversity", key)
            if not path.exists():
                _write(path, subject, model, of_base, inputs)
            paths.append(path)
    return paths


def read_generations(file: Path) -> dict[str, Generations] | None:
    """Counts of a file of samples; None if it is missing, unfinished, or has one a problem."""
    if not file.exists():
        return None
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    if not samples or any("passed" not in sample for sample in samples):
        return None  # verdicts come when all samples are there
    found = generations(samples)
    several = all(sum(one.counts("unique")) > 1 for one in found.values())
    return found if several else None


def _write(
    path: Path,
    subject: Subject,
    model: dict[str, Generations],
    base: dict[str, Generations] | None,
    inputs: dict[str, Any],
) -> None:
    table = problem_table(model, base)
    write_table(path, table)
    samples = int(sum(map(sum, (table.passing[0], table.failing[0]))))
    settings = inputs | {
        "samples_per_problem": samples, "table": path.with_suffix(".parquet").name,
    }  # fmt: skip
    write_record(path, record_of(subject, "diversity", diversity_metrics(table), settings))
