"""A study copied into an Optuna storage, so that optuna-dashboard and Optuna's plots open it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import optuna
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from autotune.errors import UsageError
from autotune.store import TrialRecord, TrialState
from autotune.strategies.optuna_space import distributions, flatten
from autotune.study import Study

_STATES = {
    TrialState.COMPLETED: OptunaState.COMPLETE,
    TrialState.FAILED: OptunaState.FAIL,
    TrialState.PRUNED: OptunaState.PRUNED,
}


def export_study(study: Study, url: str) -> int:
    """Write every finished trial of `study` to the Optuna storage at `url`; returns how many.

    Other metrics than the objectives, and failures, become user attributes; outcome constraints become Optuna's. Reports of
    the metric that trials are compared by (the first objective where none is declared) become intermediate values, and a
    pruned trial is a pruned one, with why and what it reported last as attributes. Trials of cheaper fidelities are pruned
    ones there too, which Optuna does not rank, with all that they measured as attributes.

    Raises:
        UsageError: when the storage cannot be opened or holds a study of that name already.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        copy = optuna.create_study(
            storage=url, study_name=study.name, directions=[o.direction for o in study.objectives]
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise UsageError(f"--out {url}: it holds a study {study.name!r} already; name another storage") from None
    except Exception as error:  # whatever the database's driver raises
        raise UsageError(f"--out {url}: no Optuna storage can be opened there: {str(error).splitlines()[0]}") from None
    finally:
        optuna.logging.set_verbosity(verbosity)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        copy.set_metric_names([o.metric for o in study.objectives])
    finished = [t for t in study.trials if t.state in _STATES]
    reports = study.store.reports_of([t.id for t in finished])
    copy.add_trials([_copy(study, trial, reports.get(trial.id, ())) for trial in finished])
    return len(finished)


def _copy(study: Study, trial: TrialRecord, reports: Iterable[tuple[int, str, float]]) -> optuna.trial.FrozenTrial:
    known = distributions(study.space)
    params = flatten(study.space, trial.config)
    completed = trial.state is TrialState.COMPLETED
    ranked = completed and trial.counts
    goals = [o.metric for o in study.objectives] if trial.counts else []
    attributes: dict[str, Any] = {name: value for name, value in trial.values.items() if name not in goals}
    attributes |= {"number": trial.number, "proposer": trial.proposer, "label": trial.label}
    if study.record.fidelities:
        attributes["fidelity"] = study.record.evaluator_of(trial)
    if trial.failure_kind is not None:
        attributes |= {"failure_kind": trial.failure_kind.value, "failure_message": trial.failure_message}
    if trial.state is TrialState.PRUNED:
        attributes |= {"pruned": trial.failure_message, **{f"reported.{k}": v for k, v in trial.reported.items()}}
    progress = study.referee.pruning.scene(study.record.goals).progress
    limits = {
        f"constraints:{limit}": min(limit.violation(trial.values), 1e300) for limit in study.constraints if ranked
    }
    made = create_trial(
        state=_STATES[trial.state] if trial.counts or not completed else OptunaState.PRUNED,
        params=params,
        distributions={name: known[name] for name in params},
        values=[trial.values[name] for name in goals] if ranked else None,
        user_attrs=attributes,
        system_attrs=limits,
        intermediate_values={step: value for step, metric, value in reports if metric == progress.metric},
    )
    made.datetime_start = trial.created_at.replace(tzinfo=None) if trial.created_at else made.datetime_start
    made.datetime_complete = trial.finished_at.replace(tzinfo=None) if trial.finished_at else made.datetime_complete
    return made
