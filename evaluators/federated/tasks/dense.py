"""Fully connected networks of many devices at once, with their backward pass written out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from evaluators.federated.tasks.learner import VectorisedLearner
from evaluators.federated.tasks.networks import mlp


class DenseLearner(VectorisedLearner):
    """`networks.mlp` with cross-entropy; samples have one label each.

    For models so small, what `torch.func.vmap` does around an operation takes longer than the operation itself; batched matrix
    products written out give the same gradients to rounding.

    Args:
        inputs, hidden, classes: sizes of the layers.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__(partial(mlp, inputs, hidden, classes))

    def gradients(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """See `Learner.gradients`."""
        layers = self._layers(weights)
        entered = [x]  # of every layer, (n, b, width)
        for matrix, bias in layers[:-1]:
            entered.append(_affine(entered[-1], matrix, bias).relu_())
        likely = _affine(entered[-1], *layers[-1]).log_softmax(-1)
        losses = _losses(likely, y, share)
        slope = likely.exp_()
        slope.scatter_add_(-1, y[..., None], slope.new_full((), -1.0).expand(*y.shape, 1))
        slope *= share[..., None]
        found = torch.empty_like(weights)
        parts = self._layers(found)
        for place in range(len(layers) - 1, -1, -1):
            matrix, bias = parts[place]
            matrix.copy_(slope.mT @ entered[place])
            bias.copy_(slope.sum(dim=1))
            if place:
                slope = (slope @ layers[place][0]).mul_(entered[place] > 0)
        return losses, found

    def losses(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """See `Learner.losses`."""
        layers = self._layers(weights)
        for matrix, bias in layers[:-1]:
            x = _affine(x, matrix, bias).relu_()
        return _losses(_affine(x, *layers[-1]).log_softmax(-1), y, share)

    def _layers(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views of every layer's matrix ``(n, out, in)`` and bias ``(n, out)``."""
        views = list(self.tensors.named(flat).values())
        return list(zip(views[::2], views[1::2], strict=True))


def _affine(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias[:, None], x, matrix.mT)


def _losses(likely: Tensor, y: Tensor, share: Tensor) -> Tensor:
    return -(likely.gather(-1, y[..., None])[..., 0] * share).sum(dim=1)
