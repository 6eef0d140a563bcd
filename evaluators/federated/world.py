"""What stays the same while configurations are compared: the task, who has which data, devices and links, and all chance.

Everything random is drawn from the world's seed, the round and the device, and from nothing that a configuration decides: two
configurations meet the same devices, links, failures and batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from autotune.errors import UsageError
from evaluators.federated.compressors.noise import uniforms
from evaluators.federated.fleet import ComputeProfile, Fleet
from evaluators.federated.ledger import Ledger
from evaluators.federated.rules import importance
from evaluators.federated.tasks import Task
from evaluators.federated.tasks.partition import Partition, label_divergence

_INITIAL, _PARTICIPANTS, _ARRIVALS, _BATCHES, _COMPRESSION, _STEPS, _GRAPH, _DIRECTIONS = range(8)  # streams of chance


def stream(seed: int, *keys: int) -> int:
    """A seed of its own for every purpose, round and device (SplitMix64's finaliser over what names it)."""
    mixed = seed & 0xFFFFFFFFFFFFFFFF
    for key in keys:
        mixed = (mixed + 0x9E3779B97F4A7C15 * (key + 1)) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed >> 1  # what a signed 64-bit integer holds


@dataclass(frozen=True)
class World:
    """One federated training job, whatever configuration it is run with.

    Attributes:
        task: learner, data and usual values.
        partition: samples by device.
        fleet: devices and links.
        profile: measured seconds of a training step.
        participation: share of the devices that take part in a round.
        dropout: probability that one of them is lost in a round, after it was sent the model.
        seed: of all that is random.
    """

    task: Task
    partition: Partition
    fleet: Fleet
    profile: ComputeProfile
    participation: float = 1.0
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.participation <= 1.0:
            raise UsageError(f"participation is {self.participation}; it must be above 0 and at most 1")
        if not 0.0 <= self.dropout < 1.0:
            raise UsageError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.fleet.n != self.partition.n:
            raise UsageError(f"the data is shared out over {self.partition.n} devices, and there are {self.fleet.n}")

    @property
    def n(self) -> int:
        """Devices."""
        return self.fleet.n

    @cached_property
    def everyone(self) -> Tensor:
        return torch.arange(self.n)

    @cached_property
    def importance(self) -> Tensor:
        """Of every device's updates, ``(n,)``; see `rules.importance`."""
        return importance(
            self.partition.counts.double(), label_divergence(self.partition, self.task.data.groups).double()
        )

    @cached_property
    def volumes(self) -> Tensor:
        """Samples of every device, ``(n,)`` float32."""
        return self.partition.counts.float()

    def initial(self) -> Tensor:
        """The model that everyone starts from, ``(size,)``."""
        return self.task.learner.initial(stream(self.seed, _INITIAL))

    def participants(self, round_: int) -> Tensor:
        """Who takes part in a round, ``(m,)``, in order."""
        m = max(1, round(self.participation * self.n))
        if m >= self.n:
            return self.everyone
        generator = torch.Generator().manual_seed(stream(self.seed, _PARTICIPANTS, round_))
        return torch.randperm(self.n, generator=generator)[:m].sort().values

    def arrive(self, round_: int, who: Tensor) -> Tensor:
        """Whose updates arrive, ``(m,)`` of bool; at least one does."""
        if self.dropout == 0.0:
            return torch.ones(len(who), dtype=torch.bool)
        generator = torch.Generator().manual_seed(stream(self.seed, _ARRIVALS, round_))
        chance = torch.rand(self.n, generator=generator)[who]
        arrived: Tensor = chance >= self.dropout
        arrived[chance.argmax()] = True
        return arrived

    def seeds(self, round_: int, who: Tensor, use: int = 0) -> Tensor:
        """Seeds ``(m,)`` that devices and server share in a round, for compressors."""
        return torch.tensor(
            [stream(self.seed, _COMPRESSION, round_, int(i), use) for i in who], dtype=torch.int64
        ).reshape(-1)

    def coin(self, round_: int) -> float:
        """One uniform number in [0, 1) of a round, that all share."""
        return float(uniforms(np.array([stream(self.seed, _STEPS, round_)]), 1)[0, 0])

    def directions(self, places: Tensor) -> Tensor:
        """Seeds ``(m,)`` of directions by number, that all share."""
        return torch.tensor([stream(self.seed, _DIRECTIONS, int(place)) for place in places], dtype=torch.int64)

    def samples(self, round_: int, step: int, who: Tensor, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Samples ``(m, b, ...)``, labels and weights ``(m, b)`` of one local step.

        Args:
            batch: ``(m,)`` samples for each device, drawn with replacement; 0 for all that it has.
        """
        seeds = torch.tensor([stream(self.seed, _BATCHES, round_, step, int(i)) for i in who], dtype=torch.int64)
        rows, share = self.partition.draw(who, batch, seeds)
        return self.task.data.x[rows], self.task.data.y[rows], share

    def generator(self) -> torch.Generator:
        """For what is drawn once, such as a graph of neighbours."""
        return torch.Generator().manual_seed(stream(self.seed, _GRAPH))

    def train(
        self,
        start: Tensor,
        who: Tensor,
        batch: Tensor,
        steps: int,
        rate: float,
        round_: int,
        correction: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Plain SGD on every device.

        Args:
            start: ``(m, size)``.
            who: ``(m,)``.
            batch: see `samples`.
            correction: ``(m, size)``, added to every gradient.

        Returns:
            Models ``(m, size)`` and the mean loss over steps, ``(m,)``.
        """
        model, total = start, torch.zeros(len(who))
        for step in range(steps):
            loss, gradient = self.task.learner.gradients(model, *self.samples(round_, step, who, batch))
            if correction is not None:
                gradient = gradient + correction
            model = model - rate * gradient
            total += loss
        return model, total / max(1, steps)

    def batches(self, who: Tensor, batch: int) -> Tensor:
        """The batch of each device, ``(m,)``: what was asked for, or all that it has."""
        return torch.full((len(who),), batch) if batch else self.partition.counts[who]

    def step_seconds(self, who: Tensor, batch: Tensor) -> Tensor:
        """Seconds of one gradient step, ``(m,)``."""
        fixed, sample = self.fleet.step_seconds(self.profile)
        return fixed[who] + batch * sample[who]

    def charge(
        self,
        ledger: Ledger,
        round_: int,
        who: Tensor,
        arrived: Tensor,
        down_bytes: Tensor,
        up_bytes: Tensor,
        compute_s: Tensor,
    ) -> None:
        """A round with a barrier: it ends with the last device whose update arrives.

        A device that is lost has received and computed, and has sent nothing; nobody waits for it.

        Args:
            who, arrived, down_bytes, up_bytes, compute_s: ``(m,)`` each.
        """
        sent_bytes = torch.where(arrived, up_bytes, 0)
        sending = self.sending_seconds(round_, who, down_bytes, sent_bytes)
        taken = sending + compute_s
        length = float(taken[arrived].max())
        self.spend(ledger, who, down_bytes, sent_bytes, compute_s, sending)
        waiting = torch.where(arrived, length - taken, 0.0)
        ledger.add(who, waiting_s=waiting, joules=waiting * self.fleet.idle_w[who])
        ledger.seconds += length

    def sending_seconds(self, round_: int, who: Tensor, down_bytes: Tensor, up_bytes: Tensor) -> Tensor:
        """Seconds on the link, ``(m,)``: latency for each direction that is used, and bytes over bandwidth."""
        down, up = self.fleet.links(round_)
        latency = self.fleet.latency_s[who] * ((down_bytes > 0).double() + (up_bytes > 0).double())
        return latency + down_bytes / down[who] + up_bytes / up[who]

    def spend(
        self,
        ledger: Ledger,
        who: Tensor,
        down_bytes: Tensor,
        up_bytes: Tensor,
        compute_s: Tensor,
        sending_s: Tensor,
    ) -> None:
        """What devices did, whenever; ``(m,)`` each."""
        joules = compute_s * self.fleet.busy_w[who] + sending_s * (self.fleet.radio_w + self.fleet.idle_w)[who]
        ledger.add(who, down_bytes=down_bytes, up_bytes=up_bytes, busy_s=compute_s, sending_s=sending_s, joules=joules)
