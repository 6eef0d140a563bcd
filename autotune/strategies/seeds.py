"""Starting points that a domain's own solver supplies to searches that would else begin with a design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autotune.strategies.base import History, Suggestion, Task, lacking
from autotune.strategies.fixed_point import FixedPoint, FixedPointMap


class Seeds:
    """The best answers of a task's `FixedPointMap`, in its strategy's name; nothing where the domain supplies none.

    Args:
        task: to solve.
        count: answers at most.
    """

    def __init__(self, task: Task, count: int) -> None:
        able = isinstance(task.domain_map, FixedPointMap) and lacking(FixedPoint.capabilities, task) is None
        self._solver = FixedPoint(replace(task, settings=None)) if able and count else None
        self._count = count

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        """Up to `n` of the answers that were not proposed before."""
        if self._solver is None:
            return []
        left = self._count - sum(t.proposer == FixedPoint.name for t in history.counted)
        return self._solver.propose(history, min(n, left)) if left > 0 else []
