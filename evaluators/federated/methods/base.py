"""What a method of training together is."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from evaluators.federated.downloads import Download
from evaluators.federated.ledger import Ledger
from evaluators.federated.rules import balanced_batches, download_keep
from evaluators.federated.settings import Settings
from evaluators.federated.tensors import FLOAT_BYTES
from evaluators.federated.world import World


class Method(abc.ABC):
    """One run of a method in a world. `round` moves it on; `model` is what it has learned; `ledger` is what that cost."""

    def __init__(self, world: World, settings: Settings) -> None:
        self.world = world
        self.settings = settings
        self.tensors = world.task.learner.tensors
        self.ledger = Ledger(world.n)
        self.model = world.initial()
        self._last = torch.full((world.n,), -1)  # the round in which each device last took part

    @abc.abstractmethod
    def round(self, round_: int) -> float:
        """Round number `round_`, counted from 0; returns the mean training loss of its devices."""

    @property
    @abc.abstractmethod
    def memories(self) -> int:
        """Vectors of the model's size that a device keeps between rounds, beside the model that it trains."""

    # ------------------------------------------------------------- what rounds are made of

    def download_keep(self, round_: int, who: Tensor) -> Tensor:
        """The share of the model that each device is sent, ``(m,)``: Caesar's rule, or one share for all."""
        freshest = self.settings.download_keep
        if not self.settings.staleness:
            return torch.full((len(who),), freshest, dtype=torch.float64)
        last = self._last[who]
        away = torch.where(last < 0, round_ + 1, round_ - last)
        return download_keep(freshest, away, round_ + 1)

    def fetch(self, download: Download, round_: int, who: Tensor) -> tuple[Tensor, Tensor]:
        """The models ``(m, size)`` that devices start a round from, and the bytes that each was sent, ``(m,)``."""
        seeds = self.world.seeds(round_, who, use=1)
        sent = download.send(who, self.model, self.download_keep(round_, who), seeds)
        self._last[who] = round_
        return sent.values, sent.bytes

    def batches(self, round_: int, who: Tensor, down_bytes: Tensor, up_bytes: Tensor) -> Tensor:
        """Samples of a step, ``(m,)``: the same for all, or smaller for slower devices."""
        batch = self.world.batches(who, self.settings.batch)
        if not self.settings.balanced:
            return batch
        fixed, sample = self.world.fleet.step_seconds(self.world.profile)
        sending = self.world.sending_seconds(round_, who, down_bytes, up_bytes)
        most = int(batch.max())
        return balanced_batches(most, fixed[who], sample[who], sending, self.settings.local_steps)

    def drawn(self, batch: Tensor) -> Tensor:
        """Batches as `World.samples` takes them."""
        return batch if self.settings.batch or self.settings.balanced else torch.zeros_like(batch)

    def train(
        self, start: Tensor, who: Tensor, batch: Tensor, round_: int, correction: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The round's local steps; see `World.train`."""
        settings = self.settings
        return self.world.train(
            start, who, self.drawn(batch), settings.local_steps, settings.learning_rate, round_, correction
        )

    def compute_seconds(self, who: Tensor, batch: Tensor, steps: int) -> Tensor:
        """Seconds of a device's local steps, ``(m,)``."""
        return steps * self.world.step_seconds(who, batch)

    @property
    def model_bytes(self) -> int:
        """Of the model in float32."""
        return FLOAT_BYTES * self.tensors.size

    def shares(self, who: Tensor) -> Tensor:
        """Weights of devices in an average, ``(m,)``, by their samples; they sum to 1."""
        volumes = self.world.volumes[who]
        return volumes / volumes.sum()


class ServerStep:
    """The server's step along a mean update: plain, or with Nesterov momentum (DiLoCo, arXiv:2311.08105, algorithm 1)."""

    def __init__(self, size: int, rate: float, momentum: float) -> None:
        self.rate = rate
        self.momentum = momentum
        self.velocity = torch.zeros(size)

    def __call__(self, model: Tensor, update: Tensor) -> Tensor:
        """The model ``(size,)`` after a step against `update`, ``(size,)``."""
        if self.momentum == 0.0:
            return model - self.rate * update
        self.velocity = self.momentum * self.velocity + update
        return model - self.rate * (update + self.momentum * self.velocity)
