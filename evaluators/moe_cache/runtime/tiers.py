"""The two tiers of a run: where all experts lie, and the fast memory that they are brought to.

`ram<-disk` keeps them in a file that is read with direct I/O, `gpu<-host` in pinned host memory. Both are used through the
`SlowTier` protocol by one link thread.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from autotune.errors import AutotuneError, UsageError
from autotune.hardware.direct_reads import Part, open_reads
from autotune.hardware.tiers import check_scratch, no_direct_io
from evaluators.moe_cache.runtime.layout import BLOCK, ExpertLayout

_GIB = 2**30
_WAY_OUT = "give --set scratch=DIR"
_POOL_BYTES = 2**28
_KEPT_FREE = 0.05  # of the memory, for everything else that runs here

Weights = Callable[[int, int], Tensor]


class SlowTier(Protocol):
    """All experts, and reading a run of one's rows into fast memory."""

    device: str
    layout: ExpertLayout

    def read(self, layer: int, expert: int, first: int, targets: Sequence[Tensor], after: Sequence[Any] = ()) -> None:
        """Fill byte buffers of the fast tier, one after the other, from row `first` of an expert on; back when all are.

        Args:
            after: CUDA events that have to pass first.
        """

    def host_rows(self, layer: int, expert: int) -> Tensor:
        """The expert where the slow tier's own processor can compute with it, ``inter x 3 x hidden``."""

    def close(self) -> None:
        """Free what is held."""


class DiskTier:
    """Experts in a file without a name (no way of dying leaves it behind), read with direct I/O in parallel parts.

    Args:
        folder: on the disk to use.
        weights: ``weights(layer, expert)`` gives the expert as ``inter x 3 x hidden``.
        depth: parallel reads of one transfer, as the hardware profile found best.

    Raises:
        UsageError: the folder cannot be used, lies in memory, lacks space or refuses direct I/O.
    """

    device = "cpu"

    def __init__(
        self, folder: Path, layout: ExpertLayout, n_layers: int, n_experts: int, weights: Weights, depth: int = 1
    ) -> None:
        self.layout = layout
        self._n_experts = n_experts
        size = n_layers * n_experts * layout.stride
        check_scratch(folder, size, _WAY_OUT)
        handle, name = tempfile.mkstemp(prefix=".autotune-experts-", dir=folder)
        os.close(handle)
        try:
            self._fd = os.open(name, os.O_RDWR | os.O_DIRECT)
        except OSError as error:
            raise no_direct_io(folder, error, _WAY_OUT) from error
        finally:
            Path(name).unlink()
        self._depth = depth
        self._reads = open_reads(self._fd, depth + 2)
        try:
            self._write(weights, n_layers)
        except OSError as error:
            self.close()
            raise no_direct_io(folder, error, _WAY_OUT) from error
        except BaseException:
            self.close()
            raise

    def _write(self, weights: Weights, n_layers: int) -> None:
        stride = self.layout.stride
        with contextlib.closing(mmap.mmap(-1, stride)) as block, memoryview(block) as view:
            filled = torch.frombuffer(view, dtype=torch.uint8)
            for layer in range(n_layers):
                for expert in range(self._n_experts):
                    flat = weights(layer, expert).contiguous().view(torch.uint8).flatten()
                    filled[: len(flat)] = flat
                    start, written = (layer * self._n_experts + expert) * stride, 0
                    while written < stride:
                        written += os.pwritev(self._fd, [view[written:]], start + written)
            del filled
        os.fsync(self._fd)

    def read(self, layer: int, expert: int, first: int, targets: Sequence[Tensor], after: Sequence[Any] = ()) -> None:
        start = (layer * self._n_experts + expert) * self.layout.stride + first * self.layout.row_bytes
        self._reads.read(list(self._parts(start, targets)))

    def _parts(self, start: int, targets: Sequence[Tensor]) -> Iterator[Part]:
        """Reads of about equal size, `depth` of them and one more for each further target."""
        total = sum(target.numel() for target in targets)
        most = math.ceil(total / self._depth / BLOCK) * BLOCK
        for target in targets:
            address, size = target.data_ptr(), target.numel()
            for low in range(0, size, most):
                yield Part(start + low, address + low, min(most, size - low))
            start += size

    def host_rows(self, layer: int, expert: int) -> Tensor:
        raise AutotuneError("a disk computes nothing; cpu_threshold_tokens must be 0 on ram<-disk")

    def close(self) -> None:
        if self._fd >= 0:
            self._reads.close()
            os.close(self._fd)
            self._fd = -1


class HostTier:
    """Experts in pinned host memory, copied to the GPU on a stream of their own.

    Args:
        weights: as of `DiskTier`.

    Raises:
        UsageError: without CUDA, or with too little free host memory.
    """

    device = "cuda"

    def __init__(self, layout: ExpertLayout, n_layers: int, n_experts: int, weights: Weights) -> None:
        if not torch.cuda.is_available():
            raise UsageError("tier gpu<-host needs a CUDA device and torch sees none here; use tier=ram<-disk")
        self.layout = layout
        size = n_layers * n_experts * layout.stride
        check_memory("host memory for all experts", size, psutil.virtual_memory().available)
        self._experts = torch.empty((n_layers, n_experts, layout.stride), dtype=torch.uint8)
        # Registered and not allocated as pinned: torch rounds pinned allocations up to powers of two.
        self._runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        code = self._runtime.cudaHostRegister(self._experts.data_ptr(), size, 0)
        if int(code) != 0:
            raise UsageError(
                f"host memory of {size / _GIB:.1f} GiB cannot be pinned (CUDA error {int(code)}); use a smaller scale"
            )
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        for layer in range(n_layers):
            for expert in range(n_experts):
                flat = weights(layer, expert).contiguous().view(torch.uint8).flatten()
                self._experts[layer, expert, : len(flat)] = flat

    def read(self, layer: int, expert: int, first: int, targets: Sequence[Tensor], after: Sequence[Any] = ()) -> None:
        start = first * self.layout.row_bytes
        with torch.cuda.stream(self._stream):
            for event in after:
                self._stream.wait_event(event)
            for target in targets:
                target.copy_(self._experts[layer, expert, start : start + target.numel()], non_blocking=True)
                start += target.numel()
            self._stream.synchronize()

    def host_rows(self, layer: int, expert: int) -> Tensor:
        return self.layout.rows_of(self._experts[layer, expert], self.layout.inter)

    def close(self) -> None:
        self._runtime.cudaHostUnregister(self._experts.data_ptr())
        self._experts = torch.empty((0, 0, 0), dtype=torch.uint8)


class FastMemory:
    """One allocation of the fast tier, handed out in whole blocks; every page touched, so that no run pays for faults.

    Raises:
        UsageError: where less than that is free.
    """

    def __init__(self, nbytes: int, device: str) -> None:
        nbytes = max(BLOCK, -(-nbytes // BLOCK) * BLOCK)
        if device == "cuda":
            check_memory("GPU memory for the caches", nbytes, torch.cuda.mem_get_info()[0])
            self._bytes = torch.empty(nbytes, dtype=torch.uint8, device=device)
        else:
            check_memory("memory for the caches", nbytes, psutil.virtual_memory().available)
            block = mmap.mmap(-1, nbytes)  # page-aligned, as direct I/O wants; lives as long as the tensor
            if hasattr(mmap, "MADV_HUGEPAGE"):
                block.madvise(mmap.MADV_HUGEPAGE)
            self._bytes = torch.frombuffer(block, dtype=torch.uint8)
            self._bytes[::BLOCK] = 0
        self.nbytes = nbytes
        self._taken = 0

    def take(self, nbytes: int) -> Tensor:
        """The next `nbytes`, which are whole blocks."""
        if self._taken + nbytes > self.nbytes:
            raise AutotuneError(f"{self.nbytes} bytes of fast memory are too few for this plan")
        found = self._bytes[self._taken : self._taken + nbytes]
        self._taken += nbytes
        return found

    def clear(self) -> None:
        """Take everything back."""
        self._taken = 0


def check_memory(what: str, wanted: int, free: int) -> None:
    """Refuse what does not fit, before the machine starts to swap or kill."""
    if wanted > free * (1 - _KEPT_FREE):
        raise UsageError(
            f"{what} would take {wanted / _GIB:.2f} GiB and {free / _GIB:.2f} GiB are free; give a smaller budget or scale"
        )


def random_experts(layout: ExpertLayout, seed: int = 0, distinct: int = 97) -> Weights:
    """Weights for a layer stack whose values do not matter: `distinct` random experts, in turns.

    Scaled so that activations stay of order one: no infinities, no slow denormals.
    """
    distinct = max(2, min(distinct, _POOL_BYTES // layout.nbytes))
    generator = torch.Generator().manual_seed(seed)
    pool = torch.empty((distinct, layout.inter, 3, layout.hidden), dtype=torch.float32).uniform_(
        -1, 1, generator=generator
    )
    pool[:, :, :2] *= (3.0 / layout.hidden) ** 0.5
    pool[:, :, 2] *= (3.0 / layout.inter) ** 0.5
    weights = pool.to(layout.dtype)

    def expert(layer: int, index: int) -> Tensor:
        return weights[(layer * 31 + index) % distinct]

    return expert
