"""Local search: trade the places of two experts of a layer wherever that lowers a weighted sum of hops and maximal load.

The sum is over layers, ``(1 - w_s) hops_s / h + w_s load_s / l``: hops_s the cost of a layer's dispatch and combine counted
exactly as in `measure` (hierarchical where there are several nodes), load_s the maximal loads of its batches, h and l
what the contiguous placement has of each in all layers, so that w says what is worth what in familiar units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluators.expert_placement.cluster import Floats, Placement
from evaluators.expert_placement.kernels import gpu_loads, hop_totals, swap_sweep, users_of
from evaluators.expert_placement.solvers.base import Solution, Task
from evaluators.expert_placement.solvers.contiguous import contiguous

_TOLERANCE = 1e-10  # of the weighted sum; less is rounding


def by_layer(load_weight: float | Sequence[float], n_layers: int) -> Floats:
    """``(L,)`` weights from one, or from one for each of several equally long ranges of layers."""
    weights = np.atleast_1d(np.asarray(load_weight, dtype=float))
    return weights[np.arange(n_layers) * len(weights) // n_layers]


def weighted_sum(task: Task, placement: Placement, load_weight: float | Sequence[float]) -> float:
    """What `swap` lowers; 1 for the contiguous placement under equal weights."""
    hop_weight, loads_weight = _weights(task, load_weight)
    hops = hop_totals(task.routing.picks, placement, task.cluster.hop_cost)[:, :2].sum(axis=1)
    loads = gpu_loads(task.routing.shares, placement, task.cluster.gpus).max(axis=2).sum(axis=1)
    return float(hop_weight @ hops + loads_weight @ loads)


def swap(task: Task, start: Placement, sweeps: int, load_weight: float | Sequence[float]) -> Solution:
    """First-improvement descent from a balanced placement.

    Args:
        sweeps: passes over all pairs of experts at most; it ends early at a local optimum.
        load_weight: 0 looks at hops alone, 1 at the load alone; one number, or one for each range of layers.
    """
    placement = np.ascontiguousarray(start, dtype=np.int64).copy()
    hop_weight, loads_weight = _weights(task, load_weight)
    loads = gpu_loads(task.routing.shares, placement, task.cluster.gpus)
    offsets, users = users_of(task.routing.picks, task.routing.n_experts)
    swaps, done = 0, 0
    for _ in range(sweeps):
        made = swap_sweep(
            task.routing.picks,
            placement,
            task.cluster.hop_cost,
            hop_weight,
            task.routing.shares,
            loads,
            loads_weight,
            users,
            offsets,
            _TOLERANCE,
        )
        swaps, done = swaps + made, done + 1
        if made == 0:
            break
    return Solution(placement, {"swaps": swaps, "sweeps_done": done})


def _weights(task: Task, load_weight: float | Sequence[float]) -> tuple[Floats, Floats]:
    """``(L,)`` weight of one hop and of one unit of maximal load, by layer."""
    usual = contiguous(task).placement
    hops = hop_totals(task.routing.picks, usual, task.cluster.hop_cost)[:, :2].sum()
    loads = gpu_loads(task.routing.shares, usual, task.cluster.gpus).max(axis=2).sum()
    weight = by_layer(load_weight, task.routing.n_layers)
    # Where the contiguous placement has no hop at all, any unit serves.
    return (1.0 - weight) / max(1.0, float(hops)), weight / max(1.0, float(loads))
