"""What a solver of placements is given and gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evaluators.expert_placement.cluster import Cluster, Placement
from evaluators.expert_placement.routing import Routing


class NoSolutionError(RuntimeError):
    """A solver's time was up before it had any placement."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be placed.

    Attributes:
        routing: the tokens that the placement is computed on.
        cluster: the GPUs; they share out the experts of each layer evenly.
        seed: of solvers that draw at random.
        seconds: limit on the time of all integer programs of one placement together.

    Raises:
        UsageError: where the experts cannot be shared out evenly.
    """

    routing: Routing
    cluster: Cluster
    seed: int = 0
    seconds: float = 10.0

    def __post_init__(self) -> None:
        self.cluster.experts_per_gpu(self.routing.n_experts)

    @property
    def experts_per_gpu(self) -> int:
        return self.cluster.experts_per_gpu(self.routing.n_experts)


@dataclass(frozen=True, eq=False)
class Solution:
    """A balanced placement, and what the solver says of it.

    Attributes:
        placement: ``(L, N)``.
        facts: plain values for people, such as the gap that an integer program left.
    """

    placement: Placement
    facts: Mapping[str, float | int | bool] = field(default_factory=dict)
