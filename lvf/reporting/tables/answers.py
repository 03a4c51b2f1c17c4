"""What is computed from records once, for the terminal, the files and the page."""

import functools
from dataclasses import dataclass

import pandas as pd

from lvf.reporting.claims.judge import Verdict, judge
from lvf.reporting.select.settings import groups
from lvf.reporting.tables.leaderboard import leaderboard
from lvf.reporting.tables.paper import TABLES, PaperTable, paper_table


@dataclass(frozen=True)
class Answers:
    """Verdicts, ranks and tables of some records, each computed when it is first asked for."""

    models: pd.DataFrame
    """Rows as of `lvf.records.checkpoints.models`."""
    scores: pd.DataFrame
    """Rows as of `lvf.records.store.load`, of which the models were made."""

    @functools.cached_property
    def verdicts(self) -> list[Verdict]:
        """On every claim, by every corpus."""
        return judge(self.models, self.scores)

    @functools.cached_property
    def boards(self) -> dict[str, pd.DataFrame]:
        """Ranks of the methods of every group of comparable models."""
        return {name: leaderboard(group, name) for name, group in groups(self.models)}

    @functools.cached_property
    def tables(self) -> list[tuple[PaperTable, pd.DataFrame]]:
        """The tables of the paper's appendix D."""
        return [(spec, paper_table(spec, self.models, self.scores)) for spec in TABLES]
