"""The largest numbers of a vector."""

from __future__ import annotations

import struct
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluators.federated.compressors import positions
from evaluators.federated.compressors.base import Compressor, Sent
from evaluators.federated.compressors.packing import Reader, float_bytes
from evaluators.federated.compressors.rows import checked, kept, largest, one, only, sent
from evaluators.federated.tensors import FLOAT_BYTES

_HEADER_BYTES = 4  # k as uint32
_MAGNITUDE = np.int32(0x7FFFFFFF)  # all bits of a float32 but its sign


class TopK(Compressor):
    """The k = max(1, ceil(keep * size)) largest numbers by magnitude, over the whole vector; zero elsewhere.

    Of equal magnitudes the first are kept. NaN counts as the largest and infinity as the next, so that a vector that has
    one is never taken for a sound one.

    Payload: k (uint32), positions (a bitmap or packed indices, whichever is smaller; none where all are kept), k float32.
    """

    name: ClassVar[str] = "top-k"
    summary: ClassVar[str] = "the largest numbers by magnitude"

    def compress(self, values: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """See `Compressor.compress`."""
        rows = checked(self.tensors, values, keep, seeds)
        k = kept(rows.keep, self.tensors.size)
        lengths = _HEADER_BYTES + positions.lengths(k, self.tensors.size) + FLOAT_BYTES * k
        return sent(only(rows.values, largest_magnitudes(rows.values, k)), lengths)

    def encode(self, vector: Tensor, keep: float, seed: int) -> bytes:
        """See `Compressor.encode`."""
        rows = one(self.tensors, vector, keep, seed)
        k = kept(rows.keep, self.tensors.size)
        mask = largest_magnitudes(rows.values, k)
        return struct.pack("<I", k[0]) + positions.pack(mask[0]) + float_bytes(rows.values[mask])

    def decode(self, payload: bytes, seed: int) -> Tensor:
        """See `Compressor.decode`."""
        reader = Reader(payload, self.name)
        size = self.tensors.size
        k = reader.count("I", 1, size)
        where = positions.read(reader, k, size)
        values = np.zeros(size, np.float32)
        values[where] = reader.floats(k)
        reader.end()
        return torch.from_numpy(values)

    def delta(self, keep: float) -> float:
        """k / size: what is dropped is at most the average of what is there."""
        return int(kept(np.array([keep]), self.tensors.size)[0]) / self.tensors.size


def largest_magnitudes(values: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where each row ``(size,)`` has its largest magnitudes, ``(n, size)``; NaN counts as the largest."""
    # Bits of floats without their signs are in the order of the floats, with NaN above infinity.
    return largest(values.view(np.int32) & _MAGNITUDE, counts)
