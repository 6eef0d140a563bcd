"""Several reads of a file at once: what arrives, short reads, failures, and both means."""

from __future__ import annotations

import errno
import mmap
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from autotune.errors import AutotuneError
from autotune.hardware import direct_reads
from autotune.hardware.direct_reads import DirectReads, KernelReads, Part, ThreadReads, open_reads
from autotune.hardware.tiers import BLOCK

BLOCKS = 16
MEANS = [KernelReads, ThreadReads]


@pytest.fixture
def content() -> bytes:
    return np.random.default_rng(0).integers(0, 256, BLOCKS * BLOCK, dtype=np.uint8).tobytes()


@pytest.fixture
def fd(tmp_path: Path, content: bytes) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(content)
    opened = os.open(path, os.O_RDONLY | os.O_DIRECT)
    yield opened
    os.close(opened)


@pytest.fixture
def memory() -> npt.NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(-1, BLOCKS * BLOCK), dtype=np.uint8)


def parts_of(memory: npt.NDArray[np.uint8], sizes: list[int], first: int = 0) -> list[Part]:
    """Consecutive parts of so many blocks."""
    edges = np.cumsum([0, *sizes])
    return [
        Part((first + int(low)) * BLOCK, memory.ctypes.data + int(low) * BLOCK, n * BLOCK)
        for low, n in zip(edges, sizes, strict=False)
    ]


@pytest.mark.parametrize("means", MEANS)
@pytest.mark.parametrize("sizes", [[16], [1] * 16, [3, 1, 5, 7], [2]])
def test_what_arrives_is_what_the_file_holds(
    means: Callable[[int, int], DirectReads],
    sizes: list[int],
    fd: int,
    content: bytes,
    memory: npt.NDArray[np.uint8],
) -> None:
    reads = means(fd, 3)  # fewer at once than there are parts
    for _ in range(5):
        memory[:] = 0
        reads.read(parts_of(memory, sizes))
        assert memory[: sum(sizes) * BLOCK].tobytes() == content[: sum(sizes) * BLOCK]
        assert not memory[sum(sizes) * BLOCK :].any()
    reads.close()


@pytest.mark.parametrize("means", MEANS)
def test_a_file_that_ends_too_early_is_told(
    means: Callable[[int, int], DirectReads], fd: int, memory: npt.NDArray[np.uint8]
) -> None:
    reads = means(fd, 4)
    with pytest.raises(AutotuneError, match=rf"the file ended at byte {BLOCKS * BLOCK}"):
        reads.read(parts_of(memory, [1, 2], first=BLOCKS - 2))
    reads.read(parts_of(memory, [1, 2]))  # and the next ones are read
    reads.close()


@pytest.mark.parametrize("means", MEANS)
def test_a_read_that_fails_says_why_and_leaves_none_under_way(
    means: Callable[[int, int], DirectReads], fd: int, content: bytes, memory: npt.NDArray[np.uint8]
) -> None:
    reads = means(fd, 4)
    good, bad = parts_of(memory, [1, 1])
    with pytest.raises(OSError, match="Invalid argument") as failure:
        reads.read([good, bad._replace(offset=bad.offset + 1)])  # direct I/O reads whole blocks
    assert failure.value.errno == errno.EINVAL
    reads.read([good, bad])
    assert memory[: 2 * BLOCK].tobytes() == content[: 2 * BLOCK]
    reads.close()


def test_reads_that_end_one_by_one_are_all_waited_for_when_the_first_fails(
    fd: int, content: bytes, memory: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a signal interrupts the wait: a read left under way would write to memory that others use by then."""
    reads = KernelReads(fd, 4)
    call = reads._call

    def one_by_one(number: int, *arguments: Any) -> int:
        if number == reads._wait:
            arguments = (arguments[0], 1, 1, *arguments[3:])
        return call(number, *arguments)

    monkeypatch.setattr(reads, "_call", one_by_one)
    beyond, *good = parts_of(memory, [1, 7, 8])
    with pytest.raises(AutotuneError, match="the file ended"):
        reads.read([beyond._replace(offset=BLOCKS * BLOCK), *good])
    time.sleep(0.05)
    assert call(reads._wait, reads._context, 0, 4, reads._events, None) == 0  # none is left to end
    memory[:] = 0
    reads.read(parts_of(memory, [4, 4, 4, 4]))
    assert memory.tobytes() == content
    reads.close()


def test_the_kernel_is_asked_first_and_threads_read_where_it_refuses(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_reads(fd, 2)
    assert first.how == "asynchronous I/O"
    first.close()
    monkeypatch.setattr(direct_reads, "_CALLS", {platform.machine(): (1_000_000, 0, 0, 0)})  # a call that no kernel has
    second = open_reads(fd, 2)
    assert second.how == "threads"
    second.close()
