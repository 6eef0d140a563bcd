"""Signs with a scale."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluators.federated.compressors.base import Compressor, Sent
from evaluators.federated.compressors.packing import Reader, float_bytes, n_bytes
from evaluators.federated.compressors.rows import checked, mean_magnitudes, negate, one, sent, spread
from evaluators.federated.tensors import FLOAT_BYTES


class Sign(Compressor):
    """One bit a number, and one scale for each tensor: the mean of its magnitudes (1-bit scaled sign, arXiv:1901.09847).

    Zero counts as positive. It contracts a tensor x of n numbers by ``|x|_1^2 / (n |x|_2^2)``, which is 1/n at least. A tensor
    with NaN or infinity is NaN or infinite as a whole.

    Payload: a float32 for each tensor, then a bit for each number, set where it is negative.
    """

    name: ClassVar[str] = "sign"
    summary: ClassVar[str] = "one bit a number and a scale for each tensor (arXiv:1901.09847)"
    rated: ClassVar[bool] = False

    def compress(self, values: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """See `Compressor.compress`."""
        rows = checked(self.tensors, values, keep, seeds)
        scales = mean_magnitudes(self.tensors, rows.values)
        length = FLOAT_BYTES * len(self.tensors.sizes) + n_bytes(self.tensors.size)
        return sent(self._signed(scales, rows.values < 0), np.full(len(rows.values), length))

    def encode(self, vector: Tensor, keep: float, seed: int) -> bytes:
        """See `Compressor.encode`."""
        values = one(self.tensors, vector, keep, seed).values
        signs = np.packbits(values[0] < 0, bitorder="little").tobytes()
        return float_bytes(mean_magnitudes(self.tensors, values)) + signs

    def decode(self, payload: bytes, seed: int) -> Tensor:
        """See `Compressor.decode`."""
        reader = Reader(payload, self.name)
        size = self.tensors.size
        scales = reader.floats(len(self.tensors.sizes))
        packed = np.frombuffer(reader.take(n_bytes(size)), np.uint8)
        reader.end()
        negative = np.unpackbits(packed, count=size, bitorder="little").astype(bool)
        return torch.from_numpy(self._signed(scales[None], negative[None])[0])

    def delta(self, keep: float) -> float:
        """1/n of the largest tensor: all of its length in one number is the worst that it can be sent."""
        return 1 / max(self.tensors.sizes)

    def _signed(self, scales: NDArray[np.float32], negative: NDArray[np.bool_]) -> NDArray[np.float32]:
        return negate(spread(self.tensors, scales), negative)
