"""Where the kept numbers of a vector lie, in the fewest bytes: a bitmap, packed indices, or nothing where all are kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluators.federated.compressors import packing
from evaluators.federated.compressors.packing import Reader, n_bytes


def width(size: int) -> int:
    """Bits of an index into `size` numbers."""
    return (size - 1).bit_length()


def lengths(counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Bytes that the positions of so many numbers take, ``(n,)``."""
    smaller = np.minimum(n_bytes(size), -(-counts * width(size) // 8))
    return np.where(counts == size, 0, smaller)


def pack(mask: NDArray[np.bool_]) -> bytes:
    """The positions ``(size,)`` that a mask marks."""
    size, count = len(mask), int(np.count_nonzero(mask))
    if count == size:
        return b""
    if _indexed(count, size):
        return packing.pack(np.flatnonzero(mask), width(size))
    return np.packbits(mask, bitorder="little").tobytes()


def read(reader: Reader, count: int, size: int) -> NDArray[np.int64]:
    """The positions that `pack` wrote, ``(count,)``, ascending.

    Raises:
        UsageError: where the payload holds other than `count` positions below `size`.
    """
    if count == size:
        return np.arange(size)
    if _indexed(count, size):
        found = packing.unpack(reader.take(n_bytes(count * width(size))), count, width(size))
    else:
        bitmap = np.frombuffer(reader.take(n_bytes(size)), np.uint8)
        found = np.flatnonzero(np.unpackbits(bitmap, count=size, bitorder="little"))
    return checked(reader, found, count, size)


def checked(reader: Reader, found: NDArray[np.int64], count: int, size: int) -> NDArray[np.int64]:
    """Positions that a payload holds.

    Raises:
        UsageError: where they are not `count` different ones below `size`, ascending.
    """
    if len(found) != count or found[-1] >= size or not (np.diff(found) > 0).all():
        raise reader.refusal(f"does not hold {count} positions within a vector of {size} numbers")
    return found


def _indexed(count: int, size: int) -> bool:
    """Whether indices are smaller than a bitmap."""
    return n_bytes(count * width(size)) < n_bytes(size)
