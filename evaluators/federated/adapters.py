"""Adapters that train a small square matrix between two frozen factors of every weight matrix (Fed-SB, arXiv:2502.15436).

``W = W_0 + B R A`` with B and A the leading singular vectors of the first full gradient (LoRA-SB's start, arXiv:2411.19557),
and R, of rank x rank numbers, starting at zero; averages of R over devices are exact averages of W. A reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autotune.errors import UsageError
from evaluators.federated.tasks.learner import Learner
from evaluators.federated.tensors import FLOAT_BYTES, Tensors


class Adapted(Learner):
    """A learner whose trained vector holds the matrices R alone.

    Args:
        learner: of the whole model.
        base: ``(size,)``, the weights that stay.
        gradient: ``(size,)``, from which the frozen factors are taken.
        rank: of every adapter; a smaller matrix has an adapter of its own smaller side.
    """

    def __init__(self, learner: Learner, base: Tensor, gradient: Tensor, rank: int) -> None:
        self._learner = learner
        self._base = base
        self._factors: list[tuple[int, tuple[int, int], Tensor, Tensor]] = []
        names, shapes, place = [], [], 0
        whole = learner.tensors
        for name, shape, part in zip(whole.names, whole.shapes, whole.split(gradient), strict=True):
            if len(shape) >= 2:
                rows, columns = shape[0], part.numel() // shape[0]
                left, _, right = torch.linalg.svd(part.reshape(rows, columns), full_matrices=False)
                r = min(rank, rows, columns)
                self._factors.append((place, (rows, columns), left[:, :r].contiguous(), right[:r].contiguous()))
                names.append(name)
                shapes.append((r, r))
            place += part.numel()
        if not names:
            raise UsageError("adapter_rank is set, and the model has no weight matrix to adapt; leave it at 0")
        self.tensors = Tensors(tuple(names), tuple(shapes))
        factors = sum(left.numel() + right.numel() for _, _, left, right in self._factors)
        self.frozen_bytes = learner.frozen_bytes + FLOAT_BYTES * (len(base) + factors)

    def initial(self, seed: int) -> Tensor:
        """See `Learner.initial`: nothing is changed yet."""
        return torch.zeros(self.tensors.size)

    def gradients(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """See `Learner.gradients`."""
        loss, gradient = self._learner.gradients(self.whole(weights), x, y, share)
        parts = []
        for place, (rows, columns), left, right in self._factors:
            matrix = gradient[:, place : place + rows * columns].reshape(-1, rows, columns)
            parts.append((left.T @ matrix @ right.T).reshape(len(weights), -1))
        return loss, torch.cat(parts, dim=1)

    def losses(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """See `Learner.losses`."""
        return self._learner.losses(self.whole(weights), x, y, share)

    def loss(self, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """See `Learner.loss`."""
        adapter = torch.cat([parameters[name].reshape(-1) for name in self.tensors.names])
        whole = self._learner.tensors.named(self.whole(adapter[None])[0])
        return self._learner.loss(whole, x, y, share)

    def predict(self, weights: Tensor, x: Tensor) -> Tensor:
        """See `Learner.predict`."""
        return self._learner.predict(self.whole(weights[None])[0], x)

    def whole(self, weights: Tensor) -> Tensor:
        """The whole models ``(n, size of the model)`` of adapters ``(n, size)``."""
        models = self._base.repeat(len(weights), 1)
        for (place, (rows, columns), left, right), part in zip(self._factors, self.tensors.split(weights), strict=True):
            small = part.reshape(len(weights), left.shape[1], right.shape[0])
            models[:, place : place + rows * columns] += (left @ small @ right).reshape(len(weights), -1)
        return models
