"""What a page says about a study, computed from the store's records alone: free of Streamlit and of I/O."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

from autotune.objective import Objective, OutcomeConstraint, is_feasible, losses, pareto_mask
from autotune.store import StudyRecord, TrialRecord, TrialState

DEFAULT_LABEL = "default"
SHOWN_STATES = (TrialState.COMPLETED, TrialState.FAILED, TrialState.RUNNING, TrialState.WAITING)


class Measured(Protocol):
    """A completed trial, whether read whole or by its metrics alone."""

    @property
    def number(self) -> int: ...
    @property
    def label(self) -> str | None: ...
    @property
    def values(self) -> Mapping[str, float]: ...


M = TypeVar("M", bound=Measured)


@dataclass(frozen=True)
class Goals:
    """What a study optimises, and within which limits."""

    objectives: tuple[Objective, ...]
    constraints: tuple[OutcomeConstraint, ...]

    @classmethod
    def of(cls, study: StudyRecord) -> Goals:
        return cls(
            tuple(Objective.parse(text) for text in study.objectives),
            tuple(OutcomeConstraint.parse(text) for text in study.constraints),
        )

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
        return self.is_usable(trial) and is_feasible(trial.values, self.constraints)

    def best(self, trials: Iterable[M]) -> M | None:
        """The feasible trial with the best first objective, the earliest of equal ones; None while there is none."""
        objective = self.first
        return min(
            (t for t in trials if self.is_feasible(t)),
            key=lambda t: (objective.sign * t.values[objective.metric], t.number),
            default=None,
        )

    def gain(self, trial: Measured | None, default: Measured | None) -> float | None:
        """Relative improvement of the first objective over the default, positive when better; None where undefined."""
        if trial is None or default is None or not (self.is_usable(trial) and self.is_usable(default)):
            return None
        return self.first.gain(trial.values[self.first.metric], default.values[self.first.metric])

    def pareto(self, trials: Iterable[M]) -> list[M]:
        """Feasible trials that no other feasible trial dominates."""
        good = [t for t in trials if self.is_feasible(t)]
        mask = pareto_mask([losses(t.values, self.objectives) for t in good]) if good else ()
        return [trial for trial, keep in zip(good, mask, strict=True) if keep]


def default_of(trials: Iterable[M]) -> M | None:
    """The first trial of the default configuration among these."""
    return next((t for t in trials if t.label == DEFAULT_LABEL), None)


@dataclass(frozen=True)
class StudyView:
    """One study with all of its trials, by number."""

    study: StudyRecord
    trials: tuple[TrialRecord, ...]

    @cached_property
    def goals(self) -> Goals:
        return Goals.of(self.study)

    @cached_property
    def completed(self) -> tuple[TrialRecord, ...]:
        return tuple(t for t in self.trials if t.state is TrialState.COMPLETED)

    @cached_property
    def feasible(self) -> tuple[TrialRecord, ...]:
        return tuple(t for t in self.completed if self.goals.is_feasible(t))

    @cached_property
    def infeasible(self) -> tuple[TrialRecord, ...]:
        """Completed trials that break an outcome constraint, or whose constrained metric is not known."""
        return tuple(t for t in self.completed if self.goals.is_usable(t) and not self.goals.is_feasible(t))

    @cached_property
    def unusable(self) -> tuple[TrialRecord, ...]:
        """Completed trials without a finite number for every objective."""
        return tuple(t for t in self.completed if not self.goals.is_usable(t))

    @cached_property
    def failed(self) -> tuple[TrialRecord, ...]:
        return tuple(t for t in self.trials if t.state is TrialState.FAILED)

    @cached_property
    def default(self) -> TrialRecord | None:
        """The trial of the default configuration, in whatever state; None before it was asked for."""
        return default_of(self.trials)

    @cached_property
    def baselines(self) -> Mapping[str, TrialRecord | None]:
        """The study's named configurations, each with its trial; two names of one configuration share a trial."""
        named: Mapping[str, Any] = self.study.options.get("baselines", {})
        return {name: next((t for t in self.trials if t.config == config), None) for name, config in named.items()}

    @cached_property
    def best(self) -> TrialRecord | None:
        return self.goals.best(self.completed)

    @cached_property
    def gain(self) -> float | None:
        return self.goals.gain(self.best, self.default)

    @cached_property
    def incumbents(self) -> tuple[TrialRecord, ...]:
        """The trials that were the best feasible one when they ended up in the history, by number."""
        objective = self.goals.first
        found: list[TrialRecord] = []
        for trial in self.feasible:
            loss = objective.sign * trial.values[objective.metric]
            if not found or loss < objective.sign * found[-1].values[objective.metric]:
                found.append(trial)
        return tuple(found)

    @cached_property
    def pareto(self) -> tuple[TrialRecord, ...]:
        return tuple(self.goals.pareto(self.completed))

    @cached_property
    def states(self) -> Mapping[TrialState, int]:
        """Trials by state, every state named."""
        counted = Counter(t.state for t in self.trials)
        return {state: counted[state] for state in TrialState}

    @cached_property
    def failures(self) -> Mapping[str, tuple[TrialRecord, ...]]:
        """Failed trials by kind, the most frequent kind first."""
        kinds: dict[str, list[TrialRecord]] = {}
        for trial in self.failed:
            kinds.setdefault(trial.failure_kind.value if trial.failure_kind else "unknown", []).append(trial)
        return {kind: tuple(found) for kind, found in sorted(kinds.items(), key=lambda item: -len(item[1]))}

    def metric_names(self, trials: Sequence[TrialRecord]) -> list[str]:
        """Metrics of these trials: objectives first, then constrained ones, then the others in stored order."""
        others = [name for trial in trials for name in trial.metrics]
        return list(dict.fromkeys([*self.goals.metrics, *others]))


def parameters(
    config: Mapping[str, Any], default: Mapping[str, Any]
) -> tuple[list[tuple[str, Any, Any]], list[tuple[str, Any, Any]]]:
    """Parameters as ``(name, default's value, value)``: those that differ, and those that do not.

    A parameter that is inactive in one of the two has None there.
    """
    names = [*default, *(name for name in config if name not in default)]
    rows = [(name, default.get(name), config.get(name)) for name in names]
    return [row for row in rows if row[1] != row[2]], [row for row in rows if row[1] == row[2]]
