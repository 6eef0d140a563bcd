"""Random numbers by counter: the same on every machine, and those of a row depend on its seed alone.

SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators") read as a hash: number i of a row
is the mixed sum of the row's key and i + 1 steps of the golden ratio. A row's key is its mixed seed, so that neighbouring
seeds have nothing in common. Only whole numbers are computed with, and they wrap, hence no platform rounds differently.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, made odd
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_ANGLE = np.uint64(0xFFFFFF)
_BLOCK = 1 << 16  # numbers that are mixed at a time, so that they stay in the cache


def hashes(seeds: NDArray[np.int64], size: int, start: int = 0) -> NDArray[np.uint64]:
    """Whole numbers ``(n, size)``, uniform over 64 bits.

    Args:
        seeds: ``(n,)``, one for each row.
        size: how many numbers a row has.
        start: how many numbers of each row are skipped.
    """
    keys = _mix(seeds.astype(np.uint64) + _STEP)
    return _of_keys(keys, size, start)


def uniforms(seeds: NDArray[np.int64], size: int, start: int = 0) -> NDArray[np.float64]:
    """Numbers ``(n, size)``, uniform over the multiples of 2^-53 in [0, 1)."""
    drawn = hashes(seeds, size, start)
    drawn >>= np.uint64(11)
    return np.multiply(drawn, 2.0**-53, dtype=np.float64)


def bits52(seeds: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Whole numbers ``(n, size)``, uniform over the 52 bits of a double's fraction."""
    drawn = hashes(seeds, size)
    drawn >>= np.uint64(12)
    return drawn.view(np.int64)


def keys31(seeds: NDArray[np.int64], size: int) -> NDArray[np.int32]:
    """Whole numbers ``(n, size)``, uniform over 31 bits, to order coordinates by."""
    drawn = hashes(seeds, size)
    drawn >>= np.uint64(33)
    return drawn.astype(np.int32)


def normals(seeds: NDArray[np.int64], size: int, start: int = 0) -> NDArray[np.float64]:
    """Standard normal numbers ``(n, size)`` by Box and Muller's formula, whose last bits depend on the platform.

    Each comes of one whole number, 32 bits of it for the radius and 24 for the angle, and is below 6.8 in magnitude.
    """
    drawn = hashes(seeds, size, start)
    # The cosine, of an angle known to 2^-24 of a turn, is the costly part, and several times faster in float32.
    cosines = np.cos((drawn & _ANGLE).astype(np.float32) * np.float32(2 * np.pi / 2.0**24))
    drawn >>= np.uint64(32)
    radii = drawn.astype(np.float64)
    radii += 0.5
    radii *= 2.0**-32
    np.log(radii, out=radii)
    radii *= -2.0
    np.sqrt(radii, out=radii)
    radii *= cosines
    return radii


def _of_keys(keys: NDArray[np.uint64], size: int, start: int) -> NDArray[np.uint64]:
    counters = np.arange(start + 1, start + size + 1, dtype=np.uint64) * _STEP
    drawn = np.empty((len(keys), size), np.uint64)
    rows = max(1, _BLOCK // max(1, size))
    for first in range(0, len(keys), rows):
        part = drawn[first : first + rows]
        np.add(keys[first : first + rows, None], counters, out=part)
        _mix(part)
    return drawn


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser, in place."""
    shifted = np.empty_like(numbers)
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        np.right_shift(numbers, np.uint64(shift), out=shifted)
        np.bitwise_xor(numbers, shifted, out=numbers)
        np.multiply(numbers, factor, out=numbers)
    np.right_shift(numbers, np.uint64(31), out=shifted)
    return np.bitwise_xor(numbers, shifted, out=numbers)
