"""Aggregates that a view of many studies needs, without reading the configurations of their trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import sqlalchemy as sa

from autotune.measurement import Metric
from autotune.store import models as m
from autotune.store.records import DEFAULT_LABEL, StudyRecord, TrialState
from autotune.store.store import Store


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


def measured_values(store: Store, study_id: int, metrics: Sequence[str]) -> list[MeasuredValues]:
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


def standing(store: Store, study: StudyRecord) -> Standing:
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
