"""How many threads compute on a processor whose cores also serve a link.

Kernels on all cores wait at every barrier for the one whose core has gone to the thread that moves data, which costs
scheduler slices: a layer of half a millisecond then takes tens. So computation leaves one core alone, in measurements of
compute times and in real runs alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def compute_threads() -> int:
    """The cores that this process may use but one, at least one."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


@contextmanager
def leaving_a_core() -> Iterator[None]:
    """Let torch compute on `compute_threads` threads meanwhile."""
    import torch  # noqa: PLC0415 - takes seconds that a cached profile need not cost

    before = torch.get_num_threads()
    torch.set_num_threads(compute_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)
