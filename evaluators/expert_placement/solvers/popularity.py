"""Placement by popularity: the experts of a layer in falling order of their picks, dealt out or stacked.

Of equally popular experts the one with the lower number goes first.
"""

from __future__ import annotations

import numpy as np

from evaluators.expert_placement.cluster import Ints
from evaluators.expert_placement.solvers.base import Solution, Task


def popularity(task: Task) -> Solution:
    """Dealt out: rank r of a layer on GPU ``r mod G``."""
    return _by_rank(task, np.arange(task.routing.n_experts, dtype=np.int64) % task.cluster.gpus)


def stacked(task: Task) -> Solution:
    """Stacked: rank r on GPU ``r // (N / G)``, the most popular experts of every layer together.

    Few hops at a bad load, without any look at which expert follows which: what affinity has to beat.
    """
    return _by_rank(task, np.arange(task.routing.n_experts, dtype=np.int64) // task.experts_per_gpu)


def _by_rank(task: Task, gpu_of_rank: Ints) -> Solution:
    order = np.argsort(-task.routing.mean_load, axis=1, kind="stable")
    placement = np.empty(order.shape, dtype=np.int64)
    np.put_along_axis(placement, order, np.broadcast_to(gpu_of_rank, order.shape), axis=1)
    return Solution(placement)
