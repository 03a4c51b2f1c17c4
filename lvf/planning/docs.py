"""Writes docs/grid.md: every value of the grid, from conf/ alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import takewhile
from math import prod
from typing import Any

import hydra
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from lvf.config.compose import catalogue, compose, lr_of_method, to_schema
from lvf.config.grid_schema import GridConfig
from lvf.config.schema import CONF_DIR, RunConfig
from lvf.planning.estimates import plan, total_batches
from lvf.planning.listing import number, quantity, totals
from lvf.planning.shapes import num_parameters, num_trainable_parameters, shape_of
from lvf.runs.sweep import runs_of

MAIN = ("code_ift", "math_ift", "code_cpt", "math_cpt", "tulu")
SCALES = ("paper", "small", "embedded")
OF_THE_PAPER = (
    "main", "tulu", "regularisation", "targets", "lr_sensitivity", "optimizers", "alpha_lr",
)  # fmt: skip
HEAD = """# The grid

Generated from `conf/` by `python -m lvf.planning docs > docs/grid.md`; a test says whether it is up
to date. Every cell with its state: `python -m lvf.grid sweep=main scale=paper`, or any sweep below.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for scale in SCALES:
        parts += [f"## Conditions of scale={scale}\n", conditions(scale)]
    parts += ["## Methods\n", methods(), "## Experiments\n", descriptions("experiment")]
    parts += ["## Sweeps\n", sweeps(), "### What the paper's take\n", costs()]
    for group in ("packing", "schedule", "optimizer"):
        parts += [f"## {group.capitalize()}\n", descriptions(group)]
    parts += ["## Models\n", models(), "## Data sets\n", datasets()]
    parts += ["## Departures from the paper\n", departures()]
    return "\n".join(parts)


def conditions(scale: str) -> str:
    """Values of the main experiments side by side."""
    full = [compose(f"+experiment={one}", f"scale={scale}", "method=full") for one in MAIN]
    rows: list[tuple[str, Callable[[RunConfig], Any]]] = [
        ("data", lambda c: f"`{c.data.train.path}`"),
        ("model", lambda c: c.model.name),
        ("durations", _durations),
        ("batches of the longest", _longest),
        ("rows a batch", lambda c: c.training.global_batch_size),
        ("most rows at once a device", lambda c: c.runtime.device_microbatch_size or "all"),
        ("tokens a row", lambda c: c.training.seq_len),
        ("examples a row", _examples_a_row),
        ("see each other", lambda c: "yes" if c.training.attend_across_examples else "no"),
        ("template", lambda c: "running text" if c.data.text_column else c.data.template),
        ("optimiser", lambda c: c.optimizer["_target_"].rsplit(".", 1)[-1]),
        ("betas", lambda c: ", ".join(map(str, c.optimizer["betas"]))),
        ("weight decay", lambda c: f"{c.optimizer['weight_decay']:g}"),
        ("gradient norm", lambda c: c.training.grad_clip_norm),
        ("precision", lambda c: c.training.precision),
        ("schedule", _schedule),
        ("rate of full", lambda c: f"{c.training.lr_peak:g}"),
        ("tasks", lambda c: ", ".join(c.evals.tasks)),
    ]
    table = [[name, *(value(cfg) for cfg in full)] for name, value in rows]
    for rank in full[0].scale.lora_ranks:
        table.append([f"rate of LoRA r={rank}", *(_lora_rate(cfg, rank) for cfg in full)])
    return markdown(["", *MAIN], table)


def _lora_rate(cfg: RunConfig, rank: int) -> str:
    training = cfg.training
    return f"{lr_of_method(training.lr_by_method, 'lora', rank, 1.0, training.lora_lr_ratio):g}"


def _durations(cfg: RunConfig) -> str:
    if cfg.measure_at:
        moments = [*cfg.measure_at, cfg.duration]
        return f"{', '.join(f'{one:g}' for one in moments)} epochs of one run"
    if cfg.trunk.tokens:
        budgets = [*cfg.trunk.budgets, cfg.trunk.tokens]
        return f"{', '.join(map(quantity, budgets))} tokens"
    return f"{', '.join(f'{one:g}' for one in cfg.scale.epochs)} epochs"


def _longest(cfg: RunConfig) -> str:
    in_epochs = cfg.regime.duration_unit == "epochs" and not cfg.measure_at
    longest = replace(cfg, duration=max(cfg.scale.epochs)) if in_epochs else cfg
    return number(total_batches(longest), ",")


def _examples_a_row(cfg: RunConfig) -> str:
    if cfg.data.text_column:
        return "documents cut at the row's end"
    return str(cfg.training.packing_ratio or "as many as fit")


def _schedule(cfg: RunConfig) -> str:
    s = cfg.schedule
    warmup = f"{s.warmup:.0%}" if s.warmup < 1 else f"{s.warmup:g} batches"
    tail = f", cooldown {s.cooldown:.0%}" if s.cooldown else ""
    return f"{s.kind}, warm-up {warmup}{tail}, to {s.final_lr_ratio:g}"


def methods() -> str:
    """Every file of conf/method with what it trains on the paper's model."""
    rows = []
    for name in options("method"):
        cfg = compose("scale=paper", f"method={name}")
        method, shape = cfg.method, shape_of(cfg.model)
        assert shape is not None  # conf/model has it
        trained = f"{num_trainable_parameters(shape, method):,}"
        modules = ", ".join(one.removesuffix("_proj") for one in method.target_modules or [])
        sizes = [method.rank, method.alpha, method.dropout]
        rows.append([f"`{name}`", comment("method", name), *sizes, modules, trained])
    head = ["method", "", "rank", "alpha", "dropout", "target modules", "trains of Llama-2-7B"]
    return markdown(head, rows)


def sweeps() -> str:
    """Every file of conf/sweep with its number of cells on each scale."""
    rows = []
    for name in options("sweep"):
        cells = [_num_cells(grid(name, scale)) for scale in ("paper", "embedded")]
        rows.append([f"`{name}`", comment("sweep", name), *cells])
    return markdown(["sweep", "", "cells, paper", "cells, embedded"], rows)


def _num_cells(one: GridConfig) -> int:
    return sum(prod(map(len, block.values())) for block in one.sweep.blocks.values())


def costs() -> str:
    """Totals of the paper's sweeps on its own scale; runs that sweeps share are counted in each."""
    rows = []
    for name in OF_THE_PAPER:
        cells = runs_of(grid(name, "paper").sweep, ["scale=paper"])
        batches, _, *others = totals([plan(cell, fresh=True) for cell in cells])
        rows.append([f"`{name}`", len(cells), batches, *others])
    return markdown(["sweep", "runs", "batches", "FLOPs", "H100 hours, on 32", "disk"], rows)


def models() -> str:
    """Every model of conf/models.yaml with its parameters."""
    rows = []
    for name in catalogue("models"):
        model = compose(f"model={name}").model
        shape = shape_of(model)
        size = "unknown" if shape is None else f"{num_parameters(shape):,}"
        rows.append([f"`{name}`", f"`{model.path}`", size, entry_comment("models", name)])
    return markdown(["model", "path", "parameters", ""], rows)


def datasets() -> str:
    """Every data set of conf/datasets.yaml with its size as published."""
    rows = []
    for name, data in catalogue("datasets").items():
        sizes = filter(None, (data.get("documents"), data.get("max_documents")))
        documents = min(sizes, default=None)
        size = "" if documents is None else f"{documents:,}"
        path = data["train"]["path"]
        rows.append([f"`{name}`", f"`{path}`", size, entry_comment("datasets", name)])
    return markdown(["data", "path", "documents", ""], rows)


def departures() -> str:
    """conf/departures.yaml as a table."""
    listed: Any = OmegaConf.load(CONF_DIR / "departures.yaml")
    rows = [
        [one.what, one.paper, one.here, one.why, f"`{one.switch}`" if one.switch else ""]
        for one in listed
    ]
    return markdown(["what", "the paper", "here", "why", "switch"], rows)


def descriptions(group: str) -> str:
    """Every file of a group with its leading comment."""
    return markdown([group, ""], [[f"`{one}`", comment(group, one)] for one in options(group)])


def options(group: str) -> list[str]:
    """Names of a group's files."""
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


def comment(group: str, name: str) -> str:
    """The comment at the head of a file, which gives its source."""
    lines = (CONF_DIR / group / f"{name}.yaml").read_text().splitlines()
    head = takewhile(lambda line: line.startswith("#"), lines)
    return _joined(line for line in head if not line.startswith("# @package"))


def entry_comment(file: str, name: str) -> str:
    """The comment above an entry of `conf/<file>.yaml`."""
    lines = (CONF_DIR / f"{file}.yaml").read_text().splitlines()
    entry = next(i for i, line in enumerate(lines) if line.startswith(f"{name}:"))
    above = takewhile(lambda line: line.startswith("#"), reversed(lines[:entry]))
    return _joined(reversed(list(above)))


def _joined(comment_lines: Iterable[str]) -> str:
    return " ".join(line.removeprefix("#").strip() for line in comment_lines)


def grid(sweep: str, scale: str) -> GridConfig:
    """A sweep on a scale, as the planner's command line composes it."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        words = [f"sweep={sweep}", f"scale={scale}"]
        return to_schema(hydra.compose("grid", overrides=words), GridConfig)


def markdown(head: list[str], rows: Iterable[list[Any]]) -> str:
    """A table in Markdown, with an empty line after it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(one) for one in line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "\\|")
