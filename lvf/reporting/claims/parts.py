"""A part of a claim: its comparisons as a random-effects mean over conditions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lvf.records.estimate import Estimate
from lvf.reporting.claims.evidence import Comparison
from lvf.reporting.stats.contrast import Contrast, mean_contrast
from lvf.reporting.stats.pooling import Pooled, holm, random_effects


@dataclass(frozen=True)
class Part:
    """What the comparisons of a part of a claim come to, each condition alike."""

    comparisons: tuple[Comparison, ...]
    contrast: Contrast
    """The mean over conditions."""
    pooled: Pooled
    """With the spread between conditions in its error: what may hold of others like these."""
    conditions: tuple[Estimate, ...]
    """The mean of each condition."""

    @property
    def here(self) -> Estimate:
        """The mean with the error of items and seeds alone: what holds of these very conditions."""
        return self.contrast.estimate

    @property
    def has_error(self) -> bool:
        """Whether a seed variance is known of every condition."""
        return all(one.stderr is not None for one in (self.here, *self.conditions))

    def p_not(self, sign: int) -> float:
        """One-sided p of "the mean over these conditions is not on that side of zero"."""
        return _p_of_side(self.here, sign)

    def differs(self, sign: int, level: float, spread_level: float) -> bool:
        """Whether conditions differ so much that their mean does not speak for them.

        They differ beyond noise, and neither the random-effects mean nor every condition by itself
        is on the side of the sign; or a comparison by itself is on the other side (Holm).
        """
        in_each = max(_p_of_side(one, sign) for one in self.conditions)
        despite = min(in_each, _p_of_side(self.pooled.mean, sign)) <= level
        own = [one.estimate for one in self.comparisons if one.estimate is not None]
        opposing = min(holm([_p_of_side(one, -sign) for one in own])) <= level
        return opposing or (self.pooled.p_spread <= spread_level and not despite)

    @property
    def strength(self) -> float:
        """How far the mean is on the claim's side: in standard errors, or as it is without any."""
        mean = self.pooled.mean
        return mean.value / mean.stderr if mean.stderr else mean.value


def parts_of_claim(comparisons: Sequence[Comparison]) -> list[Part]:
    """The parts, each of those of its comparisons that have a number."""
    known = [one for one in comparisons if one.contrast is not None]
    names = dict.fromkeys(one.part for one in known)
    return [_part(tuple(one for one in known if one.part == name)) for name in names]


def _part(comparisons: tuple[Comparison, ...]) -> Part:
    conditions = [
        mean_contrast([x.contrast for x in comparisons if x.contrast and x.condition == name])
        for name in dict.fromkeys(one.condition for one in comparisons)
    ]
    whole = mean_contrast(conditions)
    mean, own = whole.estimate, tuple(one.estimate for one in conditions)
    if mean.stderr is not None and all(one.stderr is not None for one in own):
        return Part(comparisons, whole, random_effects(own, mean), own)
    spread = float(np.std([one.value for one in own], ddof=1)) if len(own) > 1 else 0.0
    return Part(comparisons, whole, Pooled(Estimate(mean.value), spread, 1.0), own)


def _p_of_side(estimate: Estimate, sign: int) -> float:
    """One-sided p of "sign times the truth is not above zero"; 1 where no error is known."""
    p = Estimate(sign * estimate.value, estimate.stderr, estimate.dof).p_above()
    return 1.0 if p is None else p
