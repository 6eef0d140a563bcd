"""What engines do by default: expert e of every layer on GPU ``e // (N / G)``."""

from __future__ import annotations

import numpy as np

from evaluators.expert_placement.solvers.base import Solution, Task


def contiguous(task: Task) -> Solution:
    """Consecutive experts together, alike in every layer."""
    row = np.arange(task.routing.n_experts, dtype=np.int64) // task.experts_per_gpu
    return Solution(np.tile(row, (task.routing.n_layers, 1)))
