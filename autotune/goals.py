"""What a study optimises and within which limits: which trial is best, by one rule for the engine and all that shows it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from autotune.measurement import Metric
from autotune.objective import Objective, OutcomeConstraint, is_feasible, losses, pareto_mask
from autotune.replicates import merge_metrics


class Measured(Protocol):
    """A completed trial, whether read whole or by its metrics alone."""

    @property
    def number(self) -> int: ...
    @property
    def values(self) -> Mapping[str, float]: ...


class Repeatable(Measured, Protocol):
    """A completed trial that others may be replicates of: they have the same canonical hash."""

    @property
    def config_hash(self) -> str: ...
    @property
    def metrics(self) -> Mapping[str, Metric]: ...
    def merged(self, metrics: Mapping[str, Metric], replicates: int) -> Self:
        """The same trial with these metrics, made of so many."""


M = TypeVar("M", bound=Measured)
R = TypeVar("R", bound=Repeatable)


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

    def merge(self, trials: Iterable[R]) -> list[R]:
        """One record for each configuration, in the order of their first trials, whose numbers they keep.

        Metrics are averaged over the replicates that have them, by `autotune.replicates.merge_metrics`. What is ranked is
        merged first, everywhere, so that no lucky replicate wins.

        Args:
            trials: completed ones of one fidelity, by number.
        """
        same: dict[str, list[R]] = {}
        for trial in trials:
            same.setdefault(trial.config_hash, []).append(trial)
        return [found[0] if len(found) == 1 else _merged(found) for found in same.values()]

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


def _merged(replicates: Sequence[R]) -> R:
    names = dict.fromkeys(name for one in replicates for name in one.metrics)
    series = {name: [one.metrics[name] for one in replicates if name in one.metrics] for name in names}
    return replicates[0].merged({name: merge_metrics(found) for name, found in series.items()}, len(replicates))
