"""The cheapest placement of all by dynamic programming over layers, where a layer has few balanced placements.

The pairs' cost couples neighbouring layers alone, so the least cost of layers 0 to s + 1 given how s + 1 is placed follows
from that of layers 0 to s. A layer has ``N! / (N/G)!^G`` balanced placements: 2,520 for 8 experts on 4 GPUs. The optimum is
proved, which the integer program seldom manages.
"""

from __future__ import annotations

from math import factorial

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from evaluators.expert_placement.cluster import Cluster, Ints
from evaluators.expert_placement.kernels import best_predecessors
from evaluators.expert_placement.solvers.base import Solution, Task

MAX_LAYER_PLACEMENTS = 5_000  # a step looks at their square


def layer_placements(n_experts: int, gpus: int) -> int:
    """How many balanced placements a layer has."""
    alike = factorial(n_experts // gpus) ** gpus
    return factorial(n_experts) // int(alike)


def can_be_exact(n_experts: int, cluster: Cluster) -> bool:
    """Whether a layer has few enough balanced placements to look at all pairs of them."""
    return layer_placements(n_experts, cluster.gpus) <= MAX_LAYER_PLACEMENTS


def exact(task: Task) -> Solution:
    """The least cost of pairs over all balanced placements.

    Raises:
        UsageError: where a layer has too many of them.
    """
    affinity, cluster, n = task.routing.affinity, task.cluster, task.routing.n_experts
    if not can_be_exact(n, cluster):
        raise UsageError(
            f"solver 'exact' would look at {layer_placements(n, cluster.gpus):.2g} placements of a layer, at most "
            f"{MAX_LAYER_PLACEMENTS} are allowed; choose another, such as alternating"
        )
    states = _balanced_rows(n, cluster.gpus)
    apart = cluster.hop_cost[states[:, :, None], states[:, None, :]]
    inside = np.stack([(apart * within).sum(axis=(1, 2)) for within in affinity.within])
    cost, back = inside[0], []
    for layer, across in enumerate(affinity.across, start=1):
        # (states, N, G): what each expert of the next layer would cost on each GPU, given how this layer is placed
        towards = np.einsum("uv,sug->svg", across, cluster.hop_cost[states].astype(float), optimize=True)
        cost, previous = best_predecessors(cost, towards, states)
        cost = cost + inside[layer]
        back.append(previous)
    chosen = [int(np.argmin(cost))]
    for previous in reversed(back):
        chosen.append(int(previous[chosen[-1]]))
    return Solution(states[chosen[::-1]], {"proved_optimal": True})


def _balanced_rows(n_experts: int, gpus: int) -> Ints:
    """``(states, N)``: every balanced placement of one layer."""
    rows: list[list[int]] = [[]]
    room = n_experts // gpus
    for _ in range(n_experts):
        rows = [[*row, gpu] for row in rows for gpu in range(gpus) if row.count(gpu) < room]
    states: npt.NDArray[np.int64] = np.array(rows, dtype=np.int64)
    return states
