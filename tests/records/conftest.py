"""Made-up measurements with known answers, those of the tests of reporting."""

from tests.reporting.conftest import METRICS, Write, axes, metric, write

__all__ = ["METRICS", "Write", "axes", "metric", "write"]
