"""One byte for a gradient: its size along a direction that a shared seed gives (zeroth order, by two forward passes).

FedKSeed (Qin et al., arXiv:2312.06353) restricts directions to K candidates, so that a model is its start and K sums; one byte
for each projected gradient is arXiv:2306.10015's. A reconstruction of both together: which candidate a device's step uses is
drawn from shared chance and costs nothing to send.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autotune.errors import UsageError
from evaluators.federated.compressors.noise import normals, uniforms
from evaluators.federated.methods.base import Method
from evaluators.federated.settings import Settings
from evaluators.federated.tensors import FLOAT_BYTES
from evaluators.federated.world import World

_STEP = 1e-3  # how far from the model the loss is looked at
_LEVELS = 127  # of a signed byte
_ROWS = 64  # directions made at once
_KEPT_NUMBERS = 60_000_000  # directions are kept where they take less than 240 MB


class Seeds(Method):
    """The model is ``initial + sums @ directions``; devices are sent the sums and send bytes."""

    def __init__(self, world: World, settings: Settings) -> None:
        super().__init__(world, settings)
        for name, value in (
            ("compressor", settings.compressor),
            ("download", settings.download),
            ("feedback", settings.feedback),
        ):
            if value != "none":
                raise UsageError(f"{name} is {value!r}; method 'seeds' sends bytes of its own, say 'none'")
        self.start = self.model
        self.sums = torch.zeros(settings.directions)
        kept = settings.directions * self.tensors.size <= _KEPT_NUMBERS
        self._directions = self._make(torch.arange(settings.directions)) if kept else None

    @property
    def memories(self) -> int:
        """See `Method.memories`."""
        return 0

    def round(self, round_: int) -> float:
        """See `Method.round`."""
        settings, world = self.settings, self.world
        who = world.participants(round_)
        batch = self.batches(round_, who, torch.zeros(len(who)), torch.zeros(len(who)))
        steps = settings.local_steps
        models = self.model.repeat(len(who), 1)
        chance = uniforms(world.seeds(round_, who).numpy(), steps)
        chosen = torch.from_numpy((chance * settings.directions).astype(np.int64))
        slopes = torch.zeros(len(who), steps)
        total = 0.0
        for step in range(steps):
            directions = self._rows(chosen[:, step])
            slope, loss = self._slope(models, directions, who, batch, round_, step)
            slopes[:, step] = slope
            models = models - settings.learning_rate * slope[:, None] * directions
            total += loss
        arrived = world.arrive(round_, who)
        largest = slopes.abs().amax(dim=1, keepdim=True)
        # One scale for each device and round; a step of zero length needs none.
        told = torch.round(slopes / largest.clamp_min(1e-30) * _LEVELS) / _LEVELS * largest
        weights = (self.shares(who[arrived])[:, None] * told[arrived]).reshape(-1)
        self.sums.index_add_(0, chosen[arrived].reshape(-1), -settings.server_rate * settings.learning_rate * weights)
        self.model = self._rebuilt()
        down = torch.full((len(who),), FLOAT_BYTES * settings.directions)
        up = torch.full((len(who),), steps + FLOAT_BYTES)
        # A step is two forward passes: two thirds of a gradient step, where the backward pass is two forward ones.
        seconds = self.compute_seconds(who, batch, steps) * 2.0 / 3.0
        world.charge(self.ledger, round_, who, arrived, down, up, seconds)
        return total / steps

    def _slope(
        self, models: Tensor, directions: Tensor, who: Tensor, batch: Tensor, round_: int, step: int
    ) -> tuple[Tensor, float]:
        """The loss's slope along a direction for each device, ``(m,)``, by central differences; and the mean loss."""
        world = self.world
        x, y, share = world.samples(round_, step, who, self.drawn(batch))
        learner = world.task.learner
        above = learner.losses(models + _STEP * directions, x, y, share)
        below = learner.losses(models - _STEP * directions, x, y, share)
        return (above - below) / (2.0 * _STEP), float((above + below).mean() / 2.0)

    def _rebuilt(self) -> Tensor:
        """The model that the sums stand for, ``(size,)``."""
        if self._directions is not None:
            return self.start + self.sums @ self._directions
        model = self.start.clone()
        used = torch.nonzero(self.sums).reshape(-1)
        for places in torch.split(used, _ROWS):
            model += self.sums[places] @ self._make(places)
        return model

    def _rows(self, places: Tensor) -> Tensor:
        return self._make(places) if self._directions is None else self._directions[places]

    def _make(self, places: Tensor) -> Tensor:
        """Directions ``(m, size)`` of independent standard normal numbers."""
        seeds = self.world.directions(places)
        made = [normals(some.numpy(), self.tensors.size).astype(np.float32) for some in torch.split(seeds, _ROWS)]
        return torch.from_numpy(np.concatenate(made))
