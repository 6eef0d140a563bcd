"""What a search algorithm is: a function from an immutable history to proposals."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from autotune.errors import UsageError
from autotune.goals import Goals
from autotune.measurement import FailureKind
from autotune.objective import Objective, OutcomeConstraint
from autotune.predictors import Predictor
from autotune.space import Config, SearchSpace
from autotune.store.records import TrialRecord, TrialState


class Settings(BaseModel):
    """What a user may set of a strategy; a strategy that has settings derives its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Source:
    """An earlier study that a search may learn from: the same problem on another GPU, or of another model.

    Attributes:
        space: its own; parameters correspond by name, and values where both spaces have them.
        objectives: its own; only metrics that this study optimises too say anything.
        trials: the finished ones.
    """

    name: str
    space: SearchSpace
    objectives: tuple[Objective, ...]
    trials: tuple[TrialRecord, ...]


@dataclass(frozen=True)
class Task:
    """What a strategy is asked to solve: all that stays the same while a study runs.

    Attributes:
        default: the configuration that people use today; always trial 0.
        budget: trials that the search is expected to spend, None where it is open-ended.
        domain_map: what the domain gives to the strategy `fixed-point`, None where it gives nothing.
        settings: of the strategy; its defaults where None.
        predictor: a cheap model of the metrics, to be trusted as far as measurements bear it out.
        sources: earlier studies to learn from.
        fidelities: names of the evaluators from the cheapest to the one whose results count; empty where there is one.
        costs: relative cost of an evaluation by fidelity, where it is known beforehand (1 for the one whose results count,
            unless it is given); else it is what trials took.
    """

    space: SearchSpace
    objectives: tuple[Objective, ...]
    constraints: tuple[OutcomeConstraint, ...]
    default: Config
    seed: int
    budget: int | None = None
    domain_map: Any = None
    settings: Settings | None = None
    predictor: Predictor | None = None
    sources: tuple[Source, ...] = ()
    fidelities: tuple[str, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def goals(self) -> Goals:
        """What to optimise, and within which limits."""
        return Goals(self.objectives, self.constraints)

    def cheaper(self, fidelity: str | None) -> str | None:
        """A fidelity as trials carry it: the name of a cheaper one, None for the one whose results count.

        Raises:
            UsageError: for a name that is none of this task's fidelities.
        """
        if fidelity is None or (self.fidelities and fidelity == self.fidelities[-1]):
            return None
        if fidelity not in self.fidelities:
            known = f"it has: {', '.join(self.fidelities)}" if self.fidelities else "it has one evaluator"
            raise UsageError(f"fidelity {fidelity!r} is unknown in this study; {known}")
        return fidelity


@dataclass(frozen=True)
class History:
    """Every trial of a study so far, by number. Immutable: a strategy may keep it and compare.

    Everything but `trials` looks at one fidelity, the one whose results count, so that a strategy may know nothing of
    fidelities; `at` gives the others. What ranks trials takes replicates of a configuration as one (`Goals.merge`).

    Attributes:
        fidelity: which is looked at, as trials carry it: None for the one whose results count.
    """

    task: Task
    trials: tuple[TrialRecord, ...] = ()
    fidelity: str | None = None

    def at(self, fidelity: str | None) -> History:
        """The trials of one fidelity alone, looked at.

        Raises:
            UsageError: for a name that is none of the task's fidelities.
        """
        name = self.task.cheaper(fidelity)
        return History(self.task, tuple(t for t in self.trials if t.fidelity == name), name)

    def seconds(self, fidelity: str | None) -> float | None:
        """Mean seconds of an evaluation at that fidelity, failed ones among them; None while none was timed."""
        name = self.task.cheaper(fidelity)
        taken = [t.evaluate_s for t in self.trials if t.fidelity == name and t.evaluate_s is not None]
        return math.fsum(taken) / len(taken) if taken else None

    def cost(self, fidelity: str | None) -> float | None:
        """Cost of an evaluation relative to one whose result counts: as declared, else as `seconds` says.

        None while nothing is known of it.
        """
        name = self.task.cheaper(fidelity)
        if name is None:
            return 1.0
        if name in self.task.costs:
            return self.task.costs[name] / self.task.costs.get(self.task.fidelities[-1], 1.0)
        cheap, full = self.seconds(name), self.seconds(None)
        return cheap / full if cheap is not None and full else None

    @cached_property
    def counted(self) -> tuple[TrialRecord, ...]:
        """The trials of the fidelity that is looked at, in whatever state."""
        return tuple(t for t in self.trials if t.fidelity == self.fidelity)

    @cached_property
    def completed(self) -> tuple[TrialRecord, ...]:
        """Every measured trial; replicates are trials of their own here."""
        return tuple(t for t in self.counted if t.state is TrialState.COMPLETED)

    @cached_property
    def failed(self) -> tuple[TrialRecord, ...]:
        """Failures to learn from: all but those of the machine (`infra`)."""
        return tuple(
            t for t in self.counted if t.state is TrialState.FAILED and t.failure_kind is not FailureKind.INFRA
        )

    @cached_property
    def pruned(self) -> tuple[TrialRecord, ...]:
        """Trials that were ended early: finished, without a measurement, and no failures. See `autotune.pruning`."""
        return tuple(t for t in self.counted if t.state is TrialState.PRUNED)

    @cached_property
    def pending(self) -> tuple[TrialRecord, ...]:
        return tuple(t for t in self.counted if t.state in (TrialState.RUNNING, TrialState.WAITING))

    @cached_property
    def hashes(self) -> frozenset[str]:
        """Canonical hashes of everything proposed so far; none of these is proposed again, but as a replicate."""
        return frozenset(t.config_hash for t in self.counted)

    @cached_property
    def merged(self) -> tuple[TrialRecord, ...]:
        """What was measured, replicates as one: a record for each configuration, by its first completed trial."""
        return tuple(self.task.goals.merge(self.completed))

    @cached_property
    def ranked(self) -> tuple[TrialRecord, ...]:
        """What was measured by rank on the first objective: feasible ones by loss, then the others by violation."""
        return tuple(sorted(self.merged, key=self.task.goals.rank))

    @cached_property
    def best(self) -> TrialRecord | None:
        """The best feasible configuration on the first objective, None while there is none."""
        return self.task.goals.best(self.merged)

    @cached_property
    def pareto(self) -> tuple[TrialRecord, ...]:
        """Feasible configurations that no other feasible one dominates, by number."""
        return tuple(self.task.goals.pareto(self.merged))

    def find(self, config: Mapping[str, Any]) -> TrialRecord | None:
        """That configuration as it is ranked where it was measured; else its first trial, None without one."""
        wanted = self.task.space.config_hash(dict(config))
        same = (t for trials in (self.merged, self.counted) for t in trials if t.config_hash == wanted)
        return next(same, None)

    def gain(self, trial: TrialRecord | None) -> float | None:
        """Relative improvement of a completed trial over the default on the first objective, positive when better."""
        return self.task.goals.gain(trial, self.find(self.task.default))

    def losses(self, trial: TrialRecord) -> tuple[float, ...]:
        """The trial's objectives as numbers to minimise."""
        return self.task.goals.losses(trial)

    def is_feasible(self, trial: TrialRecord) -> bool:
        """Whether a completed trial keeps every outcome constraint."""
        return self.task.goals.is_feasible(trial)

    def rng(self, salt: int = 0) -> np.random.Generator:
        """A generator that depends on the study's seed and on how far it is: the same history proposes the same."""
        return np.random.default_rng([self.task.seed & 0xFFFFFFFF, len(self.counted), salt])


@dataclass(frozen=True)
class Suggestion:
    """A proposed configuration; `proposer` says who in a portfolio had the idea, `notes` why.

    Attributes:
        fidelity: the evaluator to use, of the task's `fidelities`; None for the one whose results count.
        replicate: whether to measure again a configuration that was measured at that fidelity before.
    """

    config: Config
    proposer: str
    notes: Mapping[str, Any] = field(default_factory=dict)
    fidelity: str | None = None
    replicate: bool = False


@dataclass(frozen=True)
class Capabilities:
    """What a strategy can handle, and what it makes use of. A task that needs more is refused with a sentence.

    Attributes:
        predictor, transfer, fidelities: whether it looks at a task's `predictor`, `sources` and cheaper `fidelities`.
    """

    several_objectives: bool = False
    constraints: bool = True
    conditions: bool = True
    infinite_spaces: bool = True
    predictor: bool = False
    transfer: bool = False
    fidelities: bool = False


class Strategy(abc.ABC):
    """One search algorithm, bound to one task.

    Subclasses set `name`, `summary` and `capabilities`, and implement `propose`; those with options set `settings_type`.
    They may keep caches, but what they propose depends on the history and the task alone.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()
    settings_type: ClassVar[type[Settings]] = Settings

    def __init__(self, task: Task) -> None:
        self.task = task
        if task.settings is not None and not isinstance(task.settings, self.settings_type):
            raise UsageError(
                f"strategy {self.name!r} takes settings of the type {self.settings_type.__name__}, not "
                f"{type(task.settings).__name__}; make them with {self.settings_type.__name__}(...)"
            )
        lacks = lacking(self.capabilities, task)
        if lacks:
            raise UsageError(f"strategy {self.name!r} cannot handle {lacks}; choose another, such as tpe or random")

    @property
    def settings(self) -> Settings:
        """What the user set, an object of `settings_type`; its defaults where the task has none."""
        return self.settings_type() if self.task.settings is None else self.task.settings

    @abc.abstractmethod
    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        """Up to `n` feasible configurations that are not in the history, pending ones included.

        Fewer than `n` is allowed; none means that this strategy has nothing left to propose.
        """

    def suggestion(self, config: Config, **notes: Any) -> Suggestion:
        """A proposal in this strategy's name."""
        return Suggestion(config, self.name, notes)


def lacking(has: Capabilities, task: Task) -> str | None:
    """What a task needs that a strategy does not have, in words; None where it can be handled."""
    if len(task.objectives) > 1 and not has.several_objectives:
        return f"several objectives (this study has {len(task.objectives)})"
    if task.constraints and not has.constraints:
        return "outcome constraints"
    if not has.conditions and any(p.when is not None for p in task.space.parameters):
        return "conditional parameters"
    if not has.infinite_spaces and not task.space.is_finite:
        return "a space with infinitely many configurations"
    return None
