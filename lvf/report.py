"""`python -m lvf.report`: claims, tables and figures from record files."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from lvf.config.compose import exit_on_user_error, to_schema, with_home
from lvf.config.kinds import LocalPath
from lvf.config.schema import CONF_DIR
from lvf.errors import UserError
from lvf.log import keep_from_terminal
from lvf.records.archive import pack

if TYPE_CHECKING:
    import pandas as pd

    from lvf.reporting.report import Report
    from lvf.reporting.select.selection import Selection

WHERE = "where="
REGIMES = {"ift": "instruction finetuning", "cpt": "continued pre-training"}


@dataclass(kw_only=True)
class ReportConfig:
    """What to read, and where the report goes."""

    records: LocalPath = "runs/records"
    out: LocalPath = "runs/report"
    where: str | None = None
    """SQL condition on the columns of models.csv."""
    paper: bool = False
    """Show the paper's published numbers too."""
    claims: bool = False
    """Only judge the claims; `python -m lvf.report claims` sets it."""
    page: bool = False
    """Write one HTML page with plots and the records of every number, in place of PNG files."""
    export: bool = False
    """Also write all scores and models as CSV and Parquet."""
    pack: bool = False
    """Only pack the folder of records into one file; `python -m lvf.report pack` sets it."""


ConfigStore.instance().store(name="report_schema", node=ReportConfig)


def report(cfg: ReportConfig) -> None:
    """Print the answer, its table and the verdicts; write CSV, Markdown and PNG files, or a page.

    With `pack`, only pack the records into one file.

    Raises:
        UserError: no records, or a condition that cannot be evaluated or leaves nothing.
    """
    if cfg.pack:
        print(f"written:\n  {pack(Path(cfg.records))}")
        return
    from lvf.records.quality import quality_notes
    from lvf.records.store import RecordWarning, export
    from lvf.reporting.report import Report
    from lvf.reporting.select.sequence import is_apart
    from lvf.reporting.tables import terminal
    from lvf.reporting.tables.paper_text import printed_tables, write_tables
    from lvf.reporting.tables.results import console

    if cfg.page and not cfg.claims:
        from lvf.reporting.page.write import start_bundle, write_page

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        selection, scores, quality = _selected(cfg)
    notes = [w.message for w in caught if issubclass(w.category, RecordWarning)]
    for note in [*notes, *quality_notes(quality)]:
        print(f"note: {note}", file=sys.stderr)
    out = Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file: name a folder")
    out.mkdir(parents=True, exist_ok=True)
    bundle = start_bundle() if cfg.page and not cfg.claims else None
    results = Report(selection, scores[~is_apart(scores)], cfg.where)
    written = _claims(results, out)
    if cfg.export:
        written += [*export(scores, out / "scores"), *export(selection.models, out / "models")]
    if cfg.where is not None:
        print(f"judged by the models with {cfg.where}, not by all")
    if cfg.claims:
        console().print(terminal.claims_table(results.verdicts))
        _say_written(written)
        return
    written += _tables(results, quality, out, with_figures=not cfg.page)
    if cfg.paper:
        printed = printed_tables(selection.models, results.tables)
        written += write_tables(printed, out / "tables")
    screen = console()
    screen.print(terminal.answer(results.verdicts, selection.models))
    screen.print(terminal.main_methods_table(selection.models))
    if len(selection.altered):
        screen.print(terminal.altered(results))
    if len(selection.sequences):
        screen.print(terminal.sequences(results))
    screen.print(terminal.verdict_lines(results.verdicts))
    _say_written(written)
    if cfg.page:
        print(f"page: {write_page(results, out / 'index.html', bundle)}")
    else:
        print("page: the same command with page=true writes it, with all plots and records")


def _say_written(paths: list[Path]) -> None:
    """A line for each folder that has been written to."""
    folders = dict.fromkeys(path.parent for path in paths)
    for folder in folders:
        names = [path.name for path in paths if path.parent == folder]
        few = names if len(names) <= 12 else [*names[:3], f"{len(names) - 3} more"]
        print(f"written to {folder}: {', '.join(few)}")


def _selected(cfg: ReportConfig) -> tuple[Selection, pd.DataFrame, pd.DataFrame]:
    """Models to compare, all scores, and what is no result: see `lvf.records.quality`.

    Claims alone are judged by benchmarks of speed, too; all else needs a trained model.
    """
    import pandas as pd

    from lvf.records.checkpoints import models
    from lvf.records.filter import models_where
    from lvf.records.quality import data_quality, without_diverged
    from lvf.records.store import load, load_paper
    from lvf.reporting.select.selection import select
    from lvf.reporting.select.sequence import is_apart
    from lvf.reporting.select.variant import with_variants

    records = Path(cfg.records)
    scores = load(records)
    quality = data_quality(scores, records.parent)
    scores = without_diverged(scores, quality)
    if cfg.paper:
        scores = pd.concat([scores, load_paper()], ignore_index=True)
    measured = with_variants(models(scores))
    benchmarked = (scores.task == "throughput").any()
    plain = measured[~is_apart(measured)]
    if (plain.method == "base").all() and not (cfg.claims and benchmarked):
        hint = "judge its benchmarks with python -m lvf.report claims, " if benchmarked else ""
        raise UserError(
            f"no records of trained models under records={records} (altered checkpoints and second "
            f"runs of sequences only stand beside others): {hint}make some with "
            "python -m lvf.train +experiment=math_ift, name another folder with records=..., or "
            "look at the published numbers with paper=true"
        )
    if cfg.where is not None:
        measured = models_where(measured, cfg.where)
    return select(measured, scores), scores, quality


def _claims(results: Report, out: Path) -> list[Path]:
    """Write the verdicts on the claims as CSV and Markdown; returns both paths."""
    from lvf.reporting.claims.judge import as_table
    from lvf.reporting.claims.table import claims_markdown

    paths = [out / "claims.csv", out / "claims.md"]
    as_table(results.verdicts).to_csv(paths[0], index=False)
    left_out = results.selection.left_out
    paths[1].write_text(claims_markdown(results.verdicts, left_out, results.where))
    return paths


def _tables(results: Report, quality: pd.DataFrame, out: Path, with_figures: bool) -> list[Path]:
    """Write models, scores and ranks as CSV and Markdown, and the groups' figures."""
    import pandas as pd

    from lvf.reporting.select.scope import scope_text
    from lvf.reporting.select.settings import altered_settings, groups
    from lvf.reporting.tables.results import summary_numbers
    from lvf.reporting.tables.sequence import sequence_markdown

    models = results.models
    written = [out / "models.csv"]
    models.to_csv(written[-1], index=False)
    if len(results.selection.altered):
        written.append(out / "altered.csv")
        altered = altered_settings(results.selection.altered).drop(columns="models")
        altered.to_csv(written[-1], index=False)
    sequences = results.selection.sequences
    if len(sequences):
        written.append(out / "sequences.csv")
        sequences.to_csv(written[-1], index=False)
    if len(quality):
        written.append(out / "data_quality.csv")
        quality.to_csv(written[-1], index=False)
    sections, tables = [], []
    for name, group in groups(models):
        figures = _figures(name, group, results, out) if with_figures else []
        sections.append(_section(name, group, results, figures))
        tables.append(summary_numbers(group, name))
        written += figures
    written.append(out / "leaderboard.csv")
    pd.concat(results.boards.values()).drop(columns="models").to_csv(written[-1], index=False)
    written += [out / "summary.csv", out / "summary.md"]
    pd.concat(tables).to_csv(written[-2], index=False)
    if len(sequences):
        sections.append(sequence_markdown(sequences))
    heading = f"# Learning and forgetting\n\n{scope_text(models)}\n\n"
    written[-1].write_text(heading + "\n".join(sections))
    return written


def _section(name: str, group: pd.DataFrame, results: Report, figures: list[Path]) -> str:
    """A group's table, what its comparisons say, and its figures, as Markdown."""
    from lvf.reporting.claims.table import sentences
    from lvf.reporting.tables.results import strength_sentences, summary_markdown

    lines = [
        *sentences(results.verdicts, group),
        *strength_sentences(group, results.altered(group)),
        *map(str, results.left_out(group)),
    ]
    table = summary_markdown(group, f"{name}: {_title(group)}")
    pictures = "\n".join(f"![{path.stem}]({path.name})" for path in figures)
    return "\n".join([table, "```", *lines, "```", "", pictures, ""])


def _figures(name: str, group: pd.DataFrame, results: Report, out: Path) -> list[Path]:
    """Draw a group's learning, and its trade-off; returns the paths."""
    from lvf.reporting.figures.curves import all_measures
    from lvf.reporting.figures.tradeoff import frontier
    from lvf.reporting.select.settings import learning_measure

    paths = [out / f"learning-{name}.png"]
    first = group[group.method != "base"].iloc[0]
    title = f"{first.domain}, {REGIMES.get(str(first.regime), first.regime)}"
    all_measures(group, title).savefig(paths[0])
    if group[learning_measure(group)].notna().any():
        paths.append(out / f"frontier-{name}.png")
        frontier(group, title, results.altered(group)).savefig(paths[1])
    return paths


def _title(group: pd.DataFrame) -> str:
    trained = group[group.method != "base"].iloc[0]
    regime = REGIMES.get(str(trained.regime), trained.regime)
    source = " (published)" if (group.source == "paper").all() else ""
    return f"{trained.domain}, {regime} of {trained.model} on {trained.dataset}{source}"


def quoted(argument: str) -> str:
    """A `where=...` argument as one quoted Hydra value, so that SQL needs no second quotes."""
    if not argument.startswith(WHERE) or argument == "where=null":
        return argument
    condition = argument.removeprefix(WHERE)
    if len(condition) > 1 and condition[0] == condition[-1] == '"':
        return argument
    escaped = condition.replace("\\", "\\\\").replace('"', '\\"')
    return f'{WHERE}"{escaped}"'


@hydra.main(config_path=str(CONF_DIR), config_name="report", version_base="1.3")
def _main(composed: DictConfig) -> None:
    keep_from_terminal()
    with exit_on_user_error():
        report(to_schema(composed, ReportConfig))


def main() -> None:
    """Run the command line."""
    words = [f"{word}=true" if word in ("claims", "pack") else word for word in sys.argv[1:]]
    sys.argv[1:] = [quoted(with_home(word)) for word in words]
    _main()


if __name__ == "__main__":
    main()
