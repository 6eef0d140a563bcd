"""What makes a study, checked before any database is opened: what cannot be used must leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autotune.checks import instance, mapping, positive, stored_name, texts, whole
from autotune.equipment import Equipment
from autotune.errors import UsageError
from autotune.goals import Goals
from autotune.objective import Objective, OutcomeConstraint, parse_constraints, parse_objectives
from autotune.pruning import Declared, Pruning
from autotune.space import Config, SearchSpace
from autotune.store.models import NAME_LENGTH
from autotune.store.records import DEFAULT_LABEL
from autotune.strategies import Source, Strategy, Task, resolve
from autotune.transfer import Transfer

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autotune.predictors import PredictorLike


_SHOWN = 6  # names, before a sentence gets too long


@dataclass(frozen=True)
class Definition:
    """A study that could be made. `space` has the default configuration among its anchors."""

    name: str
    space: SearchSpace
    goals: Goals
    default: Config
    baselines: Mapping[str, Config]
    strategy: type[Strategy]
    seed: int
    budget: int | None
    equipment: Equipment
    fidelities: tuple[str, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    pruning: Pruning = field(default_factory=Pruning)

    @classmethod
    def check(
        cls,
        name: str,
        space: SearchSpace,
        objectives: str | Objective | Iterable[str | Objective],
        constraints: str | OutcomeConstraint | Iterable[str | OutcomeConstraint],
        *,
        default: Mapping[str, Any] | None,
        baselines: Mapping[str, Mapping[str, Any]] | None,
        strategy: str | type[Strategy] | BaseSampler,
        seed: int,
        budget: int | None,
        strategy_options: Mapping[str, Any] | None = None,
        predictor: PredictorLike | None = None,
        transfer: Iterable[Transfer] = (),
        domain_map: Any = None,
        fidelities: Sequence[str] = (),
        costs: Mapping[str, float] | None = None,
        pruner: str | None = None,
        pruner_options: Mapping[str, Any] | None = None,
        declared: Declared | None = None,
    ) -> Definition:
        """Check everything that can be wrong with a study, that its strategy can handle it included.

        Raises:
            UsageError: for the first thing that cannot be used.
            EmptySpaceError: when no configuration is feasible.
        """
        instance("space", space, SearchSpace, "an autotune.SearchSpace")
        names = _fidelities(fidelities)
        start = space.default() if default is None else _feasible(space, default, "default")
        goals = Goals(parse_objectives(objectives), parse_constraints(constraints))
        chosen = resolve(strategy)
        equipment = Equipment.check(
            chosen, goals, options=strategy_options, predictor=predictor, transfer=transfer, domain_map=domain_map
        )
        for source in equipment.sources:
            _check_related(source, space, goals)
        definition = cls(
            name=stored_name("study name", name, NAME_LENGTH),
            space=space.with_anchors([start]),
            goals=goals,
            default=start,
            baselines={
                _label(label): _feasible(space, config, f"baseline {label!r}")
                for label, config in mapping("baselines", baselines or {}).items()
            },
            strategy=chosen,
            seed=whole("seed", seed, 0, 2**32 - 1),
            budget=None if budget is None else whole("budget", budget, 1),
            equipment=equipment,
            fidelities=names,
            costs=_costs(costs or {}, names),
            pruning=Pruning.check(goals, pruner, mapping("pruner_options", pruner_options or {}), declared),
        )
        definition.strategy(definition.task)
        return definition

    @property
    def task(self) -> Task:
        """What the strategy is given."""
        return self.equipment.task(
            self.space, self.goals, self.default, self.seed, self.budget, self.fidelities, self.costs
        )

    @property
    def stored_fidelities(self) -> dict[str, Any]:
        """What a study keeps of its fidelities among its options; nothing where it has one."""
        if not self.fidelities:
            return {}
        return {"fidelities": list(self.fidelities), **({"costs": dict(self.costs)} if self.costs else {})}


def _check_related(source: Source, space: SearchSpace, goals: Goals) -> None:
    """Refuse a source of which nothing can be learned."""
    ours, theirs = [p.name for p in space.parameters], [p.name for p in source.space.parameters]
    if not set(ours) & set(theirs):
        raise UsageError(
            f"transfer_from {source.name!r} shares no parameter with this search space: it has {_some(theirs)}, and not "
            f"{_some(ours)}; leave it out"
        )
    wanted = [o.metric for o in goals.objectives]
    measured = dict.fromkeys([o.metric for o in source.objectives] + [m for t in source.trials for m in t.metrics])
    if not measured.keys() & set(wanted):
        raise UsageError(
            f"transfer_from {source.name!r} measured no objective of this study: it has {_some(measured)}, and not "
            f"{_some(wanted)}; leave it out"
        )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")


def _feasible(space: SearchSpace, config: object, what: str) -> Config:
    given = dict(mapping(f"the {what} configuration", config))
    problems = space.explain(given)
    if problems:
        raise UsageError(f"the {what} configuration is not feasible: {problems[0]}")
    return space.validate(given)


def _fidelities(given: Sequence[str]) -> tuple[str, ...]:
    names = tuple(stored_name("fidelity", name, NAME_LENGTH) for name in texts("fidelities", given, str))
    if len(set(names)) != len(names):
        raise UsageError(f"fidelities name one twice: {', '.join(names)}")
    return names if len(names) > 1 else ()


def _costs(given: Mapping[str, float], fidelities: tuple[str, ...]) -> dict[str, float]:
    for name in mapping("costs", given):
        if name not in fidelities:
            known = f"known are: {', '.join(fidelities)}" if fidelities else "there is one evaluator, whose cost is 1"
            raise UsageError(f"costs name {name!r}, which is no fidelity of this search; {known}")
    return {name: positive(f"the cost of {name!r}", cost) for name, cost in given.items()}


def _label(name: object) -> str:
    if name == DEFAULT_LABEL:
        raise UsageError(f"baseline name {name!r} is the default configuration's; choose another")
    return stored_name("baseline name", name, NAME_LENGTH)
