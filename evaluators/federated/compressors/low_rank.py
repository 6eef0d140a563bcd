"""Matrices as products of two thin ones."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluators.federated.compressors import noise
from evaluators.federated.compressors.base import Compressor, Sent
from evaluators.federated.compressors.packing import Reader, float_bytes
from evaluators.federated.compressors.rows import checked, doubles, one, sent
from evaluators.federated.tensors import FLOAT_BYTES, Tensors

_HEADER_BYTES = 8  # keep as float64, which tells all ranks


class _Matrix(NamedTuple):
    """Where a tensor lies in the flat vector, and its shape as a matrix."""

    begin: int
    rows: int
    columns: int

    @property
    def part(self) -> slice:
        return slice(self.begin, self.begin + self.rows * self.columns)


class LowRank(Compressor):
    """PowerSGD (arXiv:1905.13727) without its warm start: a matrix M of m x n as P Q^T, from one power iteration.

    A tensor of two and more dimensions is a matrix of ``shape[0]`` rows. P (m x r) is an orthonormal basis of M times a matrix
    of standard normal numbers drawn by the seed, and Q = M^T P; the rank is r = max(1, round(keep m n / (m + n))). A matrix
    goes as it is where factors would not be smaller, and at ``keep`` 1, where they would be as large and lose some of it; so
    do vectors.

    P P^T M is a projection, so the error is never larger than the vector. Over seeds M contracts by r / min(m, n) at least:
    normal numbers have no preferred direction, so a larger singular value is never captured to a smaller share than a
    smaller one, and the shares of the min(m, n) singular directions add up to r.

    Products are computed in float64 and rounded to float32; the last bit of them may depend on the machine. A matrix with NaN
    or infinity is NaN as a whole; one whose columns are longer than float32 can tell does not stay finite.

    Payload: keep (float64); for each tensor in order P and Q, or the tensor as it is, in float32.
    """

    name: ClassVar[str] = "low-rank"
    summary: ClassVar[str] = "matrices as products of two thin ones (PowerSGD, arXiv:1905.13727, without warm start)"

    def __init__(self, tensors: Tensors) -> None:
        super().__init__(tensors)
        begins = np.cumsum((0, *tensors.sizes))
        self._matrices = [
            _Matrix(int(begin), shape[0], size // shape[0]) if len(shape) > 1 and size else _Matrix(int(begin), 1, size)
            for begin, shape, size in zip(begins, tensors.shapes, tensors.sizes, strict=False)
        ]

    def compress(self, values: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """See `Compressor.compress`."""
        rows = checked(self.tensors, values, keep, seeds)
        decoded = rows.values.copy()
        lengths = np.full(len(decoded), _HEADER_BYTES)
        for matrix in self._matrices:
            ranks = _ranks(rows.keep, matrix)
            numbers = np.where(ranks > 0, ranks * (matrix.rows + matrix.columns), matrix.rows * matrix.columns)
            lengths += FLOAT_BYTES * numbers
            for rank in np.unique(ranks[ranks > 0]):
                who = np.flatnonzero(ranks == rank)
                left, right = _factors(rows.values[who, matrix.part], rows.seeds[who], matrix, int(rank))
                decoded[who, matrix.part] = _product(left, right)
        return sent(decoded, lengths)

    def encode(self, vector: Tensor, keep: float, seed: int) -> bytes:
        """See `Compressor.encode`."""
        rows = one(self.tensors, vector, keep, seed)
        parts = [struct.pack("<d", keep)]
        for matrix, rank in self._ranked(keep):
            values = rows.values[:, matrix.part]
            factors = _factors(values, rows.seeds, matrix, rank) if rank else (values,)
            parts.extend(float_bytes(factor) for factor in factors)
        return b"".join(parts)

    def decode(self, payload: bytes, seed: int) -> Tensor:
        """See `Compressor.decode`."""
        reader = Reader(payload, self.name)
        (keep,) = reader.numbers("d")
        if not 0 < keep <= 1:
            raise reader.refusal(f"tells a keep of {keep:g}")
        values = np.zeros(self.tensors.size, np.float32)
        for matrix, rank in self._ranked(keep):
            if rank:
                left = reader.floats(matrix.rows * rank).reshape(1, matrix.rows, rank)
                right = reader.floats(matrix.columns * rank).reshape(1, matrix.columns, rank)
                values[matrix.part] = _product(left, right)[0]
            else:
                values[matrix.part] = reader.floats(matrix.rows * matrix.columns)
        reader.end()
        return torch.from_numpy(values)

    def delta(self, keep: float) -> float:
        """The least r / min(m, n) of all matrices that go as factors; 1 where none does."""
        shares = [rank / min(matrix.rows, matrix.columns) for matrix, rank in self._ranked(keep) if rank]
        return min(shares, default=1.0)

    def _ranked(self, keep: float) -> Iterator[tuple[_Matrix, int]]:
        """Every tensor with its rank, 0 where it goes as it is."""
        for matrix in self._matrices:
            yield matrix, int(_ranks(np.array([keep]), matrix)[0])


def _ranks(keep: NDArray[np.float64], matrix: _Matrix) -> NDArray[np.int64]:
    """The rank for each `keep`, ``(n,)``; 0 where the matrix goes as it is."""
    size, sides = matrix.rows * matrix.columns, matrix.rows + matrix.columns
    ranks = np.maximum(1, np.rint(keep * size / sides)).astype(np.int64)
    return np.where((ranks * sides >= size) | (keep == 1), 0, ranks)


def _factors(
    values: NDArray[np.float32], seeds: NDArray[np.int64], matrix: _Matrix, rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """P ``(n, rows, rank)`` and Q ``(n, columns, rank)`` of matrices ``(n, rows * columns)``."""
    given = doubles(values).reshape(-1, matrix.rows, matrix.columns)
    sound = np.isfinite(given).all(axis=(1, 2), keepdims=True)
    given = np.where(sound, given, 0.0)
    # A rank is below both sides, so what is drawn for one tensor ends before that of the next begins.
    drawn = noise.normals(seeds, matrix.columns * rank, matrix.begin).reshape(-1, matrix.columns, rank)
    left = np.linalg.qr(given @ drawn)[0].astype(np.float32)
    with np.errstate(over="ignore"):
        right = (given.transpose(0, 2, 1) @ left.astype(np.float64)).astype(np.float32)
    return np.where(sound, left, np.float32(np.nan)), np.where(sound, right, np.float32(np.nan))


def _product(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """P Q^T as flat rows, ``(n, rows * columns)``."""
    with np.errstate(over="ignore", invalid="ignore"):
        product = left.astype(np.float64) @ right.astype(np.float64).transpose(0, 2, 1)
        return product.astype(np.float32).reshape(len(left), -1)
