"""The planner's table: every cell with what it takes and its state."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from lvf.planning.estimates import BASIS, Plan, plan
from lvf.runs.sweep import SweepRun

UNKNOWN = "unknown"
PIPED_WIDTH = 150


def show(cells: list[SweepRun], states: list[str]) -> None:
    """Print the cells with their estimates and states, the totals and what they rest on."""
    from rich.console import Console
    from rich.table import Table

    device = cells[0].cfg.scale.device
    titles = ("batches", "tokens", "FLOPs", f"{device} hours", "disk")
    table = Table("run", "duration", "rate", *titles, "state", show_footer=True)
    plans = [plan(cell) for cell in cells]
    for cell, one, state in zip(cells, plans, states, strict=True):
        unit = cell.cfg.regime.duration_unit
        rate = f"{cell.cfg.training.lr_peak:.3g}"
        table.add_row(cell.run_id, f"{cell.cfg.duration:g} {unit}", rate, *estimates(one), state)
    for column, total in zip(table.columns, ["total", "", "", *totals(plans), ""], strict=True):
        column.footer = total
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(table)
    print(BASIS)


def estimates(one: Plan) -> list[str]:
    """Batches, tokens, FLOPs, hours and disk of a run as text."""
    batches = UNKNOWN if one.batches is None else f"{one.batches:,}"
    if one.batches != one.new_batches:
        batches += f" ({one.new_batches:,} new)"
    return [
        batches,
        quantity(one.tokens),
        number(one.flops, ".2e"),
        number(one.hours, ",.3g"),
        quantity(one.disk_bytes, "B"),
    ]


def totals(plans: list[Plan]) -> list[str]:
    """Sums of what the runs add; `at least` where some are unknown."""

    def total(values: Iterable[float | None], text: Callable[[float], str]) -> str:
        listed = list(values)
        known = [value for value in listed if value is not None]
        if not known:
            return UNKNOWN
        return "at least " * (len(known) < len(listed)) + text(sum(known))

    return [
        total((one.new_batches for one in plans), "{:,.0f} new".format),
        "",
        total((one.flops for one in plans), "{:.2e}".format),
        total((one.hours for one in plans), lambda hours: f"{hours:,.{0 if hours >= 10 else 2}f}"),
        total((one.disk_bytes for one in plans), lambda size: quantity(size, "B")),
    ]


def number(value: float | None, form: str) -> str:
    """A number in a format, or that it is unknown."""
    return UNKNOWN if value is None else format(value, form)


def quantity(value: float | None, unit: str = "") -> str:
    """A number with a decimal prefix, such as 786 k, 20 B (as tokens are counted) or 80 GB."""
    if value is None:
        return UNKNOWN
    for size, prefix in ((1e12, "T"), (1e9, "G" if unit else "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()
