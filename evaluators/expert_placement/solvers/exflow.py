"""ExFlow (arXiv:2401.08383): its integer program over all GPUs at once, or by successive bisection.

As in the published solver, several nodes come first and the GPUs of each node after them, and "bipart" halves the GPUs
log2(G) times. The programs share the time limit: each may use an even part of what is left. What ExFlow balances is the
number of experts per GPU, not their load.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import prod

import numpy as np

from autotune.errors import UsageError
from evaluators.expert_placement.cluster import Cluster, Placement
from evaluators.expert_placement.routing import Affinity
from evaluators.expert_placement.solvers.base import Solution, Task
from evaluators.expert_placement.solvers.integer_program import Cut, least_cut


def exflow(task: Task) -> Solution:
    """The integer program: over the nodes if there are several, then over the GPUs of each node."""
    cluster = task.cluster
    levels = [parts for parts in (cluster.nodes, cluster.gpus_per_node) if parts > 1]
    return _by_levels(task.routing.affinity, levels, task.seconds)


def bisection(task: Task) -> Solution:
    """Successive bisection ("bipart"): two halves of the GPUs, then the halves of each.

    Raises:
        UsageError: where the number of GPUs is no power of two.
    """
    if not can_bisect(task.cluster):
        raise UsageError(
            f"solver 'exflow-bisection' needs 2, 4, 8, ... GPUs, not gpus={task.cluster.gpus}; choose another"
        )
    return _by_levels(task.routing.affinity, [2] * (task.cluster.gpus.bit_length() - 1), task.seconds)


def can_bisect(cluster: Cluster) -> bool:
    """Whether the GPUs can be halved until single ones are left."""
    return cluster.gpus & (cluster.gpus - 1) == 0


def _by_levels(affinity: Affinity, levels: Sequence[int], seconds: float) -> Solution:
    """Cut into the first level's parts, then each part into the next level's."""
    begin = time.monotonic()
    left = sum(prod(levels[:i]) for i in range(len(levels)))
    placement = np.zeros((affinity.n_layers, affinity.n_experts), dtype=np.int64)
    cuts: list[Cut] = []
    for parts in levels:
        refined = placement * parts
        for part in range(int(placement.max()) + 1):
            members = _members(placement, part)
            cut = least_cut(affinity.among(members), parts, max(0.1, (seconds - time.monotonic() + begin) / left))
            left -= 1
            np.put_along_axis(refined, members, part * parts + cut.parts, axis=1)
            cuts.append(cut)
        placement = refined
    facts = {
        "programs": len(cuts),
        "proved_optimal": sum(cut.optimal for cut in cuts),
        "largest_gap": round(max(cut.gap for cut in cuts), 4),
    }
    return Solution(placement, facts)


def _members(placement: Placement, part: int) -> Placement:
    """``(L, M)`` ids of the experts of a part, as many in every layer."""
    return np.stack([np.flatnonzero(row == part) for row in placement])
