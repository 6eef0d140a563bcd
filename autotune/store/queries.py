"""What pages show, computed in SQL: aggregates and single pages of trials, without reading all of a study."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import sqlalchemy as sa

from autotune.checks import whole
from autotune.errors import UsageError
from autotune.measurement import Metric
from autotune.store import models as m
from autotune.store import statements as q
from autotune.store.reading import Reading
from autotune.store.records import DEFAULT_LABEL, StudyRecord, TrialRecord, TrialState
from autotune.store.rows import digest, metrics_by_trial, trial_records

_ORDERS: Mapping[str, sa.ColumnElement[Any]] = {"number": m.trials.c.number, "evaluate_s": m.trials.c.evaluate_s}


@dataclass(frozen=True)
class MeasuredValues:
    """A completed trial by number, label and its configuration's hash, with the metrics that were asked for.

    A metric is NaN where the store has none.
    """

    number: int
    label: str | None
    config_hash: str
    metrics: Mapping[str, Metric]

    @property
    def values(self) -> dict[str, float]:
        """The metric values alone."""
        return {name: metric.value for name, metric in self.metrics.items()}

    def merged(self, metrics: Mapping[str, Metric], replicates: int) -> Self:
        """This trial with the metrics of several; see `Goals.merge`."""
        return replace(self, metrics=metrics)


def measured_values(store: Reading, study_id: int, metrics: Sequence[str]) -> list[MeasuredValues]:
    """The completed trials that count of a study, by number, with these metrics alone. One query, no configuration is read.

    Raises:
        StoreError: when the store cannot be read.
    """
    query = (
        sa.select(
            m.trials.c.number,
            m.trials.c.label,
            m.trials.c.config_hash,
            m.metrics.c.name,
            m.metrics.c.value,
            m.metrics.c.half_width,
        )
        .join(m.metrics, m.metrics.c.trial_id == m.trials.c.id)
        .where(
            m.trials.c.study_id == study_id,
            m.trials.c.state == TrialState.COMPLETED.value,
            m.trials.c.fidelity.is_(None),
            m.metrics.c.name.in_(list(metrics)),
        )
        .order_by(m.trials.c.number)
    )
    trials: dict[int, tuple[str | None, str]] = {}
    found: dict[int, dict[str, Metric]] = {}
    with store._read() as connection:
        for number, label, config_hash, name, value, half_width in connection.execute(query):
            trials[number] = (label, config_hash)
            found.setdefault(number, {})[name] = Metric(math.nan if value is None else value, half_width)
    return [MeasuredValues(number, *trials[number], measured) for number, measured in found.items()]


@dataclass(frozen=True)
class Standing:
    """A study's best value of the first objective, its gain over the default, and the size of its Pareto front."""

    best: float | None
    gain: float | None
    front: int


def standing(store: Reading, study: StudyRecord) -> Standing:
    """How far a study is, from its metrics alone."""
    goals = study.goals
    measured = goals.merge(measured_values(store, study.id, goals.metrics))
    best = goals.best(measured)
    default = next((trial for trial in measured if trial.label == DEFAULT_LABEL), None)
    return Standing(
        best=None if best is None else best.values[goals.first.metric],
        gain=goals.gain(best, default),
        front=len(goals.pareto(measured)) if len(goals.objectives) > 1 else 0,
    )


def trial_page(
    store: Reading,
    study_id: int,
    *,
    states: Sequence[str] | None = None,
    proposers: Sequence[str] | None = None,
    failure_kinds: Sequence[str] | None = None,
    order_by: str = "number",
    descending: bool = False,
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[TrialRecord], int]:
    """One page of a study's trials with their metrics, and how many trials there are to page through.

    Args:
        states, proposers, failure_kinds: only trials with one of these; None for all.
        order_by: ``"number"``, ``"evaluate_s"`` or a metric. Trials without a value come last in both directions, and those of
            equal value by number.
        offset, limit: of the page, in trials.

    Raises:
        UsageError: for an offset below 0 or a limit below 1.
        StoreError: when the store cannot be read.
    """
    whole("offset", offset, 0)
    whole("limit", limit, 1)
    chosen: list[sa.ColumnElement[bool]] = [m.trials.c.study_id == study_id]
    for column, wanted in (
        (m.trials.c.state, states),
        (m.trials.c.proposer, proposers),
        (m.trials.c.failure_kind, failure_kinds),
    ):
        if wanted is not None:
            chosen.append(column.in_([str(one) for one in wanted]))
    keys = sa.select(m.trials.c.id).where(*chosen)
    if order_by not in _ORDERS:
        of_metric = (m.metrics.c.trial_id == m.trials.c.id) & (m.metrics.c.name == order_by)
        keys = keys.outerjoin(m.metrics, of_metric)
    by: sa.ColumnElement[Any] = _ORDERS.get(order_by, m.metrics.c.value)
    # Databases disagree on where NULL belongs, so that is an order of its own.
    keys = keys.order_by(by.is_(None), by.desc() if descending else by.asc(), m.trials.c.number)
    with store._read() as connection:
        total = connection.execute(sa.select(sa.func.count()).select_from(m.trials).where(*chosen)).scalar_one()
        found = connection.execute(keys.offset(offset).limit(limit)).scalars().all()
        rows = connection.execute(q.TRIALS.where(m.trials.c.id.in_(found))).all()
        values = connection.execute(
            sa.select(m.metrics.c.trial_id, m.metrics.c.name, m.metrics.c.value, m.metrics.c.half_width).where(
                m.metrics.c.trial_id.in_(found)
            )
        ).all()
    records = {record.id: record for record in trial_records(rows, metrics_by_trial(values))}
    return [records[key] for key in found if key in records], int(total)


@dataclass(frozen=True)
class Seconds:
    """What some trials took: seconds of proposing and of evaluating them."""

    trials: int = 0
    suggest: float = 0.0
    evaluate: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.trials + other.trials, self.suggest + other.suggest, self.evaluate + other.evaluate)


@dataclass(frozen=True)
class TimeSpent:
    """What a study's trials took, in all and by parts. The fidelity that counts has the key None."""

    by_proposer: Mapping[str, Seconds]
    by_fidelity: Mapping[str | None, Seconds]
    total: Seconds


def spent(store: Reading, study_id: int) -> TimeSpent:
    """Seconds of a study's trials by proposer and by fidelity; no configuration is read.

    Raises:
        StoreError: when the store cannot be read.
    """
    parts = (m.trials.c.proposer, m.trials.c.fidelity)
    query = (
        sa.select(*parts, sa.func.count(), sa.func.sum(m.trials.c.suggest_s), sa.func.sum(m.trials.c.evaluate_s))
        .where(m.trials.c.study_id == study_id)
        .group_by(*parts)
        .order_by(*parts)
    )
    by_proposer: dict[str, Seconds] = {}
    by_fidelity: dict[str | None, Seconds] = {}
    with store._read() as connection:
        rows = connection.execute(query).all()
    for proposer, fidelity, trials, suggest, evaluate in rows:
        one = Seconds(int(trials), suggest or 0.0, evaluate or 0.0)
        by_proposer[proposer] = by_proposer.get(proposer, Seconds()) + one
        by_fidelity[fidelity] = by_fidelity.get(fidelity, Seconds()) + one
    return TimeSpent(by_proposer, by_fidelity, sum(by_proposer.values(), Seconds()))


def watermark(store: Reading) -> str:
    """One value that is another one after anything in any study changed; reports of running trials and leases aside.

    Raises:
        StoreError: when the store cannot be read.
    """
    # Every study by itself: clocks of several machines disagree, so the newest time would hide changes of the others.
    studies = sa.select(m.studies.c.id, m.studies.c.revision, m.studies.c.updated_at).order_by(m.studies.c.id)
    newest = sa.select(
        sa.select(sa.func.max(m.environments.c.id)).scalar_subquery(),
        sa.select(sa.func.max(m.profiles.c.id)).scalar_subquery(),
    )
    with store._read() as connection:
        rows = [*connection.execute(studies).all(), *connection.execute(newest).all()]
    return digest(repr([tuple(row) for row in rows]))


def study_watermark(store: Reading, study_id: int) -> tuple[int, dt.datetime]:
    """A study's revision and when it was last written: another pair after anything in it changed, as for `watermark`.

    Raises:
        UsageError: where there is no such study (any more).
        StoreError: when the store cannot be read.
    """
    query = sa.select(m.studies.c.revision, m.studies.c.updated_at).where(m.studies.c.id == study_id)
    with store._read() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        raise UsageError(f"there is no study number {study_id} in {store.url}; it may have been deleted meanwhile")
    return int(row[0]), row[1]


@dataclass(frozen=True)
class Environment:
    """A machine as its trials found it: hardware and software, by what identifies them."""

    id: int
    fingerprint: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class SeenProfile:
    """A hardware profile that studies rest on."""

    kind: str
    payload: Mapping[str, Any]
    created_at: dt.datetime


@dataclass(frozen=True)
class Machine(Environment):
    """An environment with the number of trials that were measured in it, and its profiles, the newest first."""

    trials: int = 0
    profiles: tuple[SeenProfile, ...] = ()


def environments(store: Reading) -> list[Machine]:
    """Every environment that the store has seen, the newest first.

    Raises:
        StoreError: when the store cannot be read.
    """
    counted = sa.select(m.trials.c.environment_id, sa.func.count()).group_by(m.trials.c.environment_id)
    with store._read() as connection:
        seen = connection.execute(m.environments.select().order_by(m.environments.c.id.desc())).all()
        trials = {row[0]: int(row[1]) for row in connection.execute(counted)}
        kept = connection.execute(m.profiles.select().order_by(m.profiles.c.id.desc())).all()
    profiles: dict[int, list[SeenProfile]] = {}
    for row in kept:
        profiles.setdefault(row.environment_id, []).append(
            SeenProfile(row.kind, json.loads(row.payload), row.created_at)
        )
    return [
        Machine(
            row.id,
            row.fingerprint,
            json.loads(row.details),
            trials.get(row.id, 0),
            tuple(profiles.get(row.id, ())),
        )
        for row in seen
    ]


def environment_of(store: Reading, trial_id: int) -> Environment | None:
    """The environment that a trial was measured in; None where that was not told.

    Raises:
        StoreError: when the store cannot be read.
    """
    query = (
        m.environments.select()
        .join(m.trials, m.trials.c.environment_id == m.environments.c.id)
        .where(m.trials.c.id == trial_id)
    )
    with store._read() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else Environment(row.id, row.fingerprint, json.loads(row.details))
