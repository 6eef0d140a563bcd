"""Numbers of any width as bytes, and payloads read piece by piece.

Numbers of one width lie lowest bit first; numbers whose widths differ lie highest bit first, as prefix codes need it.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.errors import UsageError

_CHUNK = 1 << 16  # numbers spread into bits at a time; a multiple of 8, so that chunks end at whole bytes


def n_bytes(bits: int) -> int:
    """Bytes that hold so many bits."""
    return -(-bits // 8)


def pack(numbers: NDArray[np.integer[Any]], width: int) -> bytes:
    """Whole numbers below ``2**width``, each in `width` bits, padded to a byte at the end."""
    parts = []
    for first in range(0, len(numbers), _CHUNK):
        chunk = numbers[first : first + _CHUNK].astype("<u8")
        spread = np.unpackbits(chunk.view(np.uint8).reshape(-1, 8), axis=1, count=width, bitorder="little")
        parts.append(np.packbits(spread, bitorder="little").tobytes())
    return b"".join(parts)


def unpack(payload: bytes, count: int, width: int) -> NDArray[np.int64]:
    """What `pack` wrote, ``(count,)``; `width` is at most 63."""
    numbers = np.zeros(count, np.int64)
    for first in range(0, count, _CHUNK):
        n = min(_CHUNK, count - first)
        begin = first * width // 8
        chunk = np.frombuffer(payload, np.uint8, n_bytes(n * width), begin)
        spread = np.unpackbits(chunk, count=n * width, bitorder="little").reshape(n, width)
        wide = np.zeros((n, 8), np.uint8)
        wide[:, : n_bytes(width)] = np.packbits(spread, axis=1, bitorder="little")
        numbers[first : first + n] = wide.view("<i8")[:, 0]
    return numbers


def pack_widths(numbers: NDArray[np.int64], widths: NDArray[np.int64]) -> bytes:
    """Whole numbers, each in its own number of bits, padded to a byte at the end."""
    bits = np.repeat(numbers, widths) >> _places(widths) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def unpack_widths(payload: bytes, widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """What `pack_widths` wrote, ``(len(widths),)``; widths are at most 52."""
    bits = np.unpackbits(np.frombuffer(payload, np.uint8), count=int(widths.sum()))
    owner = np.repeat(np.arange(len(widths)), widths)
    # Doubles hold these sums exactly.
    sums = np.bincount(owner, weights=bits.astype(np.int64) << _places(widths), minlength=len(widths))
    return sums.astype(np.int64)


def _places(widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each bit of the stream, how many bits of the same number follow it."""
    ends = np.cumsum(widths)
    return np.repeat(ends, widths) - 1 - np.arange(int(widths.sum()))


class Reader:
    """A payload, read from its beginning.

    Args:
        payload: what was received.
        of: name of the compressor, for messages.
    """

    def __init__(self, payload: bytes, of: str) -> None:
        self.rest = payload
        self._length = len(payload)
        self._of = of

    def take(self, count: int) -> bytes:
        """The next `count` bytes.

        Raises:
            UsageError: where the payload ends before.
        """
        if count > len(self.rest):
            raise self.refusal(f"ends after {self._length} bytes, {count - len(self.rest)} too early")
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def numbers(self, layout: str) -> tuple[Any, ...]:
        """The next numbers, little-endian, by a format of `struct`."""
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))

    def count(self, layout: str, least: int, most: int) -> int:
        """The next number, a count of a header, from `least` to `most`.

        Raises:
            UsageError: where it is not.
        """
        value = int(self.numbers(layout)[0])
        if not least <= value <= most:
            raise self.refusal(f"tells a count of {value}, which is not within {least} to {most}")
        return value

    def floats(self, count: int) -> NDArray[np.float32]:
        """The next `count` float32."""
        return np.frombuffer(self.take(4 * count), "<f4").astype(np.float32)

    def end(self) -> None:
        """Everything has been read.

        Raises:
            UsageError: where bytes are left.
        """
        if self.rest:
            raise self.refusal(f"has {self._length} bytes, {len(self.rest)} too many")

    def refusal(self, what: str) -> UsageError:
        """The error that says what is wrong with the payload."""
        return UsageError(
            f"payload of {self._of!r} {what}; decode it with the compressor and the tensors that it was encoded with"
        )


def float_bytes(numbers: NDArray[np.float32]) -> bytes:
    """float32, little-endian."""
    return numbers.astype("<f4").tobytes()
