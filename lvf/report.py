"""`python -m lvf.report`: claims, tables, verdicts and figures from record files."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from lvf.config.compose import speaking_to_the_user, to_schema
from lvf.config.schema import CONF_DIR
from lvf.errors import UserError
from lvf.records.archive import pack

if TYPE_CHECKING:
    import pandas as pd

    from lvf.reporting.tables.answers import Answers

WHERE = "where="


@dataclass(kw_only=True)
class ReportConfig:
    """What to read, and where the report goes."""

    records: str = "runs/records"
    out: str = "runs/report"
    where: str | None = None
    """SQL condition on the columns of models.csv."""
    paper: bool = False
    """Show the paper's published numbers too."""
    claims: bool = False
    """Only judge the claims; `python -m lvf.report claims` sets it."""
    page: bool = False
    """Also write everything as one HTML page, with all figures and the records' provenance."""
    export: bool = False
    """Also write all scores and models as CSV and Parquet."""
    pack: bool = False
    """Only pack the folder of records into one file; `python -m lvf.report pack` sets it."""


ConfigStore.instance().store(name="report_schema", node=ReportConfig)


def report(cfg: ReportConfig) -> None:
    """Print claims, tables, verdicts and terminal figures; write CSV, Markdown and PNG files.

    With `pack`, only pack the records into one file.

    Raises:
        UserError: no records, or a condition that cannot be evaluated or leaves nothing.
    """
    if cfg.pack:
        print(f"written:\n  {pack(Path(cfg.records))}")
        return
    import pandas as pd

    from lvf.records.filter import models_where
    from lvf.records.quality import told
    from lvf.records.store import RecordWarning, export
    from lvf.reporting.select.settings import groups
    from lvf.reporting.tables.answers import Answers
    from lvf.reporting.tables.paper_text import write_tables

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores, measured, found = _measured(Path(cfg.records), cfg.paper, cfg.claims)
    notes = [w.message for w in caught if issubclass(w.category, RecordWarning)]
    for note in [*notes, *told(found)]:
        print(f"note: {note}", file=sys.stderr)
    if cfg.where is not None:
        measured = models_where(measured, cfg.where)
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    answers = Answers(measured, scores)
    written = _claims(answers, out)
    if cfg.export:
        written += [*export(scores, out / "scores"), *export(measured, out / "models")]
    if cfg.claims:
        print("written:\n" + "\n".join(f"  {path}" for path in written))
        return
    written.append(out / "models.csv")
    measured.to_csv(written[-1], index=False)
    if len(found):
        written.append(out / "troubles.csv")
        found.to_csv(written[-1], index=False)
    sections, tables = [], []
    for name, group in groups(measured):
        section, table, paths = _show(name, group, out)
        sections.append(section)
        tables.append(table)
        _print_ranks(answers.boards[name])
        written += paths
    written.append(out / "leaderboard.csv")
    pd.concat(answers.boards.values()).drop(columns="models").to_csv(written[-1], index=False)
    if cfg.paper:
        written += write_tables(answers, out / "tables")
    written += _write_summaries(out, sections, tables)
    if cfg.page:
        from lvf.reporting.page.write import write_page

        written.append(write_page(answers, out / "index.html"))
    print("written:\n" + "\n".join(f"  {path}" for path in written))


def _measured(
    records: Path, paper: bool, claims: bool
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Scores, measured models, and what is no result: see `lvf.records.quality`.

    Claims alone are judged by benchmarks of speed, too; all else needs a trained model.
    """
    import pandas as pd

    from lvf.records.checkpoints import models
    from lvf.records.quality import troubles, without_diverged
    from lvf.records.store import load, load_paper

    scores = load(records)
    wrong = troubles(scores, records.parent)
    scores = without_diverged(scores, wrong)
    if paper:
        scores = pd.concat([scores, load_paper()], ignore_index=True)
    found = models(scores)
    benchmarked = (scores.task == "throughput").any()
    if (found.method == "base").all() and not (claims and benchmarked):
        hint = "judge its benchmarks with python -m lvf.report claims, " if benchmarked else ""
        raise UserError(
            f"no records of trained models under records={records}: {hint}make some with "
            "python -m lvf.train +experiment=math_ift, name another folder with records=..., or "
            "look at the published numbers with paper=true"
        )
    return scores, found, wrong


def _claims(answers: Answers, out: Path) -> list[Path]:
    """Print the verdicts on the claims; returns the paths of the table as CSV and Markdown."""
    from lvf.reporting.claims.judge import as_table
    from lvf.reporting.claims.table import claims_markdown, claims_table
    from lvf.reporting.tables.results import console

    verdicts = answers.verdicts
    console().print(claims_table(verdicts))
    paths = [out / "claims.csv", out / "claims.md"]
    as_table(verdicts).to_csv(paths[0], index=False)
    paths[1].write_text(claims_markdown(verdicts))
    return paths


def _show(name: str, group: pd.DataFrame, out: Path) -> tuple[str, pd.DataFrame, list[Path]]:
    """Print one group and draw its figures; returns Markdown, table and the figures' paths."""
    from lvf.reporting.figures.curves import all_measures
    from lvf.reporting.figures.tradeoff import frontier
    from lvf.reporting.tables.results import TABLE_WIDTH, console, csv, markdown, summary
    from lvf.reporting.tables.terminal import terminal_frontier
    from lvf.reporting.tables.verdict import verdict

    title = _title(group)
    lines = verdict(group)
    screen = console()
    screen.print(summary(group, f"{name}: {title}", parts=screen.width >= TABLE_WIDTH))
    print("\n".join(["", *lines, "", terminal_frontier(group), ""]))
    paths = [out / f"learning-{name}.png"]
    all_measures(group, title).savefig(paths[0])
    if group.target.notna().any():
        paths.append(out / f"frontier-{name}.png")
        frontier(group, title).savefig(paths[1])
    section = "\n".join([markdown(group, f"{name}: {title}"), "```", *lines, "```", ""])
    pictures = "\n".join(f"![{path.stem}]({path.name})" for path in paths)
    return f"{section}\n{pictures}\n", csv(group, name), paths


def _print_ranks(board: pd.DataFrame) -> None:
    """Print the leaderboard of a group; nothing of a single method."""
    from lvf.reporting.tables.leaderboard import leaderboard_table
    from lvf.reporting.tables.results import console

    if len(board) > 1:
        console().print(leaderboard_table(board))


def _title(group: pd.DataFrame) -> str:
    trained = group[group.method != "base"].iloc[0]
    regime = {"ift": "instruction finetuning", "cpt": "continued pre-training"}
    source = " (published)" if (group.source == "paper").all() else ""
    told = regime.get(str(trained.regime), trained.regime)
    return f"{trained.domain}, {told} of {trained.model} on {trained.dataset}{source}"


def _write_summaries(out: Path, sections: list[str], tables: list[pd.DataFrame]) -> list[Path]:
    import pandas as pd

    paths = [out / "summary.csv", out / "summary.md"]
    pd.concat(tables).to_csv(paths[0], index=False)
    paths[1].write_text("# Learning and forgetting\n\n" + "\n".join(sections))
    return paths


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
    with speaking_to_the_user():
        report(to_schema(composed, ReportConfig))


def main() -> None:
    """Run the command line."""
    words = [f"{word}=true" if word in ("claims", "pack") else word for word in sys.argv[1:]]
    sys.argv[1:] = [quoted(word) for word in words]
    _main()


if __name__ == "__main__":
    main()
