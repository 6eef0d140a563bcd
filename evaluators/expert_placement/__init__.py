"""The expert-placement domain's measurements: which expert of each layer lies on which GPU, and what that costs.

`placement_of` is the placement that a configuration of the domain means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluators.expert_placement.cluster import Cluster, Placement
from evaluators.expert_placement.profiled import Placer
from evaluators.expert_placement.routing import Routing, split
from evaluators.expert_placement.solvers import Task

__all__ = ["Cluster", "Placer", "Routing", "Task", "placement_of", "split"]


def placement_of(config: Mapping[str, Any], task: Task) -> Placement:
    """The ``(L, N)`` GPU of every expert that a configuration means, computed on the task's tokens.

    Raises:
        UsageError: for an unknown solver, or one that cannot place these experts.
        NoSolutionError: where an integer program had nothing when its time was up.
    """
    return Placer(task).place(config).placement
