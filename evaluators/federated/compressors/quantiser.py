"""What quantisers share: a scale for each tensor, and for each number a sign and a level in a few bits."""

from __future__ import annotations

import abc
import struct

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluators.federated.compressors import noise, packing
from evaluators.federated.compressors.base import Compressor, Sent
from evaluators.federated.compressors.packing import Reader, float_bytes
from evaluators.federated.compressors.rows import (
    MOST_BITS,
    Rows,
    bits_of,
    checked,
    doubles,
    maxima,
    negate,
    one,
    sent,
    spread,
)
from evaluators.federated.tensors import FLOAT_BYTES

FRACTION_BITS = 52  # of a double
_HEADER_BYTES = 1  # bits of a number as uint8


class Quantiser(Compressor):
    """Rounds every number at random to one of the two levels around it, so that its mean is right.

    Levels are shares of the largest magnitude of each tensor. A number takes ``bits = round(32 * keep)`` bits, at least 2, one
    of them its sign; 32 send float32 as it is, without scales. A tensor with NaN or infinity is NaN as a whole. Means are
    right up to the rounding of float32.

    Payload: bits (uint8), a float32 for each tensor, then the levels with their signs in the lowest bit.
    """

    unbiased = True

    def compress(self, values: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """See `Compressor.compress`."""
        rows = checked(self.tensors, values, keep, seeds)
        decoded = np.empty_like(rows.values)
        for part, block in rows.blocks():
            scales = maxima(self.tensors, block.values)
            levels, bits = self._levels(block, scales)
            decoded[part] = self._values(levels, np.signbit(block.values), scales, bits[:, None])
        bits = self.bits(rows.keep)
        whole = bits == MOST_BITS
        decoded[whole] = rows.values[whole]
        size = self.tensors.size
        scale_bytes = np.where(whole, 0, FLOAT_BYTES * len(self.tensors.sizes))
        return sent(decoded, _HEADER_BYTES + scale_bytes - (-bits * size // 8))

    def encode(self, vector: Tensor, keep: float, seed: int) -> bytes:
        """See `Compressor.encode`."""
        rows = one(self.tensors, vector, keep, seed)
        scales = maxima(self.tensors, rows.values)
        levels, bits = self._levels(rows, scales)
        header = struct.pack("<B", bits[0])
        if bits[0] == MOST_BITS:
            return header + float_bytes(rows.values)
        codes = levels[0] << 1 | np.signbit(rows.values[0])
        return header + float_bytes(scales) + packing.pack(codes, int(bits[0]))

    def decode(self, payload: bytes, seed: int) -> Tensor:
        """See `Compressor.decode`."""
        reader = Reader(payload, self.name)
        size = self.tensors.size
        bits = reader.count("B", 2, MOST_BITS)
        if bits == MOST_BITS:
            values = reader.floats(size)
        else:
            scales = reader.floats(len(self.tensors.sizes))
            codes = packing.unpack(reader.take(packing.n_bytes(bits * size)), size, bits)
            negative = (codes & 1).astype(bool)
            values = self._values(codes[None] >> 1, negative[None], scales[None], np.array([[bits]]))[0]
        reader.end()
        return torch.from_numpy(values)

    def omega(self, keep: float) -> float:
        """The bound of the largest tensor; zero where float32 is sent."""
        bits = int(self.bits(np.array([keep]))[0])
        return 0.0 if bits == MOST_BITS else self.variance(bits, max(self.tensors.sizes))

    def delta(self, keep: float) -> float | None:
        """1 - omega, where that is above 0."""
        omega = self.omega(keep)
        return 1 - omega if omega < 1 else None

    def bits(self, keep: NDArray[np.float64]) -> NDArray[np.int64]:
        """Bits of a number, its sign included, ``(n,)``."""
        return bits_of(keep)

    @abc.abstractmethod
    def variance(self, bits: int, size: int) -> float:
        """The bound omega of a tensor of `size` numbers."""

    @abc.abstractmethod
    def draw(
        self, shares: NDArray[np.float64], bits: NDArray[np.int64], chance: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Levels, from 0 to ``2**(bits - 1) - 1``.

        Args:
            shares: ``(n, size)`` of the largest magnitude, in [0, 1]; may be overwritten.
            bits: ``(n, 1)``.
            chance: ``(n, size)``, uniform over `FRACTION_BITS` bits.
        """

    @abc.abstractmethod
    def shares(self, levels: NDArray[np.int64], bits: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of the largest magnitude that each level stands for; none for level 0."""

    def _levels(self, rows: Rows, scales: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Levels ``(n, size)`` and bits ``(n,)``; level 0 all over a tensor that is zero or not finite."""
        bits = self.bits(rows.keep)
        usable = (scales > 0) & np.isfinite(scales)
        shares = doubles(np.abs(rows.values))
        shares /= spread(self.tensors, np.where(usable, scales, np.float32(1)))
        if not usable.all():
            shares[~spread(self.tensors, usable)] = 0
        return self.draw(shares, bits[:, None], noise.bits52(rows.seeds, self.tensors.size)), bits

    def _values(
        self,
        levels: NDArray[np.int64],
        negative: NDArray[np.bool_],
        scales: NDArray[np.float32],
        bits: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        with np.errstate(invalid="ignore"):
            values = (self.shares(levels, bits) * spread(self.tensors, scales)).astype(np.float32)
        return negate(values, negative)
