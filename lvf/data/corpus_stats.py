"""Counts what preparing saw, wrote, cut and left out, part by part and for the whole corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from lvf.errors import UserError

SHOWN_PLACES = 5
"""Places that are named of each kind of finding."""
PERCENTILES = (0, 5, 25, 50, 75, 90, 95, 99, 100)


@dataclass
class CorpusStats:
    """What became of the documents of a part, or of all parts together."""

    num_rows: int = 0
    num_tokens: int = 0
    """Without padding."""
    num_loss_tokens: int = 0
    documents: int = 0
    """Documents in the rows, those that were cut included."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Number of documents of each length in tokens, before any cut."""
    truncated_tokens: int = 0
    dropped_tokens: int = 0
    found: Counter[str] = field(default_factory=Counter)
    """Number of documents of each kind of finding, such as `broken JSON` or `TOO_LONG`."""
    places: dict[str, list[str]] = field(default_factory=dict)
    """Where the first `SHOWN_PLACES` of each kind stand, and what is wrong there."""

    def note(self, kind: str, place: str) -> None:
        """Count a finding, and keep its place if it is among the first of its kind."""
        self.found[kind] += 1
        shown = self.places.setdefault(kind, [])
        if len(shown) < SHOWN_PLACES:
            shown.append(place)

    def add(self, later: CorpusStats) -> None:
        """Add the counts of documents that stand later in the corpus."""
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(later, one.name)
            if isinstance(mine, int):
                setattr(self, one.name, mine + theirs)
            elif isinstance(mine, Counter):
                mine.update(theirs)
        for kind, places in later.places.items():
            self.places[kind] = [*self.places.get(kind, []), *places][:SHOWN_PLACES]

    def statistics(self, seq_len: int) -> dict[str, Any]:
        """What a recipe says of the whole corpus."""
        return {
            "documents": self.documents,
            "num_rows": self.num_rows,
            "num_tokens": self.num_tokens,
            "num_loss_tokens": self.num_loss_tokens,
            "padding_share": 1 - self.num_tokens / max(1, self.num_rows * seq_len),
            "tokens_before_cuts": sum(length * n for length, n in self.lengths.items()),
            "length_percentiles": {
                str(percent): percentile(self.lengths, percent / 100) for percent in PERCENTILES
            },
            "truncated_tokens": self.truncated_tokens,
            "dropped_tokens": self.dropped_tokens,
            "found": dict(self.found),
            "places": self.places,
        }

    def to_json(self) -> dict[str, Any]:
        """As a JSON-able tree."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> CorpusStats:
        """Inverse of `to_json`, whose integer keys JSON has made strings."""
        lengths = Counter({int(length): count for length, count in tree["lengths"].items()})
        return cls(**tree | {"lengths": lengths, "found": Counter(tree["found"])})


TOO_LONG = "longer than a row"
ALL_PROMPT = "prompt fills a row"
COPY_OF_HELD_OUT = "held out, or a copy of that"
OVERLAP = "overlaps an evaluation item"
OWN_BOS = "begin with BOS already"
READABLE = (TOO_LONG, ALL_PROMPT, COPY_OF_HELD_OUT, OVERLAP, OWN_BOS)
"""Findings on readable documents; every other kind is a row that cannot be used."""


def refuse_unusable(stats: CorpusStats, path: str, strict: bool) -> None:
    """Refuse a corpus for its bad rows.

    Raises:
        UserError: not one row is usable; with `strict`, also if one is not or loses tokens.
    """
    bad = unusable(stats)
    if not stats.found and not stats.documents:
        raise UserError(f"{path} is empty: it holds no document")
    if strict:
        losing = (TOO_LONG, ALL_PROMPT)
        bad.update({kind: stats.found[kind] for kind in losing if kind in stats.found})
    elif stats.documents or bad.total() < stats.found.total():
        return
    if bad:
        first = next(kind for kind in stats.found if kind in bad)
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in bad.items())
        raise UserError(
            f"{stats.places[first][0]}; so far {bad.total():,} of {num_seen(stats):,} rows are "
            f"bad: {kinds}. Mend or remove them"
            + (", or set data.strict=false." if strict else ".")
        )


def num_seen(stats: CorpusStats) -> int:
    """Rows looked at, whatever became of them."""
    in_documents = (stats.found[kind] for kind in (TOO_LONG, OVERLAP, OWN_BOS))
    return stats.documents + stats.found.total() - sum(in_documents)


def unusable(stats: CorpusStats) -> Counter[str]:
    """The kinds of rows that cannot be used, with their numbers."""
    return Counter({kind: n for kind, n in stats.found.items() if kind not in READABLE})


def describe(stats: CorpusStats, kinds: Iterable[str]) -> list[str]:
    """A line for each kind of finding, with its number, and one for each place that is known."""
    lines = []
    for kind in kinds:
        places = stats.places[kind]
        more = ["..."] if stats.found[kind] > len(places) else []
        lines += [f"{stats.found[kind]:,} {kind}:", *(f"    {one}" for one in [*places, *more])]
    return lines


def percentile(lengths: Counter[int], share: float) -> int:
    """Smallest length that at least `share` of the documents do not exceed; 0 of none."""
    seen = 0
    for length, count in sorted(lengths.items()):
        seen += count
        if seen >= share * lengths.total():
            return length
    return 0
