"""Placement by affinity, one layer at a time: each layer is placed anew, exactly, given its neighbours.

Given where the experts of all other layers lie, the cost of each expert on each GPU is known, and the best balanced layer
is a transportation problem (solved as a linear assignment to ``N / G`` slots per GPU). Layers take turns until none can be
bettered. For top-1 each such step is exact. With more experts per token, those that one token picks in the same layer
pull at each other, which is quadratic; they are counted where they lie at present, and the step is made only where it
lowers the true cost.

Where no layer alone can be bettered, several together may be. The descent is therefore iterated (Lourenço, Martin and
Stützle, Iterated Local Search, 2003): a few layers are shuffled, or two GPUs change names from some layer on, and what
the descent makes of that is kept if it is cheaper.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
from scipy.optimize import linear_sum_assignment

from evaluators.expert_placement.cluster import Cluster, Floats, Ints, Placement
from evaluators.expert_placement.routing import Affinity
from evaluators.expert_placement.solvers.base import Solution, Task

STARTS = 8  # random first layers
KICKS = 200
_SHUFFLED_AT_MOST = 4  # layers of one kick
_TOLERANCE = 1e-9


def alternating(task: Task) -> Solution:
    """The cheapest of several descents on the pairs' cost, each from another random first layer, and kicks from there."""
    affinity, cluster = task.routing.affinity, task.cluster
    rng = np.random.default_rng(task.seed)
    row = np.arange(task.routing.n_experts, dtype=np.int64) // task.experts_per_gpu
    found = [descend(affinity, cluster, chain(affinity, cluster, rng.permutation(row))) for _ in range(STARTS)]
    costs = [affinity.cost(placement, cluster.hop_cost) for placement in found]
    best, least = found[int(np.argmin(costs))], min(costs)
    for _ in range(KICKS):
        kicked, changed = _kick(best, cluster, rng)
        ended = descend(affinity, cluster, kicked, changed)
        cost = affinity.cost(ended, cluster.hop_cost)
        if cost < least - _TOLERANCE:
            best, least = ended, cost
    return Solution(best)


def chain(affinity: Affinity, cluster: Cluster, first: Ints) -> Placement:
    """Every layer placed by the one before it alone, beginning with ``(N,)`` GPUs of the first layer."""
    rows = [first]
    for across in affinity.across:
        rows.append(_assign(across.T @ cluster.hop_cost[rows[-1]].astype(float), cluster))
    return np.stack(rows)


def descend(affinity: Affinity, cluster: Cluster, start: Placement, changed: Iterable[int] | None = None) -> Placement:
    """Layers placed anew in turns until none can be bettered; never costlier than the start.

    Args:
        changed: layers beyond which the start is known to be such an end already; all layers if None.
    """
    placement = start.copy()
    waiting = deque(range(affinity.n_layers) if changed is None else changed)
    while waiting:
        layer = waiting.popleft()
        if _improve(affinity, cluster, placement, layer):
            near = (layer - 1, layer, layer + 1)
            waiting.extend(one for one in near if 0 <= one < affinity.n_layers and one not in waiting)
    return placement


def _kick(placement: Placement, cluster: Cluster, rng: np.random.Generator) -> tuple[Placement, list[int]]:
    """Another placement nearby, and the layers whose surroundings are not what they were."""
    kicked, layers = placement.copy(), len(placement)
    if rng.random() < 0.5:
        count = int(rng.integers(1, min(_SHUFFLED_AT_MOST, layers) + 1))
        first = int(rng.integers(layers - count + 1))
        kicked[first : first + count] = rng.permuted(kicked[first : first + count], axis=1)
        return kicked, [*range(max(0, first - 1), min(layers, first + count + 1))]
    first = int(rng.integers(1, layers))
    pair = rng.choice(cluster.gpus, 2, replace=False)
    names = np.arange(cluster.gpus)
    names[pair] = pair[::-1]
    kicked[first:] = names[kicked[first:]]
    return kicked, [first - 1, first]


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
