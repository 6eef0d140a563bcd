"""Start from the domain's rule of thumb, then change one of its constants at a time and keep what helps.

Coordinate descent (Wright, Coordinate descent algorithms, Mathematical Programming 151, 2015) over the constants of a rule that
a domain supplies, in the order in which the domain names them: what people do by hand with a published rule, and a baseline
for strategies that look at all knobs together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, ClassVar, Protocol, runtime_checkable

from autotune.errors import UsageError
from autotune.space import Config
from autotune.strategies.base import History, Strategy, Suggestion, Task


@runtime_checkable
class RuleOfThumb(Protocol):
    """What a domain supplies."""

    def rules(self) -> Sequence[Config]:
        """Feasible configurations that the rule gives with constants as they are published, the most trusted first."""

    def constants(self) -> Sequence[tuple[str, Sequence[Any]]]:
        """Parameters that hold the rule's constants, each with its values in order, the most telling parameter first."""


class Greedy(Strategy):
    """Proposes the rule's configurations; then neighbours of the incumbent along one constant, one step away, then further."""

    name: ClassVar[str] = "greedy"
    summary: ClassVar[str] = "a domain's rule of thumb, one constant changed at a time; needs a domain that supplies it"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        if not isinstance(task.domain_map, RuleOfThumb):
            raise UsageError(
                "strategy 'greedy' needs a domain that supplies a rule of thumb, such as compression; choose another"
            )
        self._rule: RuleOfThumb = task.domain_map

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        """See `Strategy.propose`."""
        space, taken = self.task.space, set(history.hashes)
        found: list[Suggestion] = []
        for config, why in chain(((dict(rule), "rule") for rule in self._rule.rules()), self._around(history)):
            if len(found) >= n:
                break
            key = space.config_hash(config)
            if key not in taken:
                taken.add(key)
                found.append(self.suggestion(config, step=why))
        return found

    def _around(self, history: History) -> Iterator[tuple[Config, str]]:
        """The centre with one constant changed: all constants by one step first, then all by two, and so on.

        The centre is the best configuration that was measured of the rule's and of those that greedy proposed, or of all.
        """
        # The rule itself may have been measured as a baseline.
        rules = {self.task.space.config_hash(dict(rule)) for rule in self._rule.rules()}
        own = [trial for trial in history.ranked if trial.proposer == self.name or trial.config_hash in rules]
        ranked = own or list(history.ranked)
        if not ranked:
            return
        centre = dict(ranked[0].config)
        constants = [(name, list(values)) for name, values in self._rule.constants() if name in centre]
        for step in range(1, max((len(values) for _, values in constants), default=0)):
            for name, values in constants:
                place = values.index(centre[name])
                for other in (place - step, place + step):
                    if 0 <= other < len(values):
                        config = self.task.space.repair({**centre, name: values[other]})
                        if config.get(name) == values[other]:
                            yield config, name
