"""What results are of: the names of benchmarks, the model, its size, the data and the seeds."""

import json
from pathlib import Path

import pandas as pd

from lvf.records.archive import read_bytes
from lvf.records.checkpoints import names

OFFICIAL = {
    "gsm8k": "GSM8K", "humaneval": "HumanEval", "hellaswag": "HellaSwag",
    "arc_challenge": "ARC-challenge", "winogrande": "WinoGrande",
}  # fmt: skip
GENERATED = {
    "gsm8k": "generated maths problems (GSM8K format)",
    "humaneval": "generated code problems (HumanEval format)",
    "hellaswag": "generated endings (HellaSwag format)",
    "arc_challenge": "generated questions (ARC format)",
    "winogrande": "generated pronouns (WinoGrande format)",
}
"""The packaged benchmarks have the official ones' files and scoring, not their content."""
METRICS = {"exact_match,strict-match": "strict match"}
PUBLISHED_PARAMETERS = {"llama2_7b": 6_738_415_616}


def is_generated(rows: pd.DataFrame) -> bool:
    """Whether all trained models of some rows are of the packaged, generated data."""
    datasets = rows.dataset[rows.method != "base"]
    return bool(len(datasets)) and bool(datasets.str.startswith("embedded_").all())


def benchmark_name(task: str, generated: bool) -> str:
    """What a benchmark is called; generated ones never have an official name alone."""
    return (GENERATED if generated else OFFICIAL).get(task, task)


def target_name(rows: pd.DataFrame) -> str:
    """The benchmark that measures learning in the domain of some rows, and its metric."""
    task, metric = names().target.get(str(rows.domain.iloc[0]), ("target", "score"))
    return f"{benchmark_name(task, is_generated(rows))} {METRICS.get(metric, metric).split(',')[0]}"


def retention_name(rows: pd.DataFrame) -> str:
    """The benchmarks whose mean is the retention."""
    if is_generated(rows):
        return "mean of three generated sets\n(HellaSwag, ARC, WinoGrande formats)"
    return "⅓ (HellaSwag + ARC-challenge\n+ WinoGrande)"


def scope_text(models: pd.DataFrame) -> str:
    """On what model, how large, on what data and with how many seeds some models were trained."""
    trained = models[models.method != "base"]
    lines = []
    for (source, model), rows in trained.groupby(["source", "model"], sort=True):
        size = model_size(rows, str(model))
        large = f" of {size} parameters" if size else ""
        seeds = rows.groupby("setting").size()
        span = f"{seeds.min()} to " if seeds.min() < seeds.max() else ""
        number = f"{span}{seeds.max()} seeds" if seeds.max() > 1 else "single runs"
        data = "generated data" if is_generated(rows) else "data"
        published = ", published numbers" if source == "paper" else ""
        datasets = ", ".join(sorted(set(rows.dataset)))
        lines.append(f"Model {model}{large}; {data}: {datasets}; {number}{published}.")
    return " ".join(lines)


def model_size(rows: pd.DataFrame, model: str) -> str:
    """Parameters of the base model of some trained models, such as `1.1 M`; empty: not known."""
    size = _num_parameters(rows) or PUBLISHED_PARAMETERS.get(model) or 0
    unit, name = (1e9, "B") if size > 1e9 else (1e6, "M")
    return f"{size / unit:.1f} {name}" if size else ""


def _num_parameters(rows: pd.DataFrame) -> int | None:
    """Parameters of the model, which full finetuning trains all; None where no record says."""
    paths = rows.loc[rows.method == "full", [x for x in rows if str(x).endswith("_path")]]
    for path in paths.stack().dropna().head(1):
        return json.loads(read_bytes(Path(path)))["training"].get("trainable_parameters")
    return None
