"""Tier pairs: a fast memory, a slow one, and the link between them that a transfer can be timed on.

`ram<-disk` reads a real scratch file with direct I/O, which bypasses the page cache; `gpu<-host` copies from pinned host
memory. Both are measured by the same code, through the `Link` protocol.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from autotune.errors import UsageError
from autotune.hardware.direct_reads import Part, open_reads
from autotune.hardware.fingerprint import disk_of

# Direct I/O wants offsets, lengths and addresses aligned to the logical block; 4 KiB is a multiple of every one in use.
BLOCK = 4096
DEFAULT_FILE_BYTES = 2**30
MAX_TRANSFER_BYTES = 2**26
QUEUE_DEPTHS = (1, 2, 4, 8)

_WRITE_CHUNK = 2**24
_GIB = 2**30
# Filesystems that live in memory. Recent kernels accept O_DIRECT on tmpfs and then copy memory, so asking is not enough.
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs", "rootfs"}


WAY_OUT = "use autotune hardware --scratch DIR"

PairName = Literal["ram<-disk", "gpu<-host"]


class Link(Protocol):
    """What is measured: the transfer of some bytes from the slow tier to the fast one."""

    @property
    def depths(self) -> tuple[int, ...]:
        """Numbers of parallel parts that a transfer can be made in; 1 comes first."""

    @property
    def max_bytes(self) -> int:
        """The largest transfer."""

    @property
    def how(self) -> str:
        """By what means bytes are moved, for people."""

    def transfer(self, nbytes: int, depth: int = 1) -> float:
        """Move `nbytes` (rounded up to whole blocks) in `depth` parallel parts; the seconds until all have arrived."""


@dataclass(frozen=True)
class TierPair:
    """A fast tier, a slow tier and the devices (as torch names them) that compute on each.

    Attributes:
        name: ``ram<-disk`` or ``gpu<-host``.
        fast_device: where resident weights are computed on.
        slow_device: where weights can be computed on without moving them, or None where nothing can.
    """

    name: PairName
    fast: str
    slow: str
    fast_device: str
    slow_device: str | None

    @classmethod
    def parse(cls, name: str | TierPair) -> TierPair:
        """The pair of that name.

        Raises:
            UsageError: for an unknown name.
        """
        if isinstance(name, TierPair):
            return name
        if name not in _PAIRS:
            raise UsageError(f"tier pair {name!r} is unknown; use one of: {', '.join(_PAIRS)}")
        return _PAIRS[name]

    @classmethod
    def detect(cls) -> TierPair:
        """``gpu<-host`` where CUDA works, ``ram<-disk`` elsewhere."""
        import torch  # noqa: PLC0415  (importing torch takes seconds; whoever names the pair need not pay them)

        return GPU_HOST if torch.cuda.is_available() else RAM_DISK

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that compute on one of the two tiers, the fast one first."""
        return (self.fast_device,) if self.slow_device is None else (self.fast_device, self.slow_device)

    @property
    def slug(self) -> str:
        """The name as part of a file's name."""
        return self.name.replace("<-", "-")

    @contextlib.contextmanager
    def open_link(
        self, scratch: Path | None = None, file_bytes: int = DEFAULT_FILE_BYTES, max_bytes: int = MAX_TRANSFER_BYTES
    ) -> Iterator[Link]:
        """The link, ready to be measured, with everything that it holds released at the end.

        Args:
            scratch: folder for the scratch file; only ``ram<-disk`` needs one.
            file_bytes: size of the scratch file.
            max_bytes: the largest transfer that will be asked for.

        Raises:
            UsageError: no scratch folder, too little space, no direct I/O, or no CUDA device.
        """
        if self.name == GPU_HOST.name:
            yield HostToGpuLink(max_bytes)
            return
        if scratch is None:
            raise UsageError(
                "scratch: the tier pair ram<-disk needs a folder on the disk to measure; use autotune hardware --scratch DIR"
            )
        with DiskLink(scratch, file_bytes, max_bytes) as link:
            yield link


RAM_DISK = TierPair("ram<-disk", "RAM", "disk", "cpu", None)
GPU_HOST = TierPair("gpu<-host", "GPU memory", "host memory", "cuda", "cpu")
_PAIRS: dict[str, TierPair] = {pair.name: pair for pair in (RAM_DISK, GPU_HOST)}


class DiskLink:
    """Direct reads at random aligned offsets of a scratch file full of random bytes.

    The file loses its name as soon as it is open, so that no way of dying leaves it behind. Its size decides how much of
    it a drive's or a hypervisor's own cache can hide: choose it larger than those where they matter. A transfer of
    depth k is cut into k contiguous parts that are read at once, which is how one expert is fetched.

    Args:
        folder: an existing folder on the disk to measure.
        file_bytes: size of the scratch file, rounded up to whole blocks.
        max_bytes: the largest transfer; a buffer of that size is held.
        depths: the numbers of parallel reads on offer.

    Raises:
        UsageError: the folder is missing or unwritable, lies in memory, lacks space or refuses direct I/O.
    """

    def __init__(
        self,
        folder: Path,
        file_bytes: int = DEFAULT_FILE_BYTES,
        max_bytes: int = MAX_TRANSFER_BYTES,
        depths: tuple[int, ...] = QUEUE_DEPTHS,
    ) -> None:
        self.depths = depths
        self.max_bytes = _whole_blocks(max_bytes)
        self.file_bytes = _whole_blocks(file_bytes)
        if not 0 < self.max_bytes <= self.file_bytes:
            raise UsageError(
                f"scratch file of {file_bytes} bytes cannot serve transfers of {max_bytes} bytes; make it at least as large"
            )
        check_scratch(folder, self.file_bytes)
        self._rng = np.random.default_rng(0)
        self._fd = _open_unlinked(folder)
        try:
            _fill(self._fd, folder, self.file_bytes, self._rng)
            self._buffer = mmap.mmap(-1, self.max_bytes)
            self._view = memoryview(self._buffer)
            # Touch every page now, else the first large transfers would also pay for page faults.
            pages = np.frombuffer(self._view, dtype=np.uint8)
            pages[::BLOCK] = 1
            self._address = pages.ctypes.data
            del pages
            self._reads = open_reads(self._fd, max(depths))
        except BaseException:
            os.close(self._fd)
            raise

    def transfer(self, nbytes: int, depth: int = 1) -> float:
        """Read `nbytes`, rounded up to whole blocks, at a random offset; seconds."""
        wanted = _whole_blocks(nbytes)
        if not 0 < wanted <= self.max_bytes or depth not in self.depths:
            raise UsageError(
                f"transfer of {nbytes} bytes at queue depth {depth}: at most {self.max_bytes} bytes, depth one of "
                f"{', '.join(map(str, self.depths))}"
            )
        start = BLOCK * int(self._rng.integers(0, (self.file_bytes - wanted) // BLOCK + 1))
        n_blocks = wanted // BLOCK
        parts = min(depth, n_blocks)
        edges = [BLOCK * (n_blocks * part // parts) for part in range(parts + 1)]
        cut = [Part(start + low, self._address + low, high - low) for low, high in pairwise(edges)]
        begin = time.perf_counter()
        self._reads.read(cut)
        return time.perf_counter() - begin

    @property
    def how(self) -> str:
        """By what means the parts are read."""
        return self._reads.how

    def close(self) -> None:
        """Free the file's space and the buffer."""
        self._reads.close()
        os.close(self._fd)
        self._view.release()
        self._buffer.close()

    def __enter__(self) -> DiskLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HostToGpuLink:
    """Copies from random places of a pinned host buffer to the current CUDA device, timed by CUDA events.

    Raises:
        UsageError: where no CUDA device is present.
    """

    # Pinned memory to choose from, so that the processor's caches do not serve the copies.
    _POOL_BYTES = 2**28
    how = "copies from pinned memory"

    def __init__(self, max_bytes: int = MAX_TRANSFER_BYTES) -> None:
        import torch  # noqa: PLC0415  (see TierPair.detect)

        if not torch.cuda.is_available():
            raise UsageError("tier pair gpu<-host needs a CUDA device and torch sees none here; use ram<-disk")
        self.depths: tuple[int, ...] = (1,)  # one copy engine serves a direction: parallel parts would queue behind it
        self.max_bytes = _whole_blocks(max_bytes)
        pool = max(self._POOL_BYTES, self.max_bytes)
        self._torch: Any = torch
        self._rng = np.random.default_rng(0)
        self._host = torch.randint(0, 256, (pool,), dtype=torch.uint8).pin_memory()
        self._device = torch.empty(self.max_bytes, dtype=torch.uint8, device="cuda")

    def transfer(self, nbytes: int, depth: int = 1) -> float:
        """Copy `nbytes`, rounded up to whole blocks; seconds between two CUDA events around the copy."""
        wanted = _whole_blocks(nbytes)
        if not 0 < wanted <= self.max_bytes or depth not in self.depths:
            raise UsageError(
                f"transfer of {nbytes} bytes at queue depth {depth}: at most {self.max_bytes} bytes, depth 1"
            )
        start = BLOCK * int(self._rng.integers(0, (self._host.numel() - wanted) // BLOCK + 1))
        source, target = self._host[start : start + wanted], self._device[:wanted]
        before, after = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        target.copy_(source, non_blocking=True)
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after)) / 1e3


def check_scratch(folder: Path, file_bytes: int, way_out: str = WAY_OUT) -> None:
    """Refuse a scratch folder that is missing, unwritable, in memory, or too full for `file_bytes`.

    Raises:
        UsageError: naming the folder and the way out.
    """
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"scratch folder {folder} is not a folder that can be written to; {way_out}")
    filesystem = disk_of(folder).filesystem
    if filesystem in _IN_MEMORY:
        raise UsageError(f"scratch folder {folder} is {filesystem}, which is memory and no disk; {way_out}")
    free = shutil.disk_usage(folder).free
    if free < file_bytes:
        raise UsageError(
            f"scratch folder {folder} has {free / _GIB:.1f} GiB free and the scratch file needs {file_bytes / _GIB:.1f} GiB; "
            f"{way_out} elsewhere or a smaller file"
        )


def _open_unlinked(folder: Path) -> int:
    """A new file without a name, open for direct I/O."""
    handle, name = tempfile.mkstemp(prefix=".autotune-scratch-", dir=folder)
    os.close(handle)
    try:
        return os.open(name, os.O_RDWR | os.O_DIRECT)
    except OSError as error:
        raise no_direct_io(folder, error) from error
    finally:
        Path(name).unlink()


def _fill(fd: int, folder: Path, file_bytes: int, rng: np.random.Generator) -> None:
    """Write random bytes: zeros or repeats might be compressed or never reach the drive."""
    chunk = memoryview(mmap.mmap(-1, _WRITE_CHUNK))  # page-aligned, as direct I/O wants
    words = np.frombuffer(chunk, dtype=np.uint64)
    try:
        for start in range(0, file_bytes, _WRITE_CHUNK):
            words[:] = rng.integers(0, 2**64, size=len(words), dtype=np.uint64)
            end = min(_WRITE_CHUNK, file_bytes - start)
            written = 0
            while written < end:
                written += os.pwritev(fd, [chunk[written:end]], start + written)
        os.fsync(fd)
    except OSError as error:
        raise no_direct_io(folder, error) from error


def no_direct_io(folder: Path, error: OSError, way_out: str = WAY_OUT) -> UsageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UsageError(f"scratch folder {folder} ran out of space; {way_out} elsewhere or a smaller file")
    if error.errno == errno.EINVAL:
        return UsageError(f"scratch folder {folder} is on a filesystem without direct I/O; {way_out} elsewhere")
    return UsageError(f"scratch folder {folder} cannot be used ({error.strerror}); {way_out} elsewhere")


def _whole_blocks(nbytes: int) -> int:
    return -(-int(nbytes) // BLOCK) * BLOCK
