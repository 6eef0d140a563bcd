"""Any of our strategies inside a plain Optuna study.

    space = SearchSpace([Ordinal("tp", [1, 2, 4, 8]), Int("batch", 1, 64)], constraints=["tp * batch <= 128"])
    study = optuna.create_study(sampler=StrategySampler(space, "local", seed=0))
    study.optimize(objective, n_trials=50)

The objective suggests what the space holds, by name. Each way of writing it that can hold the value is understood:
``suggest_categorical("tp", [1, 2, 4, 8])``, ``suggest_int("tp", 1, 8)``, or the place among the values as
``suggest_int("tp", 0, 3)``; ``suggest_categorical("on", [True, False])`` for a `Bool`; and ``suggest_float("budget[3]", 0, 1)``
for the fourth element of a vector. A conditional parameter is suggested only where it is active.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from autotune.equipment import settings_of
from autotune.errors import AutotuneError, SpaceExhaustedError, UsageError
from autotune.measurement import FailureKind, Metric
from autotune.objective import Objective
from autotune.space import Config, Ordinal, Parameter, SearchSpace
from autotune.store import TrialRecord, TrialState
from autotune.store.records import PRUNED_NOTE
from autotune.store.rows import dumps
from autotune.strategies import History, Strategy, Suggestion, Task, resolve
from autotune.strategies.unseen import unseen_random

if TYPE_CHECKING:
    from optuna.study import Study

_NOTE = "autotune"  # the trial's attribute that holds what was proposed, so that other processes and later runs see it


class StrategySampler(BaseSampler):  # type: ignore[misc]
    """Runs a strategy as an Optuna sampler.

    The first trial is the default configuration, as everywhere in autotune. Completed trials are learned from by their values,
    failed ones as crashes, pruned ones by what they reported last, running ones as pending, in studies that are resumed or
    shared between processes too. Where a strategy ends before the space does, random configurations follow; when every feasible
    configuration was proposed, `optimize` stops.

    Args:
        space: what the objective suggests.
        strategy: a name (see `autotune.STRATEGIES`) or a class.
        strategy_options: of the strategy, by name.
        seed: of the strategy; the same seed and the same trials propose the same.
        default: the first configuration; the space's own default when None.
        budget: trials that will be spent, for strategies that plan.
        domain_map: what the strategy ``fixed-point`` needs.

    Raises:
        UsageError: for an unknown strategy or option, or a default that is not feasible; later for a study with several
            objectives that the strategy cannot handle, and for a suggestion that does not fit the space.
    """

    def __init__(
        self,
        space: SearchSpace,
        strategy: str | type[Strategy] = "local",
        *,
        strategy_options: Mapping[str, Any] | None = None,
        seed: int = 0,
        default: Mapping[str, Any] | None = None,
        budget: int | None = None,
        domain_map: Any = None,
    ) -> None:
        self._strategy_type = resolve(strategy)
        self._settings = settings_of(self._strategy_type, strategy_options)
        start = space.default() if default is None else dict(default)
        broken = space.explain(start)
        if broken:
            raise UsageError(f"the default configuration is not feasible: {broken[0]}")
        self._start = space.validate(start)
        self._space = space.with_anchors([self._start])
        self._dims = {dim.name: dim for dim in self._space.dims}
        self._seed, self._budget, self._domain_map = seed, budget, domain_map
        self._task: Task | None = None
        self._strategy: Strategy | None = None
        self._proposed: dict[int, Config] = {}
        self._turn = threading.Lock()  # optimize(n_jobs=...) shares one sampler between threads

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Empty: how the objective will write a parameter is not known before it does (see `sample_independent`)."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Propose the whole configuration of a trial.

        Raises:
            SpaceExhaustedError: when there is none left; the trial is closed as failed.
        """
        with self._turn:
            try:
                suggestion = self._suggest(self._history(study, trial.number))
            except AutotuneError:
                study._storage.set_trial_state_values(trial._trial_id, OptunaState.FAIL)
                raise
            note = {"config": suggestion.config, "proposer": suggestion.proposer, "notes": suggestion.notes}
            study._storage.set_trial_system_attr(trial._trial_id, _NOTE, dumps(note))
            self._proposed[trial.number] = suggestion.config

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The proposed value of one parameter, in the form in which the objective suggests it.

        Raises:
            UsageError: for a name that the space does not hold, a parameter that is inactive, or a distribution that
                cannot hold the value.
        """
        if param_name not in self._dims:
            raise UsageError(
                f"parameter {param_name!r} is suggested but not in the space; known are: {', '.join(self._dims)}"
            )
        dim = self._dims[param_name]
        config = self._proposed[trial.number]
        if dim.parameter.name not in config:
            raise UsageError(
                f"parameter {param_name!r} is suggested where it is inactive; suggest it only when {dim.parameter.when}"
            )
        value = config[dim.parameter.name]
        return _written(param_name, dim.parameter, value if dim.index is None else value[dim.index], param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: OptunaState, values: Sequence[float] | None) -> None:
        """Stop `optimize` when every feasible configuration was proposed."""
        self._proposed.pop(trial.number, None)
        size = self._space.size
        if size is not None and size <= trial.number + 1:
            with self._turn:
                known = self._history(study).hashes
            if len(known) >= size:
                with contextlib.suppress(RuntimeError):  # raised outside of optimize, where nothing has to stop
                    study.stop()

    # How a study looks to a strategy

    def _suggest(self, history: History) -> Suggestion:
        if self._space.config_hash(self._start) not in history.hashes:
            return Suggestion(self._start, "default")
        if self._strategy is None:
            raise UsageError("the sampler was asked before it knew its study")
        found = self._strategy.propose(history, 1)
        if found:
            return found[0]
        rest = unseen_random(self._space, history.hashes, self._seed + len(history.trials))
        if rest is None:
            raise SpaceExhaustedError(
                f"every feasible configuration was proposed, after {len(history.trials)} trials; there is nothing left"
            )
        return Suggestion(rest, "random")

    def _history(self, study: Study, but: int | None = None) -> History:
        goals = tuple(
            Objective(f"value_{i}", "minimize" if d == optuna.study.StudyDirection.MINIMIZE else "maximize")
            for i, d in enumerate(study.directions)
        )
        if self._task is None or self._task.objectives != goals:
            self._task = Task(
                self._space, goals, (), self._start, self._seed, self._budget, self._domain_map, self._settings
            )
            self._strategy = self._strategy_type(self._task)
        records: list[TrialRecord] = []
        for trial in study.get_trials(deepcopy=False):
            record = self._record(trial, len(records), goals) if trial.number != but else None
            if record is not None:
                records.append(record)
        return History(self._task, tuple(records))

    def _record(self, trial: FrozenTrial, number: int, goals: Sequence[Objective]) -> TrialRecord | None:
        """A trial as the engine knows it; None where it is no configuration of the space (it was enqueued, say)."""
        config = self._config(trial)
        if config is None:
            return None
        note = _note(trial)
        values = trial.values if trial.state is OptunaState.COMPLETE else None
        state, failure, notes = TrialState.RUNNING, None, note.get("notes", {})
        if trial.state is OptunaState.PRUNED:
            state, notes = TrialState.PRUNED, {**notes, PRUNED_NOTE: _reported(trial, goals)}
        elif values is not None and all(map(math.isfinite, values)):
            state = TrialState.COMPLETED
        elif trial.state.is_finished():
            state, failure = TrialState.FAILED, FailureKind.CRASH if values is None else FailureKind.NAN
        measured = values if values is not None and state is TrialState.COMPLETED else []
        told = trial.datetime_complete
        return TrialRecord(
            id=number,
            number=number,
            config=config,
            config_hash=self._space.config_hash(config),
            state=state,
            proposer=note.get("proposer", "enqueued"),
            attempt=1,
            # Orders what was told, as the store's revisions do.
            revision=0 if told is None else int(told.timestamp() * 1e6),
            failure_kind=failure,
            metrics={g.metric: Metric(v) for g, v in zip(goals, measured, strict=False)},
            notes=notes,
            created_at=_utc(trial.datetime_start),
            finished_at=_utc(told),
        )

    def _config(self, trial: FrozenTrial) -> Config | None:
        """What a trial evaluated, or will where it has not suggested everything yet."""
        config: Config = dict(_note(trial).get("config", {}))
        given: dict[str, dict[int | None, Any]] = {}
        for name, value in trial.params.items():
            dim = self._dims.get(name)
            if dim is not None:
                read = _read(dim.parameter, value, trial.distributions[name])
                given.setdefault(dim.parameter.name, {})[dim.index] = read
        for name, elements in given.items():
            if None in elements:
                config[name] = elements[None]
            elif name in config or len(elements) == self._space[name].size:
                old = config.get(name, [None] * len(elements))
                config[name] = [elements.get(i, one) for i, one in enumerate(old)]
        try:
            return self._space.validate(config) if config or not self._space.parameters else None
        except UsageError:
            return None


def _note(trial: FrozenTrial) -> dict[str, Any]:
    text = trial.system_attrs.get(_NOTE)
    note: dict[str, Any] = json.loads(text) if text is not None else {}
    return note


def _reported(trial: FrozenTrial, goals: Sequence[Objective]) -> dict[str, Any]:
    """What is kept of a pruned trial: the last value that it reported of its one objective."""
    told = {step: value for step, value in trial.intermediate_values.items() if math.isfinite(value)}
    if not told or len(goals) > 1:
        return {}
    step = max(told)
    return {"step": step, "values": {goals[0].metric: told[step]}, "progress": goals[0].sign * told[step]}


def _utc(moment: dt.datetime | None) -> dt.datetime | None:
    return None if moment is None else moment.astimezone(dt.UTC)


def _by_place(parameter: Parameter, distribution: BaseDistribution) -> bool:
    """Whether an ordinal is suggested as the place among its values: an integer from 0 to n - 1."""
    return (
        isinstance(parameter, Ordinal)
        and isinstance(distribution, IntDistribution)
        and (distribution.low, distribution.high, distribution.step) == (0, len(parameter.values) - 1, 1)
    )


def _written(name: str, parameter: Parameter, value: Any, distribution: BaseDistribution) -> Any:
    """A value in the form of a distribution."""
    if isinstance(parameter, Ordinal) and _by_place(parameter, distribution):
        return parameter.values.index(value)
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
    elif isinstance(value, (int, float)) and distribution._contains(float(value)):
        return value
    raise UsageError(
        f"parameter {name!r} is suggested as {distribution}, which cannot hold {value!r}, a value of the space; suggest "
        f"the same values as the space has: {parameter}"
    )


def _read(parameter: Parameter, value: Any, distribution: BaseDistribution) -> Any:
    """The value that an objective's suggestion stands for."""
    if isinstance(parameter, Ordinal) and _by_place(parameter, distribution):
        return parameter.values[int(value)]
    return value
