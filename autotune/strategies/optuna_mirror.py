"""An Optuna study that mirrors a history, so that any Optuna sampler can be asked what it wishes for next.

Optuna sees a study of the trials that count, numbered in their order, holding only feasible configurations: what a sampler
wishes for is repaired to the nearest feasible configuration, or drawn again when it was proposed before. A failure to learn
from is told as a constraint that is broken, at the worst loss seen, instead of being ignored. A pruned trial is a pruned one
there, with its last progress as an intermediate value.
"""

from __future__ import annotations

import bisect
import copy
import functools
import logging
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from autotune.measurement import FailureKind
from autotune.objective import losses
from autotune.space import Config
from autotune.store.records import TrialRecord, TrialState
from autotune.strategies.base import History, Task
from autotune.strategies.optuna_space import distributions, flatten, unflatten
from autotune.strategies.sobol import SobolPoint
from autotune.strategies.unseen import feasible_draw

_NOWHERE = -1  # the number of a trial that is in no storage
_READ = 20_000  # trials that the draws of one proposal may read in all; each draw reads every trial

SamplerFactory = Callable[[int], BaseSampler]


class _Storage(optuna.storages.InMemoryStorage):  # type: ignore[misc]
    """Optuna's storage, which overlooks what a sampler notes on a trial that is a mere wish (see `_draw`)."""

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if trial_id != _NOWHERE:
            super().set_trial_system_attr(trial_id, key, value)

    def set_params(self, trial_id: int, values: Mapping[str, Any], distributions: Mapping[str, Any]) -> None:
        """All parameters of a trial at once; Optuna's own copies the trial for each."""
        trial = copy.copy(self._get_trial(trial_id))
        trial.params = dict(values)
        trial.distributions = {key: distributions[key] for key in values}
        self._set_trial(trial_id, trial)

    def forget_notes(self, trial_id: int) -> None:
        """Remove what a sampler noted on a trial."""
        trial = copy.copy(self._get_trial(trial_id))
        trial.system_attrs = {}
        self._set_trial(trial_id, trial)


class Mirror:
    """One sampler and its study.

    Args:
        task: to propose for.
        name: of the strategy that the sampler is, as trials name their proposer.
        make: the sampler of a seed.
        remembers: whether it keeps notes in trials or studies, and so has to see its own asks again when a study is rebuilt.
        redraws: how often to draw again what was proposed before.
    """

    def __init__(self, task: Task, name: str, make: SamplerFactory, *, remembers: bool, redraws: int) -> None:
        self._task, self._name, self._make = task, name, make
        self._remembers, self._redraws = remembers, redraws
        self._distributions = distributions(task.space)
        self._flagged = False  # whether trials carry the constraint that stands for failures
        self._reset()

    def _reset(self) -> None:
        with _quiet():
            self._study = optuna.create_study(
                directions=["minimize"] * len(self._task.objectives),
                sampler=self._make(self._task.seed & 0x7FFFFFFF),
                storage=_Storage(),
            )
        self._storage = self._study._storage
        # Of a history: revisions of what completed, in order, and the worst loss by objective up to each.
        self._worst: tuple[History | None, list[int], list[tuple[float, ...]]] = (None, [], [])
        self._told: list[tuple[str, bool]] = []  # by place: configuration's hash, and whether it is finished
        self._last: TrialRecord | None = None  # of those that are settled
        self._settled = 0  # so many trials from the first on are finished and told

    def propose(self, history: History, n: int) -> list[Config]:
        """Up to `n` feasible configurations that are not in the history."""
        taken = set(history.hashes)
        found: list[Config] = []
        with _quiet():
            self._sync(history)
            for i in range(n):
                number = len(history.counted) + i
                seed = self._seed(number)
                config = feasible_draw(
                    self._task.space,
                    functools.partial(self._draw, number),
                    taken,
                    redraws=0 if self._remembers else min(self._redraws, _READ // (number + 1)),
                    seed=seed,
                )
                if config is None:
                    break
                taken.add(self._task.space.config_hash(config))
                found.append(config)
        return found

    def _seed(self, number: int, attempt: int = 0) -> int:
        return (self._task.seed * 1_000_003 + number * 9_176 + attempt * 77) & 0x7FFFFFFF

    def _sampler(self, number: int, attempt: int) -> BaseSampler:
        """A sampler for one wish, seeded by the trial's number so that earlier wishes leave no trace."""
        return self._make(self._seed(number, attempt))

    def _draw(self, number: int, attempt: int) -> dict[str, Any]:
        """What the sampler wishes for as trial `number`; every parameter, also those that will be inactive."""
        sampler = self._sampler(number, attempt)
        self._study.sampler = sampler
        # Optuna keeps the trials that it read until its own ask or tell is called, which never happens here.
        self._study._thread_local.cached_all_trials = None
        if self._remembers:
            trial_id = self._ask(number)
            self._storage.forget_notes(trial_id)  # of a wish that did not become a trial
            frozen = self._storage.get_trial(trial_id)
        else:
            # A trial that exists nowhere: such samplers only read, and a wish that is thrown away leaves no trace.
            frozen = FrozenTrial(
                number=number, state=OptunaState.RUNNING, value=None, datetime_start=None, datetime_complete=None,
                params={}, distributions={}, user_attrs={}, system_attrs={}, intermediate_values={}, trial_id=_NOWHERE,
            )  # fmt: skip
        if attempt == 0:
            self._relative = sampler.infer_relative_search_space(self._study, frozen)  # looks at every trial
        relative = self._relative
        flat = sampler.sample_relative(self._study, frozen, relative)
        for key, distribution in self._distributions.items():
            if key not in flat:
                flat[key] = sampler.sample_independent(self._study, frozen, key, distribution)
        return unflatten(self._task.space, flat)

    def _ask(self, number: int) -> int:
        """Optuna's trial for our number, created when it is new."""
        while len(self._told) <= number:
            self._storage.create_new_trial(self._study._study_id)
            self._told.append(("", False))
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number))

    def _sync(self, history: History) -> None:
        """Bring Optuna's study to the history; rebuilt from the start where it holds something else."""
        if bool(history.failed) != self._flagged:
            # A model of failures costs as much as one of the objective, so there is none before the first failure.
            self._flagged = not self._flagged
            self._reset()
        counted = history.counted
        if len(counted) < self._settled or (self._settled and counted[self._settled - 1] is not self._last):
            self._settled = 0  # another reading of the study, which is compared trial by trial
        for number in range(self._settled, min(len(counted), len(self._told))):
            told, finished = self._told[number]
            if told not in ("", counted[number].config_hash) or (finished and not _is_finished(counted[number])):
                self._reset()
                break
        for number, trial in enumerate(counted[self._settled :], self._settled):
            if self._remembers and number >= len(self._told) and trial.proposer == self._name:
                # So that the sampler notes what it noted the first time, knowing what it knew then.
                for before, earlier in enumerate(counted[:number]):
                    if _is_finished(earlier) and _known_at(earlier, trial):
                        self._tell(before, earlier, history)
                self._draw(number, 0)
        for number, trial in enumerate(counted[self._settled :], self._settled):
            self._tell(number, trial, history)
        while self._settled < len(counted) and self._told[self._settled][1]:
            self._last = counted[self._settled]
            self._settled += 1

    def _tell(self, number: int, trial: TrialRecord, history: History) -> None:
        if number < len(self._told) and self._told[number][1]:
            return
        trial_id = self._ask(number)
        if not self._told[number][0]:
            self._storage.set_params(trial_id, flatten(self._task.space, trial.config), self._distributions)
        finished = _is_finished(trial)
        if finished:
            state, values, violations = self._outcome(trial, history)
            for name, violation in violations.items():
                self._storage.set_trial_system_attr(trial_id, f"constraints:{name}", violation)
            if state is OptunaState.PRUNED:
                self._set_progress(trial_id, trial)
            if state is OptunaState.COMPLETE:
                self._study.sampler.after_trial(self._study, self._storage.get_trial(trial_id), state, values)
            self._storage.set_trial_state_values(trial_id, state, values)
        self._told[number] = (trial.config_hash, finished)

    def _set_progress(self, trial_id: int, trial: TrialRecord) -> None:
        step, loss = trial.reported_step, trial.reported_progress
        # Optuna compares pruned trials of several objectives by nothing, and fails where they have values.
        if step is not None and loss is not None and len(self._task.objectives) == 1:
            self._storage.set_trial_intermediate_value(trial_id, step, loss)

    def _outcome(
        self, trial: TrialRecord, history: History
    ) -> tuple[OptunaState, list[float] | None, dict[str, float]]:
        limits = {str(c): c for c in self._task.constraints}
        if trial.state is TrialState.COMPLETED:
            values = [_bounded(v) for v in losses(trial.values, self._task.objectives)]
            broken = {name: _bounded(limit.violation(trial.values)) for name, limit in limits.items()}
            return OptunaState.COMPLETE, values, broken | self._unflagged
        if trial.state is TrialState.PRUNED:
            least = {name: limit for name, limit in limits.items() if limit.metric in trial.reported_at_least}
            broken = {name: _bounded(limit.violation(trial.reported_at_least)) for name, limit in least.items()}
            return OptunaState.PRUNED, None, dict.fromkeys(limits, 0.0) | broken | self._unflagged
        worst = None if trial.failure_kind is FailureKind.INFRA else self._worst_before(trial, history)
        if worst is None:
            return OptunaState.FAIL, None, {}
        return OptunaState.COMPLETE, worst, dict.fromkeys(limits, 1.0) | {"failure": 1.0}

    @property
    def _unflagged(self) -> dict[str, float]:
        """The constraint that stands for failures, kept."""
        return {"failure": 0.0} if self._flagged else {}

    def _worst_before(self, trial: TrialRecord, history: History) -> list[float] | None:
        """The worst loss by objective of what completed before the trial was told, None where nothing did."""
        if self._worst[0] is not history:
            told = sorted(history.completed, key=lambda t: t.revision)
            worst: list[tuple[float, ...]] = []
            for one in told:
                loss = losses(one.values, self._task.objectives)
                worst.append(tuple(map(max, loss, worst[-1])) if worst else tuple(loss))
            self._worst = (history, [t.revision for t in told], worst)
        _, revisions, worst = self._worst
        place = bisect.bisect_left(revisions, trial.revision)
        return [_bounded(x) for x in worst[place - 1]] if place else None


def _known_at(trial: TrialRecord, other: TrialRecord) -> bool:
    """Whether `trial` was told when `other` was asked for."""
    return trial.finished_at is not None and other.created_at is not None and trial.finished_at <= other.created_at


def _is_finished(trial: TrialRecord) -> bool:
    return trial.state in (TrialState.COMPLETED, TrialState.FAILED, TrialState.PRUNED)


def _bounded(value: float) -> float:
    """Samplers compute with these numbers, and infinities make them NaN."""
    return math.copysign(1e300, value) if math.isinf(value) else value


class _quiet:
    """Optuna logs every study and warns of its experimental parts; neither is our user's business."""

    def __enter__(self) -> None:
        self._level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(logging.ERROR)
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *exc: object) -> None:
        self._caught.__exit__(None, None, None)
        optuna.logging.set_verbosity(self._level)


class SobolMirror(Mirror):
    """Every trial has its place in one sequence, the first after the default; what is taken or infeasible moves on."""

    def _sampler(self, number: int, attempt: int) -> BaseSampler:
        return SobolPoint(self._distributions, self._task.seed & 0x7FFFFFFF, max(0, number - 1) + attempt)
