"""A study as pages, pictures and reports show it: all that follows from its stored records, each computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from autotune.goals import Goals
from autotune.store import StudyRecord, TrialRecord, TrialState
from autotune.store.reading import Reading
from autotune.store.records import DEFAULT_LABEL

SHOWN_STATES = (TrialState.COMPLETED, TrialState.FAILED, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)


class Details(Protocol):
    """Where more of single trials is read; a `Store` is one."""

    def samples(self, trial_id: int) -> Mapping[str, Sequence[float]]: ...

    def reports_of(self, trial_ids: Sequence[int]) -> Mapping[int, Sequence[tuple[int, str, float]]]: ...


@dataclass(frozen=True)
class StudyView:
    """One study with all of its trials, by number.

    What is charted and ranked are trials of the fidelity that counts; `cheaper` holds the others. Best, Pareto front and
    incumbents take replicates of a configuration as one; every replicate is a trial of its own elsewhere.

    Attributes:
        study, trials: as the store had them at one moment.
        store: where samples and reports of single trials are read from; None where there are none.
    """

    study: StudyRecord
    trials: tuple[TrialRecord, ...]
    store: Details | None = field(default=None, compare=False)

    @classmethod
    def read(cls, store: Reading, name: str) -> StudyView:
        """The study of that name as it is now.

        Raises:
            UsageError: naming the studies that exist.
            StoreError: when the store cannot be read.
        """
        study = store.load_study(name)
        return cls(study, tuple(store.trials(study.id)), store)

    @cached_property
    def goals(self) -> Goals:
        return self.study.goals

    @cached_property
    def counted(self) -> tuple[TrialRecord, ...]:
        """Trials of the fidelity that counts; all of them, in most studies."""
        return tuple(t for t in self.trials if t.counts)

    @cached_property
    def cheaper(self) -> Mapping[str, tuple[TrialRecord, ...]]:
        """The other trials, by fidelity, from the cheapest on."""
        names = self.study.fidelities[:-1]
        return {name: found for name in names if (found := tuple(t for t in self.trials if t.fidelity == name))}

    @cached_property
    def completed(self) -> tuple[TrialRecord, ...]:
        return tuple(t for t in self.counted if t.state is TrialState.COMPLETED)

    @cached_property
    def merged(self) -> tuple[TrialRecord, ...]:
        """Completed trials with replicates as one, by their first trial."""
        return tuple(self.goals.merge(self.completed))

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
        return tuple(t for t in self.counted if t.state is TrialState.FAILED)

    @cached_property
    def pruned(self) -> tuple[TrialRecord, ...]:
        """Trials that were ended early: neither ranked nor failed."""
        return tuple(t for t in self.counted if t.state is TrialState.PRUNED)

    @cached_property
    def default(self) -> TrialRecord | None:
        """The trial of the default configuration, in whatever state; None before it was asked for."""
        return self._found(next((t for t in self.counted if t.label == DEFAULT_LABEL), None))

    @cached_property
    def baselines(self) -> Mapping[str, TrialRecord | None]:
        """The study's named configurations, each with its trial; two names of one configuration share a trial."""
        named: Mapping[str, Any] = self.study.options.get("baselines", {})
        return {
            name: self._found(next((t for t in self.counted if t.config == config), None))
            for name, config in named.items()
        }

    def _found(self, trial: TrialRecord | None) -> TrialRecord | None:
        """A trial's configuration as it is ranked where it was measured; else the trial itself."""
        return next((t for t in self.merged if trial is not None and t.config_hash == trial.config_hash), trial)

    @cached_property
    def best(self) -> TrialRecord | None:
        return self.goals.best(self.merged)

    @cached_property
    def gain(self) -> float | None:
        return self.goals.gain(self.best, self.default)

    @cached_property
    def incumbents(self) -> tuple[TrialRecord, ...]:
        """The trials that were the best feasible one when they ended up in the history, by number.

        Replicates are seen as they are known today, so that the last of these is the best.
        """
        objective = self.goals.first
        found: list[TrialRecord] = []
        for trial in filter(self.goals.is_feasible, self.merged):
            loss = objective.sign * trial.values[objective.metric]
            if not found or loss < objective.sign * found[-1].values[objective.metric]:
                found.append(trial)
        return tuple(found)

    @cached_property
    def pareto(self) -> tuple[TrialRecord, ...]:
        return tuple(self.goals.pareto(self.merged))

    @cached_property
    def states(self) -> Mapping[TrialState, int]:
        """Trials by state, every state named."""
        counted = Counter(t.state for t in self.counted)
        return {state: counted[state] for state in TrialState}

    @cached_property
    def failures(self) -> Mapping[str, tuple[TrialRecord, ...]]:
        """Failed trials by kind, the most frequent kind first."""
        kinds: dict[str, list[TrialRecord]] = {}
        for trial in self.failed:
            kinds.setdefault(trial.failure_kind.value if trial.failure_kind else "unknown", []).append(trial)
        return {kind: tuple(found) for kind, found in sorted(kinds.items(), key=lambda item: -len(item[1]))}

    def remark(self, trial: TrialRecord | None) -> str:
        """What a table says of a named configuration that is no plain feasible measurement; empty of one that is."""
        if trial is None:
            return "not measured yet"
        if trial.state is TrialState.FAILED:
            return f"failed: {trial.failure_kind}"
        if trial.state is not TrialState.COMPLETED:
            return trial.state.value
        values = trial.values
        broken = [c for c in self.goals.constraints if c.violation(values) > 0]
        return "breaks " + ", ".join(map(str, broken)) if broken else ""

    def metric_names(self, trials: Sequence[TrialRecord]) -> list[str]:
        """Metrics of these trials: objectives, constrained ones, those that the domain highlights, then the others."""
        measured = list(dict.fromkeys(name for trial in trials for name in trial.metrics))
        highlights = [name for name in self.study.options.get("highlights", ()) if name in measured]
        return list(dict.fromkeys([*self.goals.metrics, *highlights, *measured]))


def parameters(
    config: Mapping[str, Any], default: Mapping[str, Any]
) -> tuple[list[tuple[str, Any, Any]], list[tuple[str, Any, Any]]]:
    """Parameters as ``(name, default's value, value)``: those that differ, and those that do not.

    A parameter that is inactive in one of the two has None there.
    """
    names = [*default, *(name for name in config if name not in default)]
    rows = [(name, default.get(name), config.get(name)) for name in names]
    return [row for row in rows if row[1] != row[2]], [row for row in rows if row[1] == row[2]]
