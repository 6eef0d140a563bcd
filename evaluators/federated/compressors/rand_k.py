"""Random coordinates of a vector."""

from __future__ import annotations

import struct
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.errors import UsageError
from evaluators.federated.compressors import noise
from evaluators.federated.compressors.base import Compressor, Sent
from evaluators.federated.compressors.packing import Reader, float_bytes
from evaluators.federated.compressors.rows import checked, kept, largest, one, only, seeds_of, sent
from evaluators.federated.tensors import FLOAT_BYTES, Tensors

_HEADER_BYTES = 4  # k as uint32


class RandK(Compressor):
    """k = max(1, ceil(keep * size)) coordinates, drawn evenly by the shared seed; zero elsewhere.

    Scaled by size / k it is unbiased with omega = size / k - 1. With error feedback use ``scaled=False``: what is dropped is
    sent later, and scaling up would count it twice. It is then biased, and contracts by k / size in expectation.

    A vector with NaN or infinity is sent as NaN, as the coordinates drawn need not show it. Numbers that scaling takes
    beyond float32 become infinite.

    Payload: k (uint32), k float32 before scaling in the order of their positions, which the seed tells.

    Args:
        tensors: of the model.
        scaled: whether the receiver scales up.
    """

    name: ClassVar[str] = "rand-k"
    summary: ClassVar[str] = "coordinates drawn by the shared seed"
    unbiased = True

    def __init__(self, tensors: Tensors, *, scaled: bool = True) -> None:
        super().__init__(tensors)
        if not isinstance(scaled, bool):
            raise UsageError(f"scaled is {scaled!r}; give True or False")
        self.scaled = scaled
        # What the class says holds for the scaled form; the other form says so of itself.
        self.unbiased = scaled

    def compress(self, values: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """See `Compressor.compress`."""
        rows = checked(self.tensors, values, keep, seeds)
        k = kept(rows.keep, self.tensors.size)
        chosen = only(_marked(rows.values), self._mask(rows.seeds, k))
        return sent(self._scale(chosen, k[:, None]), _HEADER_BYTES + FLOAT_BYTES * k)

    def encode(self, vector: Tensor, keep: float, seed: int) -> bytes:
        """See `Compressor.encode`."""
        rows = one(self.tensors, vector, keep, seed)
        k = kept(rows.keep, self.tensors.size)
        return struct.pack("<I", k[0]) + float_bytes(_marked(rows.values)[self._mask(rows.seeds, k)])

    def decode(self, payload: bytes, seed: int) -> Tensor:
        """See `Compressor.decode`."""
        reader = Reader(payload, self.name)
        k = np.array([reader.count("I", 1, self.tensors.size)])
        values = np.zeros(self.tensors.size, np.float32)
        values[self._mask(seeds_of(seed), k)[0]] = self._scale(reader.floats(int(k[0])), k)
        reader.end()
        return torch.from_numpy(values)

    def delta(self, keep: float) -> float | None:
        """k / size where it is not scaled; 1 - omega where it is and that is above 0."""
        share = self._share(keep)
        if not self.scaled:
            return share
        return 2 - 1 / share if share > 0.5 else None

    def omega(self, keep: float) -> float | None:
        """size / k - 1 where it is scaled."""
        return 1 / self._share(keep) - 1 if self.scaled else None

    def _share(self, keep: float) -> float:
        return int(kept(np.array([keep]), self.tensors.size)[0]) / self.tensors.size

    def _mask(self, seeds: NDArray[np.int64], k: NDArray[np.int64]) -> NDArray[np.bool_]:
        return largest(noise.keys31(seeds, self.tensors.size), k)

    def _scale(self, values: NDArray[np.float32], k: NDArray[np.int64]) -> NDArray[np.float32]:
        if not self.scaled:
            return values
        with np.errstate(over="ignore", invalid="ignore"):
            return np.multiply(values, self.tensors.size / k, dtype=np.float32)


def _marked(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values, with NaN in place of all of a row that has a number that is not finite."""
    sound = np.isfinite(values).all(axis=1, keepdims=True)
    return values if sound.all() else np.where(sound, values, np.float32(np.nan))
