"""The default logger: one JSON line a batch, readable while the run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from composer.core import State
from composer.loggers import Logger, LoggerDestination

from lvf.runs.run_folder import is_rank_zero


class JsonlLogger(LoggerDestination):
    """Append every batch's numbers to `<run folder>/metrics.jsonl`.

    A resumed run repeats the batches since its checkpoint; the last line of a batch counts.
    """

    def __init__(self, filename: str) -> None:
        self.path = Path(filename)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Write the numbers among the metrics, with their batch."""
        numbers = {key: float(value) for key, value in metrics.items() if _is_number(value)}
        if numbers and is_rank_zero():
            with self.path.open("a") as file:
                file.write(json.dumps({"batch": step, **numbers}) + "\n")

    def close(self, state: State, logger: Logger) -> None:
        """Nothing is held open between lines."""


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
