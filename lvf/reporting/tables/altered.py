"""In words: a method whose update is scaled back against methods that were trained less."""

import pandas as pd

from lvf.reporting.stats.frontier import along_strength
from lvf.reporting.tables.text import interval_text


def strength_sentences(group: pd.DataFrame, altered: pd.DataFrame) -> list[str]:
    """A line for each pair of main methods, of which the first has strengths.

    Args:
        group: comparable models, as `lvf.reporting.select.settings.groups` gives them.
        altered: `lvf.reporting.select.selection.Selection.altered` of the group.
    """
    if altered.empty or not altered.strength.notna().any():
        return []
    lines = []
    for scaled, trained, gap in along_strength(group, altered):
        text = gap
        if not isinstance(gap, str):
            low, high = gap.estimate.interval() or (float("nan"), float("nan"))
            text = (
                "source NLL of the second minus the first's at equal target score "
                + interval_text(gap.value, low, high)
            )
        lines.append(f"{scaled} along strength, {trained} along training: {text}")
    return lines
