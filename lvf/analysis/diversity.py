"""How many different programs a model writes for a problem (paper section 4.5, Fig. 5).

The number of unique samples grows with the number of samples, and a model that passes more has more
passing samples. Groups of unequal size are therefore compared by rarefaction, as ecologists compare
the species of unequal catches: the expected number of unique samples among m drawn without
replacement (Hurlbert, Ecology 52, 1971), which is unbiased for what m new samples would give. Two
models with the same distribution agree in it whatever their numbers of samples, so that a ratio to
the base other than 1 is more than sampling gives by itself. For m = 2, less 1, it is the
probability that two samples differ (Simpson, Nature 163, 1949).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import gammaln

from lvf.records.schema import Metric

VERDICTS = ("unique", "unique_passing", "unique_failing")


@dataclass(frozen=True)
class Generations:
    """The different completions of one problem: how often each passed, and how often it failed."""

    passing: list[int]
    failing: list[int]
    """Of the same completions, in the same order; a program may depend on chance and do both."""

    def counts(self, verdict: str) -> list[int]:
        """How often each different completion came, of one of `VERDICTS`."""
        both = [p + f for p, f in zip(self.passing, self.failing, strict=True)]
        chosen = {"unique": both, "unique_passing": self.passing, "unique_failing": self.failing}
        return [count for count in chosen[verdict] if count > 0]


def generations(samples: Iterable[dict[str, Any]]) -> dict[str, Generations]:
    """Count equal completions of each problem, exact string matches as in the paper.

    Args:
        samples: `task_id`, `completion` and `passed` of every sample.
    """
    tally: dict[str, dict[str, list[int]]] = {}
    for sample in samples:
        completions = tally.setdefault(sample["task_id"], {})
        completions.setdefault(sample["completion"], [0, 0])[not sample["passed"]] += 1
    return {
        task_id: Generations(*(list(side) for side in zip(*completions.values(), strict=True)))
        for task_id, completions in tally.items()
    }


def expected_unique(counts: Sequence[int], size: int) -> float:
    """Expected number of different samples among `size` drawn without replacement.

    sum_g (1 - C(N - n_g, m) / C(N, m)), rarefaction (Hurlbert 1971).

    Args:
        counts: n_g, how often each different one was found; N is their sum.
        size: m, at most N.

    Raises:
        ValueError: m > N.
    """
    total = sum(counts)
    if size > total:
        raise ValueError(f"cannot draw {size} samples of {total}")
    rest = total - np.asarray(counts, dtype=float)
    with np.errstate(invalid="ignore"):
        log_share = _log_choose(rest, size) - _log_choose(total, size)
    return float(np.where(rest >= size, 1 - np.exp(log_share), 1).sum())


def _log_choose(n: Any, k: int) -> Any:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def problem_table(
    model: dict[str, Generations], base: dict[str, Generations] | None = None
) -> pd.DataFrame:
    """One row a problem: counts, unique samples, and both models' rarefied to equal size.

    Columns: `task_id`, `passing` and `failing` (how often each different completion did), the
    numbers of unique samples `unique`, `unique_passing`, `unique_failing`, and the probability
    `distinct_pair` that two samples differ. With a base, for each v of the unique numbers `v.size`,
    the smaller number of samples, and what is expected at that size, `v.rarefied` and `v.base`.
    """
    rows = []
    for task_id, own in model.items():
        row: dict[str, Any] = {"task_id": task_id, "passing": own.passing, "failing": own.failing}
        row |= {verdict: len(own.counts(verdict)) for verdict in VERDICTS}
        row["distinct_pair"] = expected_unique(own.counts("unique"), 2) - 1
        if base is not None:
            row |= _beside(own, base[task_id])
        rows.append(row)
    return pd.DataFrame(rows)


def _beside(own: Generations, base: Generations) -> dict[str, float]:
    """Both models' expected unique samples at the smaller of their numbers of samples."""
    row: dict[str, float] = {}
    for verdict in VERDICTS:
        ours, theirs = own.counts(verdict), base.counts(verdict)
        size = min(sum(ours), sum(theirs))
        row[f"{verdict}.size"] = size
        row[f"{verdict}.rarefied"] = expected_unique(ours, size)
        row[f"{verdict}.base"] = expected_unique(theirs, size)
    return row


def diversity_metrics(table: pd.DataFrame) -> dict[str, Metric]:
    """Means over problems, and as `<v>.over_base` the ratio to the base at equal sizes.

    The ratio is of sums over the problems with at least two samples on both sides (one sample is
    always unique); its standard error is a ratio's (Cochran, Sampling Techniques, 1977, 6.4).
    """
    found = {name: _mean(table[name]) for name in (*VERDICTS, "distinct_pair")}
    for verdict in (v for v in VERDICTS if f"{v}.size" in table):
        able = table[table[f"{verdict}.size"] >= 2]
        if len(able) > 0:
            ratio = _ratio(able[f"{verdict}.rarefied"], able[f"{verdict}.base"])
            found[f"{verdict}.over_base"] = ratio
    return found


def _mean(column: pd.Series) -> Metric:
    n = len(column)
    stderr = float(column.std(ddof=1)) / math.sqrt(n) if n > 1 else None
    items = [float(value) for value in column]
    return Metric(value=float(column.mean()), stderr=stderr, n=n, items=items)


def _ratio(above: pd.Series, below: pd.Series) -> Metric:
    value = float(above.sum() / below.sum())
    linearised = (above - value * below) / below.mean()
    stderr = _mean(linearised).stderr
    return Metric(value=value, stderr=stderr, n=len(above))
