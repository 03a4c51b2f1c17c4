"""Kinds of values that a setting can have: numbers within a range, and paths on this machine.

A field's annotation states the kind, such as `rank: Count | None`; `with_checked_values` checks all
fields of a configuration against their annotations.
"""

import dataclasses
import math
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from lvf.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `least` or above `above`, up to `most` or below `below`; finite in any case."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def __contains__(self, number: float) -> bool:
        """Whether a number lies in the range; nan does not."""
        within = self.least <= number <= self.most and self.above < number < self.below
        return within and math.isfinite(number)

    def __str__(self) -> str:
        """What a number must be, in words."""
        words = {
            "at least": self.least, "above": self.above, "at most": self.most, "below": self.below,
        }  # fmt: skip
        ends = [f"{word} {end:.10g}" for word, end in words.items() if math.isfinite(end)]
        return " and ".join(ends) or "a finite number"


FINITE = Range()
HOME = "a path in which ~ stands for the home folder"

Count = Annotated[int, Range(least=1)]
CountOrZero = Annotated[int, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
PositiveOrZero = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, below=1)]
"""A part of a whole that is never all of it, such as a dropout."""
Part = Annotated[float, Range(least=0, most=1)]
LocalPath = Annotated[str, HOME]
"""A path, or the id or name of something else; a leading `~` is replaced by the home folder."""


def with_checked_values(cfg: Any) -> Any:
    """Check every number of a dataclass against its field's kind, and expand `~` in its paths.

    Args:
        cfg: Instance of a dataclass; nested ones, lists and dictionaries are gone through. Changed
            in place.

    Returns:
        The same instance.

    Raises:
        UserError: numbers lie outside of their ranges, or are not finite; names all of them.
    """
    wrong: list[str] = []
    _checked(cfg, type(cfg), (), "", wrong)
    if wrong:
        raise UserError("\n".join(wrong))
    return cfg


def _checked(value: Any, hint: Any, kinds: tuple[Any, ...], key: str, wrong: list[str]) -> Any:
    """The value with `~` expanded; notes in `wrong` what is outside of its range."""
    if value is None:
        return None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _checked(value, arguments[0], arguments[1:], key, wrong)
    if type(None) in arguments:  # X | None
        (inner,) = (one for one in arguments if one is not type(None))
        return _checked(value, inner, kinds, key, wrong)
    if dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value), include_extras=True)
        for name in (field.name for field in dataclasses.fields(value)):
            inside = _checked(
                getattr(value, name), hints[name], (), f"{key}.{name}" if key else name, wrong
            )
            setattr(value, name, inside)
    elif isinstance(value, list):
        of_item = arguments[0] if arguments else Any
        return [_checked(v, of_item, (), f"{key}[{i}]", wrong) for i, v in enumerate(value)]
    elif isinstance(value, dict):
        of_value = arguments[1] if arguments else Any
        return {k: _checked(v, of_value, (), f"{key}.{k}", wrong) for k, v in value.items()}
    elif isinstance(value, int | float) and not isinstance(value, bool):
        allowed = next((kind for kind in kinds if isinstance(kind, Range)), FINITE)
        if value not in allowed:
            wrong.append(f"{key}={value} must be {allowed}")
    elif isinstance(value, str) and HOME in kinds and value.startswith("~"):
        return str(Path(value).expanduser())
    return value
