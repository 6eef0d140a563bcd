"""Aggregates that a view of many studies needs, without reading the configurations of their trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from autotune.store import models as m
from autotune.store.records import DEFAULT_LABEL, StudyRecord, TrialState
from autotune.store.store import Store


@dataclass(frozen=True)
class MeasuredValues:
    """A completed trial by number and label, with the metrics that were asked for (NaN where the store has none)."""

    number: int
    label: str | None
    values: Mapping[str, float]


def measured_values(store: Store, study_id: int, metrics: Sequence[str]) -> list[MeasuredValues]:
    """The completed trials of a study, by number, with these metrics alone. One query, no configuration is read.

    Raises:
        StoreError: when the store cannot be read.
    """
    query = (
        sa.select(m.trials.c.number, m.trials.c.label, m.metrics.c.name, m.metrics.c.value)
        .join(m.metrics, m.metrics.c.trial_id == m.trials.c.id)
        .where(
            m.trials.c.study_id == study_id,
            m.trials.c.state == TrialState.COMPLETED.value,
            m.metrics.c.name.in_(list(metrics)),
        )
        .order_by(m.trials.c.number)
    )
    labels: dict[int, str | None] = {}
    values: dict[int, dict[str, float]] = {}
    with store._read() as connection:
        for number, label, name, value in connection.execute(query):
            labels[number] = label
            values.setdefault(number, {})[name] = math.nan if value is None else value
    return [MeasuredValues(number, labels[number], found) for number, found in values.items()]


@dataclass(frozen=True)
class Standing:
    """A study's best value of the first objective, its gain over the default, and the size of its Pareto front."""

    best: float | None
    gain: float | None
    front: int


def standing(store: Store, study: StudyRecord) -> Standing:
    """How far a study is, from its metrics alone."""
    goals = study.goals
    measured = measured_values(store, study.id, goals.metrics)
    best = goals.best(measured)
    default = next((trial for trial in measured if trial.label == DEFAULT_LABEL), None)
    return Standing(
        best=None if best is None else best.values[goals.first.metric],
        gain=goals.gain(best, default),
        front=len(goals.pareto(measured)) if len(goals.objectives) > 1 else 0,
    )
