"""Placement by affinity, one layer at a time: each layer is placed anew, exactly, given its neighbours.

Given where the experts of all other layers lie, the cost of each expert on each GPU is known, and the best balanced layer
is a transportation problem (solved as a linear assignment to ``N / G`` slots per GPU). Layers take turns, forwards and
backwards, until none can be bettered. For top-1 each such step is exact. With more experts per token, those that one
token picks in the same layer pull at each other, which is quadratic; they are counted where they lie at present, and the
step is made only where it lowers the true cost.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from evaluators.expert_placement.cluster import Cluster, Floats, Ints, Placement
from evaluators.expert_placement.routing import Affinity
from evaluators.expert_placement.solvers.base import Solution, Task

STARTS = 8  # random first layers
_MAX_ROUNDS = 50  # forwards and backwards; about ten are needed
_TOLERANCE = 1e-9


def alternating(task: Task) -> Solution:
    """The cheapest of several descents on the pairs' cost, each from another random first layer."""
    affinity, cluster = task.routing.affinity, task.cluster
    rng = np.random.default_rng(task.seed)
    row = np.arange(task.routing.n_experts, dtype=np.int64) // task.experts_per_gpu
    found = [descend(affinity, cluster, chain(affinity, cluster, rng.permutation(row))) for _ in range(STARTS)]
    return Solution(min(found, key=lambda placement: affinity.cost(placement, cluster.hop_cost)))


def chain(affinity: Affinity, cluster: Cluster, first: Ints) -> Placement:
    """Every layer placed by the one before it alone, beginning with ``(N,)`` GPUs of the first layer."""
    rows = [first]
    for across in affinity.across:
        rows.append(_assign(across.T @ cluster.hop_cost[rows[-1]].astype(float), cluster))
    return np.stack(rows)


def descend(affinity: Affinity, cluster: Cluster, start: Placement) -> Placement:
    """Layers placed anew in turns until none can be bettered; never costlier than the start."""
    placement = start.copy()
    order = [*range(affinity.n_layers), *range(affinity.n_layers - 2, 0, -1)]
    for _ in range(_MAX_ROUNDS):
        bettered = sum(_improve(affinity, cluster, placement, layer) for layer in order)
        if bettered == 0:
            break
    return placement


def _improve(affinity: Affinity, cluster: Cluster, placement: Placement, layer: int) -> bool:
    """Place one layer anew where that is cheaper; whether it was."""
    between, within = _layer_costs(affinity, cluster, placement, layer)
    here = placement[layer]
    proposed = _assign(between + (within + within.T) @ cluster.hop_cost[here], cluster)
    experts = np.arange(len(here))

    def cost(row: Ints) -> float:
        return float(between[experts, row].sum() + (within * cluster.hop_cost[row[:, None], row]).sum())

    if cost(proposed) >= cost(here) - _TOLERANCE:
        return False
    placement[layer] = proposed
    return True


def _layer_costs(affinity: Affinity, cluster: Cluster, placement: Placement, layer: int) -> tuple[Floats, Floats]:
    """``(N, G)`` cost of each expert on each GPU towards the neighbouring layers, and ``(N, N)`` pairs in the layer."""
    cost = np.zeros((affinity.n_experts, cluster.gpus))
    if layer > 0:
        cost += affinity.across[layer - 1].T @ cluster.hop_cost[placement[layer - 1]]
    if layer + 1 < affinity.n_layers:
        cost += affinity.across[layer] @ cluster.hop_cost[placement[layer + 1]]
    return cost, affinity.within[layer]


def _assign(cost: Floats, cluster: Cluster) -> Ints:
    """The cheapest balanced ``(N,)`` GPUs for ``(N, G)`` costs."""
    room = cluster.experts_per_gpu(len(cost))
    expert, slot = linear_sum_assignment(np.repeat(cost, room, axis=1))
    chosen = np.empty(len(cost), dtype=np.int64)
    chosen[expert] = slot // room
    return chosen
