"""How much memory a process of a run takes at most."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import psutil
import torch

_RESET_PEAK = "5"  # what the kernel takes for: forget the peak of resident memory (man 5 proc, clear_refs)


class Peak:
    """The most memory since `begin`, less what the process had when this was made: tensors on a GPU, all of it on CPUs."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._before = 0 if device == "cuda" else psutil.Process().memory_info().rss

    def begin(self) -> None:
        """Forget what making the model took for a while."""
        if self._device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            # Where the kernel refuses, the peak is that of the whole life of the process.
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text(_RESET_PEAK)

    def held(self) -> float:
        """Bytes of tensors, or resident."""
        if self._device == "cuda":
            return float(torch.cuda.max_memory_allocated())
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return max(0.0, 1024.0 * int(found[1]) - self._before) if found else 0.0

    def reserved(self) -> float:
        """Bytes that PyTorch has taken of the GPU, fragments and caches included; on CPUs, as `held`."""
        return float(torch.cuda.max_memory_reserved()) if self._device == "cuda" else self.held()
