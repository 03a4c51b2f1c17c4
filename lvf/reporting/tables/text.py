"""Numbers and tables as text, alike in the terminal, in files and on the page."""

import math

import pandas as pd


def plain(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Three decimals with a sign, as the paper prints; a dash where there is no number."""
    return "–" if value is None or math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def number(value: float, error: float, with_sign: bool = False) -> str:
    """Three decimals ± an error without its leading zero; a dash where there is no number."""
    if math.isnan(value):
        return "–"
    text = signed(value) if with_sign else plain(value)
    return text if math.isnan(error) else f"{text} ±{f'{error:.3f}'.removeprefix('0')}"


def interval_text(value: float, low: float, high: float) -> str:
    """A number and its 95 % interval; a dash where there is none."""
    if math.isnan(value):
        return "–"
    return plain(value) + ("" if math.isnan(low) else f" [{plain(low)}, {plain(high)}]")


def p_text(p: float | None) -> str:
    """A p value; a dash where there is none."""
    if p is None or math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table of the texts in a frame. pandas' own writer pads all cells of a column."""
    rows: list[list[str]] = [
        list(map(str, table.columns)), ["---"] * len(table.columns), *table.to_numpy().tolist()
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
