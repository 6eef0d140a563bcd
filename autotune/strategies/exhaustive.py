"""Every feasible configuration once, in a random order, so that stopping early is as good as random search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from autotune.errors import UsageError
from autotune.strategies.base import Capabilities, History, Strategy, Suggestion, Task


class Exhaustive(Strategy):
    """Enumerates the feasible set. Needs a finite space that can be enumerated."""

    name: ClassVar[str] = "exhaustive"
    summary: ClassVar[str] = "every feasible configuration once"
    capabilities: ClassVar[Capabilities] = Capabilities(several_objectives=True, infinite_spaces=False)

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        table = task.space.enumerate()
        if table is None:
            raise UsageError(
                "strategy 'exhaustive' cannot enumerate this space, it is too large; choose tpe, local or random"
            )
        self._table = table
        self._order = np.random.default_rng(task.seed & 0xFFFFFFFF).permutation(len(table))
        self._next = 0

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        taken = history.hashes
        found: list[Suggestion] = []
        # What lies before the cursor is in every later history of the same study; a shorter history starts anew.
        position = self._next if self._next <= len(taken) else 0
        while position < len(self._order) and len(found) < n:
            config = self._table.config(int(self._order[position]))
            if self.task.space.config_hash(config) not in taken:
                found.append(self.suggestion(config))
            elif not found:
                self._next = position + 1
            position += 1
        return found
