"""The default choice: exhaustive where the budget covers the space, the domain's own strategy where it has one, else TPE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from autotune.strategies.base import Capabilities, History, Strategy, Suggestion, Task
from autotune.strategies.exhaustive import Exhaustive
from autotune.strategies.fixed_point import FixedPoint
from autotune.strategies.local import LocalSearch
from autotune.strategies.optuna_samplers import OptunaStrategy


class Auto(Strategy):
    """A chain: the next member proposes when the one before it has nothing left."""

    name: ClassVar[str] = "auto"
    summary: ClassVar[str] = (
        "chooses: exhaustive if the budget covers the space, else the domain's own strategy, else tpe"
    )
    capabilities: ClassVar[Capabilities] = Capabilities(several_objectives=True)

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._chain: list[Strategy]
        size = task.space.size if task.budget is not None else None
        if size is not None and task.budget is not None and size <= task.budget:
            self._chain = [Exhaustive(task)]
        elif task.domain_map is not None and len(task.objectives) == 1:
            # What the model behind the fixed point leaves out, measured steps around its answer find.
            self._chain = [FixedPoint(task), LocalSearch(task)]
        else:
            self._chain = [OptunaStrategy.named("tpe")(task)]

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        found: list[Suggestion] = []
        for member in self._chain:
            found.extend(member.propose(history, n - len(found)))
            if len(found) >= n:
                break
        return found
