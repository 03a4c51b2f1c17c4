"""A claim: a statement of the paper, and the comparisons of records that decide it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lvf.reporting.claims.evidence import Comparison, Evidence

Comparisons = Callable[[Evidence], Iterator[Comparison]]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of the paper, and how records decide on it."""

    number: str
    """As the paper's qualitative claims are counted, 1 to 14; its rules of section 4.7 by `rule`
    and a letter, claims of later papers by `later` and a letter."""
    name: str
    section: str
    statement: str
    test: str
    """What is compared."""
    measures: tuple[str, ...]
    """Only models that have all of these take part."""
    unit: str
    """Unit of the effect, which is positive where it is as the paper says."""
    needs: str
    """Records without which nothing can be said."""
    primary: bool
    """Whether it is one of the five that were named beforehand."""
    bound_to: str
    """What the claim says depends on, so that generated data cannot decide it; empty: nothing."""
    comparisons: Comparisons
    """What must be positive, all of it on one scale within a part."""

    @property
    def family(self) -> str:
        """The claims with which it shares the correction for their number."""
        if self.primary:
            return "primary"
        return "later" if self.number.startswith("later") else "other"


def claim(
    number: str,
    section: str,
    statement: str,
    *,
    needs: str,
    unit: str = "score",
    measures: tuple[str, ...] = ("target",),
    primary: bool = False,
    bound_to: str = "",
) -> Callable[[Comparisons], Claim]:
    """Make a claim of the function that yields its comparisons; its docstring is the test."""

    def made(comparisons: Comparisons) -> Claim:
        return Claim(
            number=number, name=comparisons.__name__, section=section, statement=statement,
            test=" ".join((comparisons.__doc__ or "").split()), measures=measures, unit=unit,
            needs=needs, comparisons=comparisons, primary=primary, bound_to=bound_to,
        )  # fmt: skip

    return made
