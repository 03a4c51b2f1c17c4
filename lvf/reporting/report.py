"""What is computed from records once, for the terminal, the files and the page."""

import functools
from dataclasses import dataclass

import pandas as pd

from lvf.reporting.claims.judge import Verdict, judge
from lvf.reporting.select.altered import of_group
from lvf.reporting.select.selection import LeftOut, Selection, evidence_set_name
from lvf.reporting.select.settings import groups
from lvf.reporting.tables.leaderboard import leaderboard
from lvf.reporting.tables.paper import TABLES, PaperTable, paper_table


@dataclass(frozen=True)
class Report:
    """Verdicts, ranks and tables of some records, each computed when it is first asked for."""

    selection: Selection
    scores: pd.DataFrame
    """Rows as of `lvf.records.store.load`, of which the models were made."""
    where: str | None = None
    """The condition that a user has set on the models (`where=`), shown beside the verdicts."""

    @property
    def models(self) -> pd.DataFrame:
        """All models that count."""
        return self.selection.models

    def altered(self, group: pd.DataFrame) -> pd.DataFrame:
        """Checkpoints of a group of comparable models that were altered after training."""
        return of_group(self.selection.altered, group)

    def left_out(self, group: pd.DataFrame) -> list[LeftOut]:
        """What the rules leave out of a group of comparable models."""
        sets = {evidence_set_name(*key) for key in
                group[["source", "scale", "model"]].itertuples(index=False, name=None)}  # fmt: skip
        condition = f"{group.domain.iloc[0]} {group.regime.iloc[0]}"
        return [
            one for one in self.selection.left_out
            if one.evidence_set in sets and one.condition == condition
        ]  # fmt: skip

    @functools.cached_property
    def verdicts(self) -> list[Verdict]:
        """On every claim, by every evidence set."""
        return judge(self.models, self.scores, altered=self.selection.altered)

    @functools.cached_property
    def boards(self) -> dict[str, pd.DataFrame]:
        """Ranks of the methods of every group of comparable models."""
        return {name: leaderboard(group, name) for name, group in groups(self.models)}

    @functools.cached_property
    def tables(self) -> list[tuple[PaperTable, pd.DataFrame]]:
        """The tables of the paper's appendix D."""
        return [(spec, paper_table(spec, self.models, self.scores)) for spec in TABLES]
