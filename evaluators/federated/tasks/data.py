"""Samples to train and to test on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autotune.errors import UsageError

Ints = npt.NDArray[np.int64]
LEAST_TRAINED, LEAST_TESTED = 20, 10  # samples, below which training and accuracy say nothing
_ROUNDING = 1e-12  # of a feature's size: a deviation below it comes of rounding the mean


@dataclass(frozen=True, eq=False)
class Data:
    """Samples of one task.

    Attributes:
        x: ``(N, ...)``, float32 features or int64 symbols.
        y: ``(N,)`` or ``(N, t)`` int64 labels.
        test_x, test_y: likewise, and never trained on.
        groups: ``(N,)`` int64, what a Dirichlet partition is drawn over: class labels, or sources of text.
        group_names: of the groups, by number.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    groups: Tensor
    group_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.y) == len(self.groups):
            raise UsageError(
                f"training data has {len(self.x)} samples, {len(self.y)} labels and {len(self.groups)} groups; "
                "give as many of each"
            )
        if len(self.test_x) != len(self.test_y):
            raise UsageError(
                f"test data has {len(self.test_x)} samples and {len(self.test_y)} labels; give as many of each"
            )
        for which, count, least in (("training", len(self.x), LEAST_TRAINED), ("test", len(self.test_x), LEAST_TESTED)):
            if count < least:
                raise UsageError(f"{which} data has {count} samples; give at least {least}")

    @cached_property
    def sha256(self) -> str:
        """Of all samples, labels and groups: results compare only where this is equal."""
        digest = hashlib.sha256()
        for part in (self.x, self.y, self.test_x, self.test_y, self.groups):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()


def held_out(samples: int, tested: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which samples are trained on and which are tested on, drawn by the seed; both in order."""
    drawn = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    return drawn[tested:].sort().values, drawn[:tested].sort().values


def standardised(x: Tensor, test_x: Tensor) -> tuple[Tensor, Tensor]:
    """Features with mean 0 and deviation 1 over what is trained on; one that never changes there becomes 0 there."""
    x, test_x = x.double(), test_x.double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    changing = deviation > _ROUNDING * x.abs().amax(0)
    scale = torch.where(changing, deviation, 1.0)
    return ((x - mean) / scale).float(), ((test_x - mean) / scale).float()


def text_data(parts: Mapping[str, Ints], context: int, symbols: int, tested: int, seed: int) -> Data:
    """Windows of text, each a sample: `context` symbols, and at every position the one that follows it.

    Every part gives as many symbols as the others, as far as it has them, evenly from its whole length.

    Args:
        parts: symbols by the name of their source, each source a group.
        symbols: to take in all.
        tested: windows that are only tested on, drawn by the seed from all.
    """
    xs, ys, groups = [], [], []
    for group, (tokens, windows) in enumerate(zip(parts.values(), _evenly(parts, context, symbols), strict=True)):
        have = (len(tokens) - 1) // context
        starts = context * (np.arange(windows, dtype=np.int64) * have // max(1, windows))
        at = starts[:, None] + np.arange(context)
        xs.append(tokens[at])
        ys.append(tokens[at + 1])
        groups.append(np.full(windows, group, dtype=np.int64))
    x, y, group_of = (torch.from_numpy(np.concatenate(part)) for part in (xs, ys, groups))
    train, test = held_out(len(x), min(tested, len(x)), seed)
    return Data(x[train], y[train], x[test], y[test], group_of[train], tuple(parts))


def _evenly(parts: Mapping[str, Ints], context: int, symbols: int) -> list[int]:
    """Windows of each part: the smallest parts whole, the others alike."""
    have = [max(0, (len(tokens) - 1) // context) for tokens in parts.values()]
    left, taken = symbols // context, [0] * len(have)
    for rank, part in enumerate(sorted(range(len(have)), key=lambda i: have[i])):
        taken[part] = min(have[part], left // (len(have) - rank))
        left -= taken[part]
    return taken
