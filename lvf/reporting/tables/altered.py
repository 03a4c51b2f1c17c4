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
    for one in along_strength(group, altered):
        pair = f"{one.scaled} along strength, {one.trained} along training"
        if isinstance(one.gap, str):
            lines.append(f"{pair}: {one.gap}")
            continue
        low, high = one.gap.estimate.interval() or (float("nan"), float("nan"))
        lines.append(
            f"{pair}: source NLL of the second minus the first's at equal target score "
            f"{interval_text(one.gap.value, low, high)}"
        )
    return lines
