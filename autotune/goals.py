"""What a study optimises and within which limits: which trial is best, by one rule for the engine and all that shows it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from autotune.objective import Objective, OutcomeConstraint, is_feasible, losses, pareto_mask


class Measured(Protocol):
    """A completed trial, whether read whole or by its metrics alone."""

    @property
    def number(self) -> int: ...
    @property
    def values(self) -> Mapping[str, float]: ...


M = TypeVar("M", bound=Measured)


@dataclass(frozen=True)
class Goals:
    """Objectives, the first of which ranks where one number is needed, and outcome constraints."""

    objectives: tuple[Objective, ...]
    constraints: tuple[OutcomeConstraint, ...] = ()

    @classmethod
    def parse(cls, objectives: Iterable[str], constraints: Iterable[str]) -> Goals:
        """From their texts, as a store has them."""
        return cls(tuple(map(Objective.parse, objectives)), tuple(map(OutcomeConstraint.parse, constraints)))

    @property
    def first(self) -> Objective:
        return self.objectives[0]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that objectives and constraints name, each once."""
        return tuple(dict.fromkeys([o.metric for o in self.objectives] + [c.metric for c in self.constraints]))

    def is_usable(self, trial: Measured) -> bool:
        """Whether every objective is there and is a finite number."""
        return all(math.isfinite(trial.values.get(o.metric, math.nan)) for o in self.objectives)

    def is_feasible(self, trial: Measured) -> bool:
        """Whether a usable trial keeps every outcome constraint."""
        return self.is_usable(trial) and is_feasible(trial.values, self.constraints)

    def rank(self, trial: Measured) -> tuple[float, float, int]:
        """A key to sort usable trials by: feasible ones by the first objective, then the others by violation."""
        violation = sum(c.violation(trial.values) for c in self.constraints)
        return violation, self.first.sign * trial.values[self.first.metric], trial.number

    def losses(self, trial: Measured) -> tuple[float, ...]:
        """The objectives as numbers to minimise."""
        return losses(trial.values, self.objectives)

    def best(self, trials: Iterable[M]) -> M | None:
        """The feasible trial with the best first objective, the earliest of equal ones; None while there is none."""
        return min(filter(self.is_feasible, trials), key=self.rank, default=None)

    def pareto(self, trials: Iterable[M]) -> list[M]:
        """Feasible trials that no other feasible trial dominates, in the order given."""
        good = list(filter(self.is_feasible, trials))
        mask = pareto_mask([self.losses(t) for t in good]) if good else ()
        return [trial for trial, keep in zip(good, mask, strict=True) if keep]

    def gain(self, trial: Measured | None, default: Measured | None) -> float | None:
        """Relative improvement of the first objective over the default, positive when better; None where undefined."""
        if trial is None or default is None or not (self.is_usable(trial) and self.is_usable(default)):
            return None
        return self.first.gain(trial.values[self.first.metric], default.values[self.first.metric])
