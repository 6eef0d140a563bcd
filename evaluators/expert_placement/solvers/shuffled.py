"""Random placement: each layer's experts shuffled, then shared out evenly."""

from __future__ import annotations

import numpy as np

from evaluators.expert_placement.solvers.base import Solution, Task
from evaluators.expert_placement.solvers.contiguous import contiguous


def shuffled(task: Task) -> Solution:
    """Uniform over all balanced placements, layers independent of each other."""
    rng = np.random.default_rng(task.seed)
    return Solution(rng.permuted(contiguous(task).placement, axis=1))
