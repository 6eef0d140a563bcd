"""Studies in Optuna's terms, so that optuna-dashboard and Optuna's plots open them; and one copied into an Optuna storage."""

from __future__ import annotations

import datetime as dt
import json
import math
import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models as rdb
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from sqlalchemy.orm import Session

from autotune.errors import UsageError
from autotune.store import TrialRecord, TrialState
from autotune.strategies.optuna_space import distributions, flatten
from autotune.study import Study

CONSTRAINTS = "constraints"  # where Optuna, and optuna-dashboard, look for violations: feasible is 0 or below
_STATES = {
    TrialState.WAITING: OptunaState.WAITING,
    TrialState.RUNNING: OptunaState.RUNNING,
    TrialState.COMPLETED: OptunaState.COMPLETE,
    TrialState.FAILED: OptunaState.FAIL,
    TrialState.PRUNED: OptunaState.PRUNED,
}
_MOST = 1e300  # in place of an infinite violation, which JSON cannot hold
_TRIALS_AT_ONCE = 1000  # so that memory does not grow with a study
_ROWS_AT_ONCE = 5000

Reports = Iterable[tuple[int, str, float]]


class InOptunaTerms:
    """Trials of one study as Optuna's.

    Vectors are one parameter for each element, ``budget[3]``; an ordinal is the place of its value. Other metrics than the
    objectives, and failures, become user attributes; outcome constraints become Optuna's. Reports of the metric that trials
    are compared by (the first objective where none is declared) become intermediate values, and a pruned trial is a pruned
    one, with why and what it reported last as attributes. Trials of cheaper fidelities are pruned ones there too, which
    Optuna does not rank, with all that they measured as attributes. A completed trial without a number for an objective,
    which only another program can have written, is a failed one.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._space = study.space
        self._known = distributions(study.space)
        self._goals = study.record.goals
        self._objectives = [o.metric for o in study.objectives]
        self._progress = study.referee.pruning.scene(self._goals).progress.metric

    @property
    def directions(self) -> list[str]:
        return [o.direction for o in self._study.objectives]

    def trial(self, trial: TrialRecord, reports: Reports = (), number: int | None = None) -> FrozenTrial:
        """One trial, with its own number unless another is given, and its own key."""
        completed = trial.state is TrialState.COMPLETED
        ranked = completed and trial.counts and self._goals.is_usable(trial)
        params = flatten(self._space, trial.config)
        return FrozenTrial(
            number=trial.number if number is None else number,
            state=self._state(trial, ranked=ranked),
            value=None,
            values=[trial.values[name] for name in self._objectives] if ranked else None,
            datetime_start=_local(trial.created_at),
            datetime_complete=_local(trial.finished_at),
            params=params,
            distributions={name: self._known[name] for name in params},
            user_attrs=self._attributes(trial, ranked=ranked),
            system_attrs=self._limits(trial) if ranked else {},
            intermediate_values={step: value for step, metric, value in reports if metric == self._progress},
            trial_id=trial.id,
        )

    def _state(self, trial: TrialRecord, *, ranked: bool) -> OptunaState:
        if trial.state is TrialState.COMPLETED and not ranked:
            return OptunaState.FAIL if trial.counts else OptunaState.PRUNED
        return _STATES[trial.state]

    def _attributes(self, trial: TrialRecord, *, ranked: bool) -> dict[str, Any]:
        found: dict[str, Any] = {k: v for k, v in trial.values.items() if not (ranked and k in self._objectives)}
        found |= {"number": trial.number, "proposer": trial.proposer, "label": trial.label}
        if self._study.record.fidelities:
            found["fidelity"] = self._study.record.evaluator_of(trial)
        if trial.failure_kind is not None:
            found |= {"failure_kind": trial.failure_kind.value, "failure_message": trial.failure_message}
        elif trial.state is TrialState.COMPLETED and trial.counts and not ranked:
            missing = [name for name in self._objectives if not math.isfinite(trial.values.get(name, math.nan))]
            found |= {"failure_kind": "nan", "failure_message": f"no finite number for {', '.join(missing)}"}
        if trial.state is TrialState.PRUNED:
            found |= {"pruned": trial.failure_message, **{f"reported.{k}": v for k, v in trial.reported.items()}}
        return found

    def _limits(self, trial: TrialRecord) -> dict[str, Any]:
        """By name as Optuna reads them, and as a list, which is what optuna-dashboard shows."""
        limits = {str(limit): min(limit.violation(trial.values), _MOST) for limit in self._study.constraints}
        named = {f"{CONSTRAINTS}:{name}": violation for name, violation in limits.items()}
        return {CONSTRAINTS: list(limits.values()), **named} if limits else {}


def export_study(study: Study, url: str) -> int:
    """Write every finished trial of `study` to the Optuna storage at `url`; returns how many. See `InOptunaTerms`.

    Raises:
        UsageError: when the storage cannot be opened or holds a study of that name already.
    """
    terms = InOptunaTerms(study)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = RDBStorage(url)
        copy = optuna.create_study(storage=storage, study_name=study.name, directions=terms.directions)
    except optuna.exceptions.DuplicatedStudyError:
        raise UsageError(f"--out {url}: it holds a study {study.name!r} already; name another storage") from None
    except Exception as error:  # whatever the database's driver raises
        raise UsageError(f"--out {url}: no Optuna storage can be opened there: {str(error).splitlines()[0]}") from None
    finally:
        optuna.logging.set_verbosity(verbosity)
    finished = [t for t in study.trials if t.state in (TrialState.COMPLETED, TrialState.FAILED, TrialState.PRUNED)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            copy.set_metric_names([o.metric for o in study.objectives])
        with Session(storage.engine) as session, session.begin():
            for first in range(0, len(finished), _TRIALS_AT_ONCE):
                some = finished[first : first + _TRIALS_AT_ONCE]
                reports = study.store.reports_of([t.id for t in some])
                made = [terms.trial(t, reports.get(t.id, ()), first + i) for i, t in enumerate(some)]
                _insert(session, copy._study_id, made)
    except BaseException:
        storage.delete_study(copy._study_id)
        raise
    finally:
        storage.remove_session()
        storage.engine.dispose()
    return len(finished)


def _insert(session: Session, study_id: int, trials: Sequence[FrozenTrial]) -> None:
    """Write finished trials into Optuna's tables, many rows at once: its own way reads before it writes each attribute."""
    made = [
        rdb.TrialModel(
            study_id=study_id,
            number=trial.number,
            state=trial.state,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
        )
        for trial in trials
    ]
    session.add_all(made)
    session.flush()
    keyed = [(row.trial_id, trial) for row, trial in zip(made, trials, strict=True)]
    texts = {id(d): distribution_to_json(d) for _, t in keyed for d in t.distributions.values()}
    stored = rdb.TrialValueModel.value_to_stored_repr
    reported = rdb.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    _fill(
        session,
        rdb.TrialParamModel,
        (
            {"trial_id": key, "param_name": name, "param_value": d.to_internal_repr(trial.params[name])}
            | {"distribution_json": texts[id(d)]}
            for key, trial in keyed
            for name, d in trial.distributions.items()
        ),
    )
    _fill(
        session,
        rdb.TrialValueModel,
        (
            {"trial_id": key, "objective": i, **dict(zip(("value", "value_type"), stored(value), strict=True))}
            for key, trial in keyed
            for i, value in enumerate(trial.values or ())
        ),
    )
    for model, attributes in (
        (rdb.TrialUserAttributeModel, "user_attrs"),
        (rdb.TrialSystemAttributeModel, "system_attrs"),
    ):
        _fill(
            session,
            model,
            (
                {"trial_id": key, "key": name, "value_json": json.dumps(value)}
                for key, trial in keyed
                for name, value in getattr(trial, attributes).items()
            ),
        )
    names = ("intermediate_value", "intermediate_value_type")
    _fill(
        session,
        rdb.TrialIntermediateValueModel,
        (
            {"trial_id": key, "step": step, **dict(zip(names, reported(value), strict=True))}
            for key, trial in keyed
            for step, value in trial.intermediate_values.items()
        ),
    )
    session.expunge_all()


def _fill(session: Session, model: Any, rows: Iterable[dict[str, Any]]) -> None:
    left = iter(rows)
    while some := list(islice(left, _ROWS_AT_ONCE)):
        session.execute(sa.insert(model.__table__), some)


def _local(moment: dt.datetime | None) -> dt.datetime | None:
    """Optuna's times are local ones and do not say so."""
    return None if moment is None else moment.astimezone().replace(tzinfo=None)
