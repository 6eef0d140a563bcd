"""Who has which samples: skewed by a Dirichlet distribution, or alike; and batches drawn from what each device has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autotune.checks import whole
from autotune.errors import UsageError
from evaluators.federated.compressors.noise import uniforms

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Partition:
    """Samples by device.

    Attributes:
        indices: ``(n, longest)`` int64; row i begins with the samples of device i, padded with its first one.
        counts: ``(n,)`` int64, how many each device has.
    """

    indices: Tensor
    counts: Tensor

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> Partition:
        """From the samples of each device; none may be empty."""
        counts = torch.tensor([len(part) for part in parts], dtype=torch.int64)
        if not len(counts) or int(counts.min()) < 1:
            raise UsageError(f"a partition of {len(parts)} devices has one without samples; give every device some")
        indices = torch.stack([part[0].expand(int(counts.max())) for part in parts]).clone()
        for row, part in zip(indices, parts, strict=True):
            row[: len(part)] = part
        return cls(indices, counts)

    @property
    def n(self) -> int:
        """Devices."""
        return len(self.counts)

    def draw(self, devices: Tensor, batch: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """A batch for each device, drawn with replacement from what it has.

        A device's batch depends on its own seed and size alone, and a larger batch of the same seed begins with the smaller.

        Args:
            devices: ``(m,)`` int64.
            batch: ``(m,)`` samples for each; 0 takes every sample that the device has, once.
            seeds: ``(m,)`` int64.

        Returns:
            Samples ``(m, largest batch)`` int64, and the share of each in its device's loss, float32: 0 where it is padding.
        """
        counts, everything = self.counts[devices], batch == 0
        lengths = torch.where(everything, counts, batch)
        column = torch.arange(int(lengths.max()))
        drawn = (torch.from_numpy(uniforms(seeds.numpy(), len(column))) * counts[:, None]).long()
        position = torch.where(everything[:, None], column, drawn).minimum(counts[:, None] - 1)
        share = (column < lengths[:, None]) / lengths[:, None]
        return self.indices[devices[:, None], position], share.float()


def dirichlet(
    groups: Tensor, n_devices: int, alpha: float, seed: int, least: int = 1, fill: bool = False
) -> list[Tensor]:
    """Every sample to one device, each device with its own mixture of groups.

    A device's mixture is drawn from Dir(alpha * p), p being the mixture of all samples (Hsu et al., arXiv:1909.06335, section
    3): near 0 a device has one group alone, and infinity gives `uniform`. Each group is then shared out in proportion to what
    the mixtures want of it. So all samples are used, and volumes differ, by about a factor of two to four; in the paper all
    devices have as many samples.

    Args:
        groups: ``(N,)`` int64.
        alpha: above 0.
        least: samples that a device must have.
        fill: whether devices that have fewer get samples of those that have most; otherwise they are an error.

    Returns:
        For each device its samples, in order.

    Raises:
        UsageError: where a device has fewer than `least`.
    """
    whole("n_devices", n_devices, 1)
    whole("least", least, 1)
    if not alpha > 0:
        raise UsageError(f"alpha is {alpha!r}; give a number above 0, or inf for devices with like data")
    if n_devices * least > len(groups):
        raise UsageError(
            f"{n_devices} devices with at least {least} samples each need {n_devices * least}, and there are {len(groups)}; "
            "use fewer devices"
        )
    if math.isinf(alpha):
        return uniform(len(groups), n_devices, seed)
    generator = np.random.default_rng(seed)
    labels = groups.numpy()
    present, sizes = np.unique(labels, return_counts=True)
    wanted = _log_dirichlet(generator, alpha * sizes / len(labels), n_devices)
    owners = np.empty(len(labels), dtype=np.int64)
    for column, (group, size) in enumerate(zip(present, sizes, strict=True)):
        shares = np.exp(wanted[:, column] - wanted[:, column].max())
        counts = apportioned(shares, int(size))
        owners[generator.permutation(np.flatnonzero(labels == group))] = np.repeat(np.arange(n_devices), counts)
    if fill:
        _fill(owners, n_devices, least)
    counts = np.bincount(owners, minlength=n_devices)
    if counts.min() < least:
        short = int((counts < least).sum())
        raise UsageError(
            f"with {n_devices} devices and alpha {alpha:g}, {short} of the devices have fewer than {least} of the "
            f"{len(labels)} samples; use fewer devices, or alpha inf for data that is alike"
        )
    return [torch.from_numpy(np.flatnonzero(owners == device)) for device in range(n_devices)]


def uniform(samples: int, n_devices: int, seed: int) -> list[Tensor]:
    """Samples 0 to `samples` - 1 shared out at random, as many to each device but for one."""
    whole("n_devices", n_devices, 1)
    if n_devices > samples:
        raise UsageError(f"{n_devices} devices cannot share {samples} samples; use fewer devices")
    order = np.random.default_rng(seed).permutation(samples)
    return [torch.from_numpy(np.sort(part)) for part in np.array_split(order, n_devices)]


def label_divergence(partition: Partition, groups: Tensor) -> Tensor:
    """KL(groups of the device || groups of all devices) in nats, ``(n,)`` float64, with 0 log 0 = 0."""
    n, kinds = partition.n, int(groups.max()) + 1
    inside = torch.arange(partition.indices.shape[1]) < partition.counts[:, None]
    labels = groups[partition.indices]
    counts = torch.zeros(n, kinds, dtype=torch.float64).scatter_add_(1, labels, inside.double())
    local = counts / counts.sum(1, keepdim=True)
    everyone = counts.sum(0) / counts.sum()
    terms = torch.xlogy(local, local) - torch.xlogy(local, everyone)
    return terms.sum(1).clamp_min(0.0)


def apportioned(shares: Floats, total: int) -> npt.NDArray[np.int64]:
    """Whole numbers in proportion to `shares` that sum to `total`: largest remainders, the first of equal ones first."""
    exact = shares / shares.sum() * total
    counts: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    first = np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]
    counts[first] += 1
    return counts


def _log_dirichlet(generator: np.random.Generator, alphas: Floats, n: int) -> Floats:
    """Logarithms of `n` draws, ``(n, len(alphas))``, which stay finite where the draws themselves are too small for floats.

    A gamma variable of shape a is one of shape a + 1 times U^(1/a) (Marsaglia and Tsang, 2000, section 6).
    """
    logs = np.log(generator.gamma(alphas + 1.0, size=(n, len(alphas))))
    logs += np.log1p(-generator.random((n, len(alphas)))) / alphas
    top = logs.max(1, keepdims=True)
    scaled: Floats = logs - top - np.log(np.exp(logs - top).sum(1, keepdims=True))
    return scaled


def _fill(owners: npt.NDArray[np.int64], n_devices: int, least: int) -> None:
    """Move samples, one by one, from the device that has most to the first that has too few."""
    counts = np.bincount(owners, minlength=n_devices)
    for device in range(n_devices):
        while counts[device] < least:
            richest = int(counts.argmax())
            owners[np.flatnonzero(owners == richest)[-1]] = device
            counts[richest] -= 1
            counts[device] += 1
