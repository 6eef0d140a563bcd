"""Rounds against bits: what is published of LoCoDL's and DIANA's complexity, and problems on which to measure it.

A compressor of variance omega that keeps k of d numbers at random has ``omega = d / k - 1``, so that a message takes
``1 / (1 + omega)`` of a model. More compression makes messages shorter and rounds more. Orders are up to a constant and a
factor ``log(1 / eps)``: they rank configurations, and tell where the best one lies.

LoCoDL's order (arXiv:2403.04348) is quoted from a later paper's table, DIANA's from the abstract of arXiv:1904.05115.
`locodl_rate` and what follows from it are a reconstruction, from the step sizes in `methods.locodl`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autotune.checks import whole
from autotune.errors import UsageError
from evaluators.federated.fleet import ComputeProfile, Fleet, fleet
from evaluators.federated.methods import Method
from evaluators.federated.tasks import Data, Learner, Task
from evaluators.federated.tasks.partition import Partition
from evaluators.federated.tensors import FLOAT_BYTES, Tensors
from evaluators.federated.world import World

_LEAST_SAMPLES = 20  # of any task's data

# ------------------------------------------------------------------------------------------- as published


def rounds(omega: float, kappa: float) -> float:
    """Order of LoCoDL's rounds, ``omega + (1 + sqrt(omega)) sqrt(kappa)``, at its best number of local steps."""
    _positive(omega, kappa)
    return omega + (1.0 + math.sqrt(omega)) * math.sqrt(kappa)


def floats(omega: float, kappa: float) -> float:
    """Order of what a device sends in all, in models: `rounds` times ``1 / (1 + omega)``.

    The published form divides by omega, which is the same order for strong compression; this one also holds for none. It
    falls in omega from 1 on, so that its best omega is the largest there is. By `locodl_rate` it holds for omega up to the
    number of devices; beyond, their noise no longer averages out, and traffic grows again.
    """
    return rounds(omega, kappa) / (1.0 + omega)


def compressed_gradients(omega: float, kappa: float, n: int) -> float:
    """Order of DIANA's rounds, ``kappa + kappa omega / n + omega``: one gradient step a round, n devices."""
    _positive(omega, kappa)
    return kappa + kappa * omega / n + omega


def local_training(kappa: float, local_steps: int) -> float:
    """Order of rounds of uncompressed local training with control variates, ``kappa / steps + steps``.

    It is `locodl_rounds`' order without compression, and least, ``2 sqrt(kappa)``, at ``sqrt(kappa)`` local steps.
    """
    _positive(0.0, kappa)
    return kappa / local_steps + local_steps


# --------------------------------------------------------------------------- from the step sizes


def locodl_rate(omega: float, kappa: float, n: int, local_steps: int) -> float:
    """By how much LoCoDL's squared distance to the optimum shrinks in an iteration, at most, with step size ``2 / (L + mu)``.

    ``max(1 - 1 / kappa', 1 - p^2 chi / (1 + 2 omega))`` with ``chi = 1 / (1 + omega / n)`` and p = 1 / `local_steps`: the model
    contracts as gradient descent on half of the strong convexity does (the other half goes to the shared model), and control
    variates by what an exchange tells of them.
    """
    _positive(omega, kappa)
    exchange = 1.0 / (local_steps**2 * (1.0 + omega / n) * (1.0 + 2.0 * omega))
    return max(1.0 - 2.0 / (kappa + 1.0), 1.0 - exchange)


def locodl_rounds(omega: float, kappa: float, n: int, local_steps: int, gain: float = 1e-8) -> float:
    """Rounds in which the squared distance to the optimum falls to `gain` of what it was, by `locodl_rate`.

    Args:
        local_steps: mean number of steps before an exchange.
    """
    rate = locodl_rate(omega, kappa, n, local_steps)
    if rate == 0.0:
        return 1.0
    return max(1.0, math.log(gain) / math.log(rate) / local_steps)


def best_local_steps(omega: float, kappa: float, n: int) -> int:
    """The mean number of local steps with the fewest rounds: as many as leave both terms of `locodl_rate` even."""
    even = math.sqrt((kappa + 1.0) / (2.0 * (1.0 + omega / n) * (1.0 + 2.0 * omega)))
    around = {max(1, math.floor(even)), max(1, math.ceil(even))}
    return min(around, key=lambda steps: (locodl_rounds(omega, kappa, n, steps), steps))


def best_kept(candidates: Iterable[int], size: int, kappa: float, n: int) -> int:
    """How many of `size` numbers to send, of some candidates, for the least traffic of all rounds by `locodl_rounds`."""

    def sent(kept: int) -> float:
        omega = omega_of(kept, size)
        return kept * locodl_rounds(omega, kappa, n, best_local_steps(omega, kappa, n))

    return min(candidates, key=lambda kept: (sent(kept), kept))


def omega_of(kept: int, size: int) -> float:
    """Variance of `kept` random coordinates of `size`, scaled up."""
    return size / whole("kept", kept, 1, size) - 1.0


def _positive(omega: float, kappa: float) -> None:
    if not omega >= 0.0 or not kappa >= 1.0:
        raise UsageError(f"omega is {omega!r} and kappa is {kappa!r}; give omega at least 0 and kappa at least 1")


# ---------------------------------------------------------------------------------------- DiLoCo


def bytes_per_step(sizes: Iterable[int], local_steps: int) -> float:
    """What DiLoCo sends and receives for each gradient step of a device, over a whole turn of its fragments.

    A round is `local_steps` steps and one fragment, up and down in float32; a turn is a round for each fragment.

    Args:
        sizes: numbers in each fragment.
    """
    parts = list(sizes)
    return 2.0 * FLOAT_BYTES * sum(parts) / (len(parts) * local_steps)


def peak_bytes(sizes: Iterable[int]) -> int:
    """The most that DiLoCo sends and receives in a round of one device: a fragment up, and the one before it down."""
    parts = list(sizes)
    return FLOAT_BYTES * max(up + down for up, down in zip(parts, [parts[-1], *parts[:-1]], strict=True))


# ------------------------------------------------------------------------------- problems to measure on


class Quadratics(Learner):
    """A quadratic loss for each device, ``(x - centre)^T H (x - centre) / 2`` with a matrix and a centre of its own.

    A sample begins with the number of its device, so that a partition gives every device its own loss.

    Args:
        hessians: ``(n, d, d)``, or ``(n, d)`` for diagonal ones.
        centres: ``(n, d)``.
        start: ``(d,)``.
        shapes: of the tensors that the d numbers make up; one vector where None.
    """

    def __init__(
        self, hessians: Tensor, centres: Tensor, start: Tensor, shapes: tuple[tuple[int, ...], ...] | None = None
    ) -> None:
        self.hessians = torch.diag_embed(hessians) if hessians.dim() == 2 else hessians
        self.centres = centres
        self.start = start
        parts = shapes or ((len(start),),)
        self.tensors = Tensors(tuple(f"x{place}" for place in range(len(parts))), parts)

    def initial(self, seed: int) -> Tensor:
        """See `Learner.initial`; the same for every seed."""
        return self.start.clone()

    def gradients(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """See `Learner.gradients`."""
        device = x[:, 0, 0].long()
        away = weights - self.centres[device]
        gradient = torch.einsum("nij,nj->ni", self.hessians[device], away)
        return (gradient * away).sum(dim=1) / 2.0, gradient

    def losses(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """See `Learner.losses`."""
        return self.gradients(weights, x, y, share)[0]

    def loss(self, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """See `Learner.loss`."""
        weights = torch.cat([parameters[name].reshape(-1) for name in self.tensors.names])
        away = weights - self.centres[int(x[0, 0])]
        return away @ self.hessians[int(x[0, 0])] @ away / 2.0

    def predict(self, weights: Tensor, x: Tensor) -> Tensor:
        """See `Learner.predict`: there is nothing to predict, so that both classes are as likely."""
        return torch.zeros(len(x), 2)

    def optimum(self, weights: Tensor | None = None) -> Tensor:
        """Where the weighted mean of all losses is least, ``(d,)`` float64; weights ``(n,)`` are even where None."""
        n = len(self.centres)
        shares = torch.full((n,), 1.0 / n, dtype=torch.float64) if weights is None else weights.double() / weights.sum()
        matrices, centres = self.hessians.double(), self.centres.double()
        pulls = torch.einsum("n,nij,nj->i", shares, matrices, centres)
        found: Tensor = torch.linalg.solve(torch.einsum("n,nij->ij", shares, matrices), pulls)
        return found


def conditioned(n: int, size: int, kappa: float, seed: int = 0) -> Quadratics:
    """Heterogeneous quadratics of n devices, each with curvatures from 1 to `kappa`, evenly in their logarithm.

    All devices share the coordinates of least and of most curvature, so that the mean has the same condition number; the others
    and the centres differ.
    """
    if size < 2:
        raise UsageError(f"size is {size!r}; give at least 2, for the least and the most curvature")
    rng = np.random.default_rng(seed)
    curvature = np.exp(rng.uniform(0.0, math.log(kappa), size=(n, size)))
    curvature[:, 0], curvature[:, -1] = 1.0, kappa
    centres = rng.normal(size=(n, size))
    return Quadratics(torch.from_numpy(curvature).float(), torch.from_numpy(centres).float(), torch.zeros(size))


def world_of(learner: Learner, volumes: npt.ArrayLike, *, devices: Fleet | None = None, **options: Any) -> World:
    """A world in which device i has `volumes[i]` samples, each the number i and a number of its own.

    Args:
        volumes: ``(n,)`` whole numbers above 0; at least 20 in all.
        devices: their links and speeds; phones on links that stay as they are where None.
        options: participation, dropout and seed of `World`.
    """
    counts = np.asarray(volumes, dtype=np.int64)
    owner = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    x, y = torch.stack([owner, torch.arange(len(owner))], dim=1).float(), torch.zeros(len(owner), dtype=torch.int64)
    tested = torch.zeros(_LEAST_SAMPLES, 2)
    data = Data(x, y, tested, torch.zeros(_LEAST_SAMPLES, dtype=torch.int64), y)
    task = Task("quadratics", data, learner, learning_rate=0.1, batch=1, local_steps=1, target_accuracy=None)
    partition = Partition.of([torch.nonzero(owner == device).reshape(-1) for device in range(len(counts))])
    profile = ComputeProfile(task.name, learner.tensors.size, (2,), 1e-3, 1e-5, "none", 1.0)
    machines = devices or fleet(len(counts), 0, "phones", link_spread=0.0, round_spread=0.0)
    return World(task, partition, machines, profile, **options)


def rounds_to(method: Method, optimum: Tensor, gain: float, most: int) -> int | None:
    """Rounds in which a method's squared distance to the optimum falls to `gain` of what it was; None if `most` are too few."""
    first = float(((method.model.double() - optimum) ** 2).sum())
    for round_ in range(most):
        method.round(round_)
        if float(((method.model.double() - optimum) ** 2).sum()) <= gain * first:
            return round_ + 1
    return None
