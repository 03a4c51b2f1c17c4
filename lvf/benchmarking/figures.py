"""The figures of a benchmark from what was measured of its steps, and the table that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lvf.records.schema import Metric

if TYPE_CHECKING:
    from rich.table import Table

    from lvf.benchmarking.clock import Steps
    from lvf.records.schema import Record

BASIS = {
    "full": "6 N of the N parameters in matrix products",
    "lora": "4 N of the N parameters in matrix products, 6 a parameter of the adapters",
}
"""FLOPs of a token (`lvf.models.counts`); attention's come on top."""
ROWS = {
    "tokens_per_second": ("real tokens a second", 1.0, ",.0f"),
    "step_seconds": ("step, s", 1.0, ".4f"),
    "step_seconds.data": ("  data, s", 1.0, ".4f"),
    "step_seconds.forward": ("  forward, s", 1.0, ".4f"),
    "step_seconds.backward": ("  backward, s", 1.0, ".4f"),
    "step_seconds.optimiser": ("  optimiser, s", 1.0, ".4f"),
    "step_seconds.other": ("  other, s", 1.0, ".4f"),
    "communication_seconds": ("collectives, which overlap, s", 1.0, ".4f"),
    "compile_seconds": ("torch.compile, all steps, s", 1.0, ".1f"),
    "first_step_extra_seconds": ("more in the first step, s", 1.0, ".3f"),
    "flops_per_second": ("TFLOP/s a device", 1e-12, ".4g"),
    "product_flops_per_second": ("fastest product, TFLOP/s", 1e-12, ".4g"),
    "datasheet_flops_per_second": ("datasheet, TFLOP/s", 1e-12, ".4g"),
    "mfu_of_product": ("MFU of the fastest product, %", 100.0, ".1f"),
    "mfu_of_datasheet": ("MFU of the datasheet, %", 100.0, ".1f"),
    "attention_flops_share": ("attention's share of FLOPs, %", 100.0, ".1f"),
    "padding_share": ("padding, %", 100.0, ".1f"),
    "peak_memory_gb": ("peak memory a device, GB", 1.0, ".3f"),
}
"""Metric to its words, the factor of the unit shown, and the format."""


def metrics_of(
    steps: Steps, warmup_steps: int, num_steps: int, token_flops: int, pair_flops: int
) -> dict[str, Metric]:
    """Medians over the steps after warm-up, with the value of each step as items.

    Args:
        steps: All steps.
        warmup_steps: First steps, of which only the very first counts, for what it takes longer.
        num_steps: Steps after them that count.
        token_flops: Of the products of one token.
        pair_flops: Of attention for one pair.
    """
    timed = steps.some(warmup_steps, warmup_steps + num_steps)
    seconds, tokens = np.array(timed.seconds), np.array(timed.own_tokens)
    attention = pair_flops * np.array(timed.own_pairs, float)
    flops = token_flops * tokens + attention
    found = {
        "tokens_per_second": timed.tokens / seconds,
        "step_seconds": seconds,
        **{f"step_seconds.{name}": values for name, values in timed.parts.items()},
        "flops_per_second": flops / seconds,
        "attention_flops_share": attention / flops,
        "padding_share": 1 - tokens / timed.own_places,
    }
    metrics = {name: median(values) for name, values in found.items()}
    extra = steps.seconds[0] - metrics["step_seconds"].value
    return metrics | {"first_step_extra_seconds": Metric(value=extra)}


def utilisation(speed: Metric, ceilings: dict[str, float]) -> dict[str, Metric]:
    """What a device could do, by the name of the ceiling, and the share of it that it did."""
    found = {f"{name}_flops_per_second": Metric(value=peak) for name, peak in ceilings.items()}
    shares = {
        f"mfu_of_{name}": median([value / peak for value in speed.items or ()])
        for name, peak in ceilings.items()
    }
    return found | shares


def median(values: Sequence[float] | np.ndarray) -> Metric:
    """Median of the steps, which are kept as items."""
    items = [float(value) for value in values]
    return Metric(value=float(np.median(items)), n=len(items), items=items)


def table(record: Record) -> Table:
    """Each figure with the quartiles of its steps."""
    from rich.table import Table

    where = record.settings
    title = f"{record.run_id}\n{where['device']}, {where['precision']}, {where['threads']} threads"
    table = Table("", "median", "quartiles", title=title, title_justify="left")
    for name, (words, factor, form) in ROWS.items():
        if metric := record.metrics.get(name):
            spread = ""
            if metric.items and len(metric.items) > 1:
                low, high = np.percentile(metric.items, [25, 75]) * factor
                spread = f"{low:{form}} to {high:{form}}"
            table.add_row(words, f"{metric.value * factor:{form}}", spread)
    table.caption = f"FLOPs: {where['flops_basis']}; causal attention on top"
    return table
