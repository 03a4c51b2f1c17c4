"""The table of a model's matrices beside its record, and the record's summaries of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lvf.records.archive import read_bytes
from lvf.records.schema import Metric

TOP_K = 10
"""Leading singular vectors among which intruders are counted (Shuttleworth et al., section 4)."""
EPSILON = 0.5
EPSILONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Cosines below which a vector is an intruder: the one that is reported, and the sweep."""
ROUNDING_SHARE = 0.05
"""Largest share of an update's summed square from rounding at which its ranks are recorded. At 5 %
the rank for 90 % of variance is one for 90 to 95 % of the update itself."""
RANKS = ("rank90", "effective_rank")
"""Measures in which many small singular values weigh, as rounding gives them."""
MEASURES = (
    *RANKS,
    "stable_rank",
    "frobenius_norm",
    "spectral_norm",
    "relative_norm",
    f"intruders@{EPSILON}",
)


def matrices(record: Path) -> pd.DataFrame:
    """Table of the matrices behind a `weights` record, one row each, in the order of the layers.

    Columns: `name`, `layer` (-1 outside of the blocks), `module`, `out_features`, `in_features`;
    of the update (tuned minus base) `rank90`, `effective_rank`, `stable_rank`, `frobenius_norm`,
    `spectral_norm`, and `relative_norm`, which is frobenius_norm over the base's;
    `rounding_share`, the part of the update's summed square that comes from the data type of the
    stored weights (older tables lack it); `intruders@0.5`
    and `largest_cosines`, for each of the tuned matrix's first left singular vectors the largest
    |cosine| with one of the base's; the spectra `singular_values` (of the update),
    `base_singular_values` and `tuned_singular_values`, falling, rounded to float32.
    """
    return pd.read_parquet(io.BytesIO(read_bytes(record.with_suffix(".parquet"))))


def intruders(table: pd.DataFrame, epsilon: float = EPSILON) -> pd.Series:
    """Number of intruder dimensions of each matrix, among the first `TOP_K` vectors."""
    return table.largest_cosines.map(lambda cosines: int((np.asarray(cosines) < epsilon).sum()))


def matrix_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The table that `matrices` describes, from a row for each matrix."""
    table = pd.DataFrame(rows)
    for name in (name for name in table.columns if name.endswith("singular_values")):
        table[name] = table[name].map(np.float32)  # for drawing; half the size
    return table.assign(**{f"intruders@{EPSILON}": intruders(table)})


def write_table(record: Path, table: pd.DataFrame) -> None:
    """Keep a table beside the record that will name it; whole or not at all."""
    path = record.with_suffix(".parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    table.to_parquet(temporary, index=False)
    temporary.replace(path)


def summaries(table: pd.DataFrame) -> dict[str, Metric]:
    """Means of every measure: over the blocks, and as `<measure>.<module>` over each module type.

    Items are the matrices in the order of the table. `intruders@<epsilon>` is swept over blocks.
    Ranks are left out where rounding makes more than `ROUNDING_SHARE` of a matrix's update.
    """
    blocks = table[table.layer >= 0]
    found = {name: _mean(blocks[name]) for name in _credible(blocks)}
    found |= {f"intruders@{epsilon}": _mean(intruders(blocks, epsilon)) for epsilon in EPSILONS}
    for module, rows in table.groupby("module", sort=False):
        found |= {f"{name}.{module}": _mean(rows[name]) for name in _credible(rows)}
    return found


def _credible(table: pd.DataFrame) -> list[str]:
    rounded = (table.rounding_share > ROUNDING_SHARE).any()
    return [name for name in MEASURES if not (rounded and name in RANKS)]


def _mean(column: pd.Series) -> Metric:
    return Metric(
        value=float(column.mean()), n=len(column), items=[float(value) for value in column]
    )
