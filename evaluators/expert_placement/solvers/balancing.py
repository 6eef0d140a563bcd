"""Load balancing by arXiv:2303.06182: greedy, and with anti-correlation.

Both take the experts of a layer in falling order of their mean load and put each on the best GPU that has room.
"""

from __future__ import annotations

import numpy as np

from evaluators.expert_placement.cluster import Floats, Ints
from evaluators.expert_placement.solvers.base import Solution, Task

_CORRELATION_WEIGHT = 0.5  # of S_am beside A_m, as in the paper


def greedy(task: Task) -> Solution:
    """Each expert to the GPU with the least mean load so far."""
    no_correlation = np.zeros((task.routing.n_experts, task.routing.n_experts))
    rows = [_balance(load, no_correlation, task) for load in task.routing.mean_load]
    return Solution(np.stack(rows))


def anti_correlation(task: Task) -> Solution:
    """Each expert a to the GPU with the least sum of ``A_m + 0.5 S_am`` over the experts m that lie there.

    A_m is the mean load of m in units of an average expert's, S_am the Pearson correlation of the loads of a and m over
    the batches (0 where one of them is constant). The paper gives the score; that it is summed over a GPU's experts and
    that A is so scaled is our reading.
    """
    n_experts = task.routing.n_experts
    rows = [
        _balance(load * n_experts, _CORRELATION_WEIGHT * _correlation(shares), task)
        for load, shares in zip(task.routing.mean_load, task.routing.shares, strict=True)
    ]
    return Solution(np.stack(rows))


def _balance(load: Floats, correlation: Floats, task: Task) -> Ints:
    """``(N,)`` GPUs for ``(N,)`` loads and ``(N, N)`` penalties of lying together."""
    gpus, room = task.cluster.gpus, task.experts_per_gpu
    chosen = np.full(len(load), -1, dtype=np.int64)
    score = np.zeros((len(load), gpus))  # of each expert for each GPU, from what lies there
    held = np.zeros(gpus, dtype=np.int64)
    for expert in np.argsort(-load, kind="stable"):
        gpu = int(np.argmin(np.where(held < room, score[expert], np.inf)))
        chosen[expert] = gpu
        held[gpu] += 1
        score[:, gpu] += load[expert] + correlation[expert]
    return chosen


def _correlation(shares: Floats) -> Floats:
    """``(N, N)`` Pearson correlations of ``(B, N)`` loads over batches."""
    centred = shares - shares.mean(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    scaled = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 1e-12)
    return np.asarray(scaled.T @ scaled)
