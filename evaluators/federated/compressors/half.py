"""Half precision."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluators.federated.compressors.base import Compressor, Sent
from evaluators.federated.compressors.packing import Reader
from evaluators.federated.compressors.rows import checked, one, sent

_HALF_BYTES = 2
_MOST = float(np.finfo(np.float16).max)


class Half(Compressor):
    """float16 (IEEE 754 binary16), 2 bytes a number, to the nearest and to even between two.

    A finite number beyond 65,504 becomes 65,504 with its sign, never infinite; one below 2^-25 becomes zero, so that no
    contraction holds for every vector. NaN and infinity arrive as they were.
    """

    name: ClassVar[str] = "half"
    summary: ClassVar[str] = "float16 values, clamped to its range"
    rated: ClassVar[bool] = False

    def compress(self, values: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """See `Compressor.compress`."""
        rows = checked(self.tensors, values, keep, seeds)
        lengths = np.full(len(rows.values), _HALF_BYTES * self.tensors.size)
        return sent(_halved(rows.values).float().numpy(), lengths)

    def encode(self, vector: Tensor, keep: float, seed: int) -> bytes:
        """See `Compressor.encode`."""
        return _halved(one(self.tensors, vector, keep, seed).values).numpy().astype("<f2").tobytes()

    def decode(self, payload: bytes, seed: int) -> Tensor:
        """See `Compressor.decode`."""
        reader = Reader(payload, self.name)
        values = np.frombuffer(reader.take(_HALF_BYTES * self.tensors.size), "<f2").astype(np.float16)
        reader.end()
        return torch.from_numpy(values).float()


def _halved(values: NDArray[np.float32]) -> Tensor:
    given = torch.from_numpy(values)
    # Clamping first also keeps numbers between 65,504 and infinity from rounding up.
    clamped = given.clamp(-_MOST, _MOST)
    infinite = given.isinf()
    return (torch.where(infinite, given, clamped) if infinite.any() else clamped).half()
