"""A claim: a statement of the paper, and the question to records that decides it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lvf.reporting.claims.evidence import Evidence, Part

Parts = Callable[[Evidence], Iterator[Part]]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of the paper, and how records are asked about it."""

    number: str
    """As the paper's qualitative claims are counted, 1 to 14; its rules of section 4.7 by `rule`
    and a letter."""
    name: str
    section: str
    statement: str
    test: str
    """What is asked of the records."""
    measures: tuple[str, ...]
    """Only models that have all of these take part."""
    unit: str
    """Unit of the effect, which is positive where it is as the paper says."""
    needs: str
    """Records without which nothing can be said."""
    parts: Parts
    """Everything that must hold."""


def claim(
    number: str,
    section: str,
    statement: str,
    *,
    needs: str,
    unit: str = "score",
    measures: tuple[str, ...] = ("target",),
) -> Callable[[Parts], Claim]:
    """Make a claim of a function that yields its parts; its docstring says what is asked."""

    def made(parts: Parts) -> Claim:
        return Claim(
            number=number, name=parts.__name__, section=section, statement=statement,
            test=" ".join((parts.__doc__ or "").split()), measures=measures, unit=unit,
            needs=needs, parts=parts,
        )  # fmt: skip

    return made
