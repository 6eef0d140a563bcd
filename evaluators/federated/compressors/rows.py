"""What compressors share: their arguments checked, counts and widths from `keep`, and figures of each row and tensor.

Whatever is computed of a row must not depend on the rows beside it, down to the last bit, or sender and receiver disagree.
Maxima and elementwise arithmetic are safe; sums are not, as libraries order them by the shape of the whole, hence `sums`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.checks import whole
from autotune.errors import UsageError
from evaluators.federated.compressors.base import Sent
from evaluators.federated.tensors import Tensors

MOST_BITS = 32  # of a number that is sent as it is
_FEWEST_BITS = 2  # a sign and one level
_BLOCK = 1 << 16  # numbers that are worked on at a time, so that they stay in the cache
Scalar = TypeVar("Scalar", bound=np.generic)
_ROUNDING = 1e-12  # 0.07 * 100 is 7.000000000000001, and still means 7


@dataclass(frozen=True)
class Rows:
    """The arguments of a compressor as arrays.

    Attributes:
        values: ``(n, size)`` float32.
        keep: ``(n,)`` float64.
        seeds: ``(n,)`` int64.
    """

    values: NDArray[np.float32]
    keep: NDArray[np.float64]
    seeds: NDArray[np.int64]

    def blocks(self) -> Iterator[tuple[slice, Rows]]:
        """These rows, some at a time, with where they lie."""
        n, size = self.values.shape
        step = max(1, _BLOCK // size)
        for first in range(0, n, step):
            part = slice(first, first + step)
            yield part, Rows(self.values[part], self.keep[part], self.seeds[part])


def checked(tensors: Tensors, values: Tensor, keep: Tensor, seeds: Tensor) -> Rows:
    """Arguments of `compress` as arrays.

    Raises:
        UsageError: for shapes that differ from the contract's, numbers not on the CPU, and shares outside (0, 1].
    """
    n = values.shape[0]
    shapes = {"values": (values, (n, tensors.size)), "keep": (keep, (n,)), "seeds": (seeds, (n,))}
    for name, (given, shape) in shapes.items():
        if tuple(given.shape) != shape:
            raise UsageError(f"{name} has the shape {tuple(given.shape)}; give {shape}")
        if given.device.type != "cpu":
            raise UsageError(f"{name} lies on {str(given.device)!r}; compressors work on the CPU, give {name}.cpu()")
    shares = keep.detach().double().numpy()
    wrong = ~((shares > 0) & (shares <= 1))
    if wrong.any():
        raise UsageError(f"keep is {shares[wrong][0]:g}; give a share above 0 and at most 1")
    return Rows(values.detach().float().contiguous().numpy(), shares, seeds.detach().long().numpy())


def one(tensors: Tensors, vector: Tensor, keep: float, seed: int) -> Rows:
    """Arguments of `encode` as a batch of one row.

    Raises:
        UsageError: as `checked`, and for a seed outside int64.
    """
    whole("seed", seed, -(2**63), 2**63 - 1)
    shares, seeds = torch.tensor([keep], dtype=torch.float64), torch.tensor([seed], dtype=torch.int64)
    return checked(tensors, vector[None], shares, seeds)


def sent(values: NDArray[np.float32], lengths: NDArray[np.int64]) -> Sent:
    """What a compressor answers, from arrays."""
    return Sent(torch.from_numpy(values), torch.from_numpy(lengths))


def seeds_of(seed: int) -> NDArray[np.int64]:
    """A receiver's seed as a batch of one."""
    return np.array([seed], np.int64)


def kept(keep: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """Numbers kept of `size`: the share rounded up, and one at least, ``(n,)``."""
    return np.clip(np.ceil(keep * size * (1 - _ROUNDING)), 1, size).astype(np.int64)


def bits_of(keep: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bits of a number, its sign included: the share of 32, rounded, from 2 to 32, ``(n,)``."""
    return np.clip(np.rint(MOST_BITS * keep), _FEWEST_BITS, MOST_BITS).astype(np.int64)


def largest(keys: NDArray[np.int32], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where each row has its largest keys, ``(n, size)``; of equal ones the first.

    Args:
        keys: ``(n, size)``.
        counts: ``(n,)``, how many of each row, from 1 to size.
    """
    n, size = keys.shape
    least = np.sort(keys, axis=1)[np.arange(n), size - counts, None]
    mask: NDArray[np.bool_] = keys >= least
    tied = np.flatnonzero(np.count_nonzero(mask, axis=1) > counts)
    if len(tied):
        above, equal = keys[tied] > least[tied], keys[tied] == least[tied]
        wanted = counts[tied] - np.count_nonzero(above, axis=1)
        mask[tied] = above | (equal & (np.cumsum(equal, axis=1) <= wanted[:, None]))
    return mask


def only(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The values where the mask says so, zero elsewhere, even where a value is infinite."""
    return np.where(mask, values, np.float32(0))


def negate(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The values, with the other sign where the mask says so."""
    signs = mask.astype(np.int32)
    signs <<= 31
    signs ^= values.view(np.int32)
    return signs.view(np.float32)


def doubles(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The values in float64; a NaN of either kind is no occasion for a warning."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of each row, ``(n,)``, added in an order that the width alone determines."""
    while (width := values.shape[1]) > 1:
        half = width // 2
        folded = values[:, :half] + values[:, half : 2 * half]
        if width % 2:
            folded[:, 0] += values[:, -1]
        values = folded
    return values[:, 0] if values.shape[1] else np.zeros(len(values))


def maxima(tensors: Tensors, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest magnitude in each tensor, ``(n, tensors)``; NaN where a tensor holds one."""
    parts = [np.abs(part).max(axis=1, initial=0.0) for part in split(tensors, values)]
    return np.stack(parts, axis=1)


def mean_magnitudes(tensors: Tensors, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of magnitudes in each tensor, ``(n, tensors)``; NaN or infinite where a tensor holds such."""
    parts = [sums(doubles(np.abs(part))) / max(1, part.shape[1]) for part in split(tensors, values)]
    return np.stack(parts, axis=1).astype(np.float32)


def spread(tensors: Tensors, figures: NDArray[Scalar]) -> NDArray[Scalar]:
    """Figures ``(n, tensors)`` of tensors as figures of their numbers, ``(n, size)``."""
    return np.repeat(figures, tensors.sizes, axis=1)


def split(tensors: Tensors, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Views ``(n, size of tensor)`` of the tensors, in order."""
    return np.split(values, np.cumsum(tensors.sizes)[:-1], axis=1)
