"""What a device can do at most: its fastest matrix product, measured and by the datasheet."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import torch

SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
"""Of the square matrices of which the fastest product counts."""
SECONDS_EACH = 0.3


def product_flops_per_second(device: str, dtype: torch.dtype) -> float:
    """FLOPs a second of the fastest square product on `cpu` (all of torch's threads) or `cuda`."""
    return max(_of_size(size, device, dtype) for size in SIZES[device])


def _of_size(size: int, device: str, dtype: torch.dtype) -> float:
    from torch.utils.benchmark import Timer

    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    timer = Timer("torch.mm(a, b)", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
    return 2 * size**3 / timer.blocked_autorange(min_run_time=SECONDS_EACH).median


def datasheet_flops_per_second(precision: str) -> float | None:
    """Peak of this GPU in a run's precision, without sparsity, where Composer knows it."""
    from composer.callbacks.speed_monitor import get_gpu_flops_available

    state: Any = SimpleNamespace(precision=SimpleNamespace(value=precision))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a GPU that it does not know
        return get_gpu_flops_available(state) or None
