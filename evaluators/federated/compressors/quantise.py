"""Evenly spaced levels."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from evaluators.federated.compressors.quantiser import FRACTION_BITS, Quantiser


class Uniform(Quantiser):
    """s = 2^(bits - 1) - 1 evenly spaced levels above zero (QSGD, arXiv:1610.02132, with another scale).

    QSGD scales by the 2-norm of a tensor, for which ``omega = min(n / s^2, sqrt(n) / s)`` holds. Here the scale is the largest
    magnitude: levels are closer, so the error is smaller with the same bits, the mean is as right, and a tighter bound holds,
    ``omega = (sqrt(1 + (n - 1) / s^2) - 1) / 2`` of the largest tensor.

    It follows so. In steps of the levels the largest magnitude is s and has no error, and any other number m + f, with m whole,
    has the variance f (1 - f) and at least the square f^2. The ratio of the sums is largest where all f are equal,
    N f (1 - f) / (s^2 + N f^2) with N = n - 1, which has the above as its maximum over f: there are vectors that reach it.
    """

    name: ClassVar[str] = "quantise"
    summary: ClassVar[str] = "evenly spaced levels, rounded at random (QSGD, arXiv:1610.02132)"

    def variance(self, bits: int, size: int) -> float:
        """See the class."""
        return (math.sqrt(1 + (size - 1) / (2 ** (bits - 1) - 1) ** 2) - 1) / 2

    def draw(
        self, shares: NDArray[np.float64], bits: NDArray[np.int64], chance: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """See `Quantiser.draw`."""
        most = _levels(bits)
        shares *= most
        shares += chance * 2.0**-FRACTION_BITS
        # Of many levels, adding what is below 1 may round up to the next but one.
        np.minimum(shares, most, out=shares)
        return shares.astype(np.int64)

    def shares(self, levels: NDArray[np.int64], bits: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Quantiser.shares`."""
        return levels / _levels(bits)


def _levels(bits: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.ldexp(1.0, bits - 1) - 1
