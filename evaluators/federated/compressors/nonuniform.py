"""Powers of two as levels."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from evaluators.federated.compressors.quantiser import FRACTION_BITS, Quantiser
from evaluators.federated.compressors.rows import MOST_BITS

_MOST_USEFUL_BITS = 9  # 255 halvings reach from the largest float32 to the smallest normal one
_EXPONENT_OF_ONE = 1023


class Nonuniform(Quantiser):
    """Powers of two of a tensor's largest magnitude as levels (natural compression and dithering, arXiv:1905.10988; a
    reconstruction, with the largest magnitude as the scale).

    With b bits there are L = 2^(b - 1) - 1 levels 1, 1/2, ..., 2^(1 - L); what lies below the last goes at random to it or
    to zero. ``omega = max(1/8, (sqrt(1 + (n - 1) / 4^(L - 1)) - 1) / 2)`` holds: 1/8 between powers of two, as in the
    paper, and below the last level the bound of evenly spaced levels so far apart (`quantise.Uniform`).

    More than 9 bits have no level to add: whatever `keep` asks for from 10 to 31 bits, 9 are sent.
    """

    name: ClassVar[str] = "nonuniform"
    summary: ClassVar[str] = "powers of two as levels, rounded at random (natural compression, arXiv:1905.10988)"

    def variance(self, bits: int, size: int) -> float:
        """See the class."""
        least = math.ldexp(1.0, 1 - int(_n_levels(np.array(bits))))
        return max(1 / 8, (math.sqrt(1 + (size - 1) * least**2) - 1) / 2)

    def draw(
        self, shares: NDArray[np.float64], bits: NDArray[np.int64], chance: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """See `Quantiser.draw`; level l > 0 stands for 2^(l - L)."""
        n_levels = _n_levels(bits)
        # A double tells its power of two and how far it is on the way to the next one: chance carries it there as often.
        levels = (shares.view(np.int64) + chance) >> FRACTION_BITS
        levels += n_levels - _EXPONENT_OF_ONE
        least = np.ldexp(1.0, 1 - n_levels)
        below = shares < least
        if below.any():
            bars = chance.astype(np.float64)
            bars *= least * 2.0**-FRACTION_BITS
            # Arithmetic instead of a choice by number: which numbers lie below is hard to foresee, which choices suffer from.
            levels *= (~below).astype(np.int64)
            levels += (below & (bars < shares)).astype(np.int64)
        return levels

    def shares(self, levels: NDArray[np.int64], bits: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Quantiser.shares`."""
        exponents = levels + (_EXPONENT_OF_ONE - _n_levels(bits))
        exponents *= (levels > 0).astype(np.int64)
        exponents <<= FRACTION_BITS
        return exponents.view(np.float64)

    def bits(self, keep: NDArray[np.float64]) -> NDArray[np.int64]:
        """See `Quantiser.bits`."""
        bits = super().bits(keep)
        return np.where(bits == MOST_BITS, bits, np.minimum(bits, _MOST_USEFUL_BITS))


def _n_levels(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Levels above zero."""
    return (1 << np.minimum(bits, _MOST_USEFUL_BITS) - 1) - 1
