"""A model that many devices train at once, each on rows of its own."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional

from autotune.errors import UsageError
from evaluators.federated.tensors import Tensors

_EVALUATED = 1024  # samples of one pass over test data, which bounds what their activations take


@dataclass(frozen=True)
class Evaluation:
    """What one model is worth on test data.

    Attributes:
        accuracy: share of labels that are predicted right, in [0, 1].
        loss: mean cross-entropy in nats.
    """

    accuracy: float
    loss: float


class Learner(abc.ABC):
    """A model and its loss, for n devices at once.

    Samples: `x` is ``(n, b, ...)``; `y` is ``(n, b)``, or ``(n, b, t)`` where a sample has a label at each of t positions, of
    which the mean counts. `share` is ``(n, b)`` float32, the weight of each sample in its device's loss: a row sums to 1, and
    0 is padding, so that batches may differ in size.

    Attributes:
        tensors: what is trained.
        frozen_bytes: of what a device holds beside that, such as the weights below adapters, and constants.
    """

    tensors: Tensors
    frozen_bytes: int = 0

    @abc.abstractmethod
    def initial(self, seed: int) -> Tensor:
        """Weights before training, ``(size,)`` float32; the same for the same seed."""

    @abc.abstractmethod
    def loss(self, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """The loss of one device, a scalar: `x` is ``(b, ...)``, `share` is ``(b,)``."""

    @abc.abstractmethod
    def predict(self, weights: Tensor, x: Tensor) -> Tensor:
        """Scores ``(b, ..., classes)`` of one model ``(size,)`` for samples ``(b, ...)``, without gradient."""

    @abc.abstractmethod
    def gradients(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Losses ``(n,)`` and their gradients ``(n, size)`` at weights ``(n, size)``."""

    @abc.abstractmethod
    def losses(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """Losses ``(n,)`` alone."""

    def step(self, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, ...]:
        """Gradients of one device, one for each of `parameters` (leaves that require one), as the device computes them."""
        return torch.autograd.grad(self.loss(parameters, x, y, share), tuple(parameters.values()))

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Hold what is frozen on a device meanwhile, for `loss` and `step` with tensors that are there."""
        yield

    def evaluate(self, weights: Tensor, x: Tensor, y: Tensor) -> Evaluation:
        """Accuracy and loss of one model ``(size,)`` on samples ``(N, ...)``; NaN of the loss shows, it is no error."""
        right, total = 0, 0.0
        for some_x, some_y in zip(torch.split(x, _EVALUATED), torch.split(y, _EVALUATED), strict=True):
            scores = self.predict(weights, some_x)
            right += int((scores.argmax(-1) == some_y).sum())
            total += float(sample_losses(scores, some_y).double().sum())
        return Evaluation(right / y.numel(), total / len(y))


def sample_losses(scores: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats of each sample, ``(b,)``: the mean over its positions where it has several.

    Args:
        scores: ``(b, ..., classes)``.
        y: ``(b, ...)`` int64.
    """
    by_label = functional.cross_entropy(scores.flatten(0, -2), y.flatten(), reduction="none")
    return by_label.view(len(y), -1).mean(1)


class ModuleLearner(Learner):
    """A `torch.nn.Module` that gives scores; parameters that require no gradient stay as they are.

    The module works as in evaluation: without dropout, and batch normalisation keeps the statistics that it came with.
    """

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        """`build` makes the module anew, with random weights drawn from torch's global generator.

        Raises:
            UsageError: when nothing in the module is trained, or something trained is not float32.
        """
        self._build = build
        self.module = self._built(0)
        trained = _trained(self.module)
        if not trained:
            raise UsageError("the model has no parameter that requires a gradient; leave some of them trainable")
        other = next((name for name, value in trained.items() if value.dtype != torch.float32), None)
        if other is not None:
            raise UsageError(f"parameter {other} is {trained[other].dtype}; what is trained must be float32")
        self.tensors = Tensors.of(trained)
        held = [*self.module.parameters(), *self.module.buffers()]
        self.frozen_bytes = sum(value.nbytes for value in held) - sum(value.nbytes for value in trained.values())

    def _built(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._build().eval()

    def initial(self, seed: int) -> Tensor:
        """See `Learner.initial`."""
        return self.tensors.flat(_trained(self._built(seed)))

    def loss(self, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """See `Learner.loss`."""
        scores = functional_call(self.module, dict(parameters), (x,))
        return (sample_losses(scores, y) * share).sum()

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """See `Learner.on`."""
        self.module.to(device)
        try:
            yield
        finally:
            self.module.to("cpu")

    def predict(self, weights: Tensor, x: Tensor) -> Tensor:
        """See `Learner.predict`."""
        with torch.no_grad():
            scores: Tensor = functional_call(self.module, self.tensors.named(weights), (x,))
        return scores

    def _flat_loss(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        return self.loss(self.tensors.named(weights), x, y, share)


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


class VectorisedLearner(ModuleLearner):
    """All devices in one pass: every operation has a leading dimension for devices, by `torch.func.vmap`."""

    def gradients(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """See `Learner.gradients`."""
        # Wrapped here, as wrapped functions cannot be sent to another process.
        gradients, losses = vmap(grad_and_value(self._flat_loss))(weights, x, y, share)
        return losses, gradients

    def losses(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """See `Learner.losses`."""
        with torch.no_grad():
            losses: Tensor = vmap(self._flat_loss)(weights, x, y, share)
        return losses


class SequentialLearner(ModuleLearner):
    """Device after device, for modules that `torch.func.vmap` cannot take."""

    def gradients(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """See `Learner.gradients`."""
        losses, gradients = torch.empty(len(weights)), torch.empty_like(weights)
        for row in range(len(weights)):
            leaf = weights[row].detach().clone().requires_grad_()
            loss = self._flat_loss(leaf, x[row], y[row], share[row])
            (gradients[row],) = torch.autograd.grad(loss, leaf)
            losses[row] = loss.detach()
        return losses, gradients

    def losses(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """See `Learner.losses`."""
        with torch.no_grad():
            rows = zip(weights, x, y, share, strict=True)
            return torch.stack([self._flat_loss(*row) for row in rows])
