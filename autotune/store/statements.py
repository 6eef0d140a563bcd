"""The statements of an ask and a tell, built once: building one per call costs as much as running it."""

from __future__ import annotations

import sqlalchemy as sa

from autotune.store import models as m
from autotune.store.records import TrialState

OPEN_STATES = (TrialState.WAITING.value, TrialState.RUNNING.value)

_THIS_STUDY = sa.bindparam("this_study", type_=sa.Integer)
_ADVANCE = (
    m.studies.update()
    .where(m.studies.c.id == _THIS_STUDY)
    .values(
        revision=m.studies.c.revision + 1,
        next_number=m.studies.c.next_number + sa.bindparam("count", type_=sa.Integer),
        updated_at=sa.bindparam("now", type_=m.UtcDateTime),
    )
)
_COUNTERS = sa.select(m.studies.c.next_number, m.studies.c.revision).where(m.studies.c.id == _THIS_STUDY)
_ADVANCE_RETURNING = _ADVANCE.returning(m.studies.c.next_number, m.studies.c.revision)

SET_NUMBER = (
    m.studies.update().where(m.studies.c.id == _THIS_STUDY).values(next_number=sa.bindparam("number", type_=sa.Integer))
)
_FIND_CONFIG = (
    sa.select(sa.literal(1))
    .select_from(m.trials)
    .where(m.trials.c.study_id == _THIS_STUDY, m.trials.c.config_hash == sa.bindparam("hash"))
    .limit(1)
)
FIND_CONFIG = _FIND_CONFIG.where(m.trials.c.fidelity.is_(None))
FIND_CONFIG_AT = _FIND_CONFIG.where(m.trials.c.fidelity == sa.bindparam("fidelity"))
COUNT_CHEAPER = (
    sa.select(sa.func.count())
    .select_from(m.trials)
    .where(m.trials.c.study_id == _THIS_STUDY, m.trials.c.fidelity.is_not(None))
)
INSERT_TRIAL = m.trials.insert()
INSERT_METRICS = m.metrics.insert()
INSERT_SAMPLES = m.samples.insert()
INSERT_REPORTS = m.reports.insert()
INSERT_LOG = m.logs.insert()
INSERT_ARTIFACTS = m.artifacts.insert()
FORGET_LOG = m.logs.delete().where(m.logs.c.trial_id == sa.bindparam("this_trial"))
FORGET_ARTIFACTS = m.artifacts.delete().where(m.artifacts.c.trial_id == sa.bindparam("this_trial"))
FORGET_REPORTS = m.reports.delete().where(m.reports.c.trial_id == sa.bindparam("this_trial"))

_COUNTED = (m.trials.c.study_id, m.trials.c.state, m.trials.c.failure_kind, m.trials.c.fidelity)
TRIAL_COUNTS = sa.select(*_COUNTED, sa.func.count()).group_by(*_COUNTED)

STOP_REQUEST = sa.select(m.studies.c.stop_requested_at, m.studies.c.stop_requested_by).where(
    m.studies.c.id == _THIS_STUDY
)

OPEN_TRIALS = (
    m.trials.select()
    .where(m.trials.c.study_id == _THIS_STUDY, m.trials.c.state.in_(OPEN_STATES))
    .order_by(m.trials.c.number)
)
_CHANGED = (m.trials.c.study_id == _THIS_STUDY) & (m.trials.c.revision > sa.bindparam("since", type_=sa.Integer))
TRIALS = sa.select(
    *(
        m.trials.c[name]
        for name in (
            "id",
            "number",
            "config",
            "config_hash",
            "state",
            "proposer",
            "attempt",
            "revision",
            "label",
            "fidelity",
            "worker_id",
            "failure_kind",
            "failure_message",
            "suggest_s",
            "evaluate_s",
            "notes",
            "created_at",
            "finished_at",
            "environment_id",
        )
    )
)
"""What `rows.trial_records` reads, in its order."""  # fmt: skip
CHANGED_TRIALS = TRIALS.where(_CHANGED).order_by(m.trials.c.number)
CHANGED_METRICS = (
    sa.select(m.metrics.c.trial_id, m.metrics.c.name, m.metrics.c.value, m.metrics.c.half_width)
    .join(m.trials, m.trials.c.id == m.metrics.c.trial_id)
    .where(_CHANGED)
)

# Compare-and-set: only the worker that holds the lease changes a running trial.
_HELD = (
    m.trials.c.id == sa.bindparam("this_trial"),
    m.trials.c.state == TrialState.RUNNING.value,
    m.trials.c.worker_id == sa.bindparam("this_worker"),
    m.trials.c.attempt == sa.bindparam("this_attempt"),
)
_LEASED = m.trials.update().where(*_HELD)
# Locked, as on a server another worker might take the trial between this look and the write.
FIND_LEASE = sa.select(sa.literal(1)).select_from(m.trials).where(*_HELD).with_for_update()
FINISH = _LEASED.values(
    {
        name: sa.bindparam(f"new_{name}", type_=m.trials.c[name].type)
        for name in (
            "state", "failure_kind", "failure_message", "notes", "evaluate_s", "finished_at", "lease_until", "revision"
        )
    }
)  # fmt: skip
EXTEND = _LEASED.values(lease_until=sa.bindparam("new_lease_until", type_=m.UtcDateTime))


def advance(connection: sa.Connection, values: dict[str, object]) -> tuple[int, int] | None:
    """Take a study's row: its revision goes up by one, its next number by ``count``.

    Returns:
        The next number and the revision after that; None where there is no such study.
    """
    if connection.dialect.update_returning:
        row = connection.execute(_ADVANCE_RETURNING, values).one_or_none()
    else:
        connection.execute(_ADVANCE, values)
        row = connection.execute(_COUNTERS, {"this_study": values["this_study"]}).one_or_none()
    return None if row is None else (int(row[0]), int(row[1]))
