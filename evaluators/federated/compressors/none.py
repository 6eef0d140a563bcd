"""No compression."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from evaluators.federated.compressors.base import Compressor, Sent
from evaluators.federated.compressors.packing import Reader, float_bytes
from evaluators.federated.compressors.rows import checked, one, sent
from evaluators.federated.tensors import FLOAT_BYTES


class Uncompressed(Compressor):
    """float32 as it is, 4 bytes a number. NaN and infinity arrive as they were."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "float32 as it is"
    unbiased = True
    rated: ClassVar[bool] = False

    def compress(self, values: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """See `Compressor.compress`; the values are a copy."""
        rows = checked(self.tensors, values, keep, seeds)
        return sent(rows.values.copy(), np.full(len(rows.values), FLOAT_BYTES * self.tensors.size))

    def encode(self, vector: Tensor, keep: float, seed: int) -> bytes:
        """See `Compressor.encode`."""
        return float_bytes(one(self.tensors, vector, keep, seed).values)

    def decode(self, payload: bytes, seed: int) -> Tensor:
        """See `Compressor.decode`."""
        reader = Reader(payload, self.name)
        values = reader.floats(self.tensors.size)
        reader.end()
        return torch.from_numpy(values)

    def delta(self, keep: float) -> float:
        """Nothing is lost."""
        return 1.0

    def omega(self, keep: float) -> float:
        """Nothing varies."""
        return 0.0
