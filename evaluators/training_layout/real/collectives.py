"""Times of collectives among the processes of this machine; torchrun starts one for every GPU.

    torchrun ... -m evaluators.training_layout.real.collectives FOLDER OWNER

For the folder see `process`; what is told beside the device are `sizes` in bytes, and `repeats`, the samples of a median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import distributed as dist

from evaluators.training_layout.real.process import serve

# Calls of a sample: short ones are timed together, as training sends one after the other.
_CALLS, _SHORT_BYTES = 10, 2**20


def measure(device: str, sizes: Sequence[int], repeats: int) -> dict[str, dict[int, list[tuple[int, float]]]]:
    """By operation and number of processes, ``(bytes, seconds)``. Every process has to call it."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    found: dict[str, dict[int, list[tuple[int, float]]]] = {}
    for members in _groups(dist.get_world_size()):
        group = dist.new_group(range(members))
        if dist.get_rank() < members:
            assert group is not None
            for nbytes in sizes:
                elements = max(1, nbytes // dtype.itemsize // members)
                for operation, call in _calls(elements, members, dtype, device, group).items():
                    seconds = _seconds(call, device, group, repeats, _CALLS if nbytes <= _SHORT_BYTES else 1)
                    by_size = found.setdefault(operation, {}).setdefault(members, [])
                    by_size.append((elements * members * dtype.itemsize, seconds))
        dist.barrier()
    return found


def _groups(processes: int) -> list[int]:
    """2, 4, 8 and so on, and all of them."""
    powers = [2**power for power in range(1, processes.bit_length()) if 2**power <= processes]
    return sorted({*powers, processes})


def _calls(
    elements: int, members: int, dtype: torch.dtype, device: str, group: dist.ProcessGroup
) -> dict[str, Callable[[], Any]]:
    """Each operation on a whole of ``elements * members`` numbers."""
    whole, other = (torch.zeros(elements * members, dtype=dtype, device=device) for _ in range(2))
    part = torch.zeros(elements, dtype=dtype, device=device)
    return {
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole, group=group),
        "all_reduce": lambda: dist.all_reduce(whole, group=group),
        "alltoall": lambda: dist.all_to_all_single(other, whole, group=group),
    }


def _seconds(call: Callable[[], Any], device: str, group: dist.ProcessGroup, repeats: int, calls: int) -> float:
    call()
    samples = []
    for _ in range(repeats):
        dist.barrier(group)
        _wait(device)
        began = time.perf_counter()
        for _ in range(calls):
            call()
        _wait(device)
        samples.append((time.perf_counter() - began) / calls)
    return statistics.median(samples)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _work(told: Mapping[str, Any]) -> dict[str, dict[int, list[tuple[int, float]]]]:
    return measure(told["device"], told["sizes"], told["repeats"])


if __name__ == "__main__":
    serve(_work)
