"""Peak memory of a training."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


class PeakMemory:
    """The most memory that was in use since this object was made.

    On a GPU what torch's allocator gave out (without the CUDA context). On the CPU the resident set
    of the process above its level at the start, so that the libraries do not count; Linux only.
    """

    def __init__(self) -> None:
        self._on_gpu = torch.cuda.is_available()
        self._start = 0
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins again
            self._start = _resident_bytes("VmRSS")

    def bytes(self) -> int:
        """Bytes up to now, of this process; 0 where the system does not tell."""
        if self._on_gpu:
            return torch.cuda.max_memory_allocated()
        return _resident_bytes("VmHWM") - self._start if sys.platform == "linux" else 0


def _resident_bytes(name: str) -> int:
    """A line of /proc/self/status, such as `VmHWM:   18204 kB`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/self/status has no {name}")
