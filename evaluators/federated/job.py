"""One federated training job: what is trained by whom, for how long, and what counts as done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from autotune.errors import UsageError
from evaluators.federated.fleet import ComputeProfile, Fleet
from evaluators.federated.knobs import meaningful
from evaluators.federated.settings import Settings
from evaluators.federated.tasks import Task
from evaluators.federated.tasks.partition import Partition, dirichlet
from evaluators.federated.world import World, stream


@dataclass(frozen=True)
class Job:
    """Attributes:
    task: learner, data and usual values.
    fleet: devices and links.
    profile: measured seconds of a training step.
    rounds: of training.
    target: accuracy in (0, 1] that training is to reach.
    alpha: of the Dirichlet partition; infinity for data that is alike everywhere.
    participation, dropout: see `World`.
    every: rounds from one evaluation to the next.
    repeats: runs of one configuration, each with another partition, start and chance; results are their means.
    seed: of all chance; the same for every configuration, so that they are compared under equal luck.
    plain: federated averaging without compression, with which everything is compared.
    given: settings that are not searched, by name.
    """

    task: Task
    fleet: Fleet
    profile: ComputeProfile
    rounds: int
    target: float
    plain: Settings
    alpha: float = 1.0
    participation: float = 1.0
    dropout: float = 0.0
    every: int = 1
    repeats: int = 1
    seed: int = 0
    given: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 < self.target <= 1.0:
            raise UsageError(f"target accuracy is {self.target}; it must be above 0 and at most 1")

    def settings(self, config: Mapping[str, Any]) -> Settings:
        """The settings of a configuration; of those that are not searched, the ones that mean something beside it."""
        return Settings.of(meaningful({**self.given, **config}), {})

    @cached_property
    def worlds(self) -> tuple[World, ...]:
        """One for each repeat.

        Raises:
            UsageError: when a device would have no samples.
        """
        found = []
        for repeat in range(self.repeats):
            seed = stream(self.seed, repeat)
            parts = dirichlet(self.task.data.groups, self.fleet.n, self.alpha, seed & 0x7FFFFFFF)
            found.append(
                World(
                    self.task,
                    Partition.of(parts),
                    self.fleet,
                    self.profile,
                    self.participation,
                    self.dropout,
                    seed,
                )
            )
        return tuple(found)
