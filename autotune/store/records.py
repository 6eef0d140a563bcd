"""Rows of the store as immutable objects: what the engine and the dashboard work with."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from autotune.goals import Goals
from autotune.measurement import FailureKind, Metric

DEFAULT_LABEL = "default"  # of the trial that measures the default configuration
PRUNED_NOTE = "pruned"
"""The note of a pruned trial: ``step`` and the last finite ``values`` that it reported; ``at_least``, those of metrics that
only grow; and ``progress``, the last finite progress as a loss to be minimised. What was never reported is absent."""


class TrialState(enum.StrEnum):
    """A trial is `WAITING` (for whoever asks next) or `RUNNING` (leased), and ends as one of the others.

    `PRUNED` is one that was ended early: it has no metrics and is neither ranked nor a failure.
    """

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    PRUNED = "pruned"


@dataclass(frozen=True)
class Proposal:
    """A configuration about to become a trial.

    Attributes:
        fidelity: the cheaper evaluator that is to measure it, None for the one whose results count.
        replicate: whether it is begun even where it was measured at that fidelity before.
    """

    config: Mapping[str, Any]
    config_json: str
    config_hash: str
    proposer: str
    label: str | None = None
    fidelity: str | None = None
    suggest_s: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)
    replicate: bool = False


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the store has it. `metrics` carry no samples here; `Store.samples` reads those.

    Attributes:
        fidelity: the cheaper evaluator that measures it; None for the one whose results count.
        failure_message: why it failed, or was pruned.
        environment_id: of the machine that measures it (`queries.environment_of`); None where that was not told.
        replicates: trials of this configuration that the record was made of; 1 unless `Goals.merge` made it.
    """

    id: int
    number: int
    config: Mapping[str, Any]
    config_hash: str
    state: TrialState
    proposer: str
    attempt: int
    revision: int
    label: str | None = None
    fidelity: str | None = None
    worker_id: str | None = None
    failure_kind: FailureKind | None = None
    failure_message: str | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    suggest_s: float = 0.0
    evaluate_s: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    created_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    environment_id: int | None = None
    replicates: int = 1

    @property
    def values(self) -> dict[str, float]:
        """The metric values alone; empty for a trial that did not complete."""
        return {name: metric.value for name, metric in self.metrics.items()}

    @property
    def reported(self) -> dict[str, float]:
        """The last finite values that a pruned trial reported; empty for any other."""
        return dict(self._pruned.get("values", {}))

    @property
    def reported_at_least(self) -> dict[str, float]:
        """Those of metrics that only grow: lower bounds of what a pruned trial would have measured."""
        return dict(self._pruned.get("at_least", {}))

    @property
    def reported_step(self) -> int | None:
        """The last step that a pruned trial reported."""
        return self._pruned.get("step")

    @property
    def reported_progress(self) -> float | None:
        """The last progress of a pruned trial, as a loss to be minimised."""
        return self._pruned.get("progress")

    @property
    def _pruned(self) -> Mapping[str, Any]:
        noted = self.notes.get(PRUNED_NOTE, {}) if self.state is TrialState.PRUNED else {}
        return noted if isinstance(noted, Mapping) else {}

    @property
    def counts(self) -> bool:
        """Whether the evaluator measures it whose results count: the only one, in most studies."""
        return self.fidelity is None

    def merged(self, metrics: Mapping[str, Metric], replicates: int) -> Self:
        """This trial with the metrics of `replicates` trials; see `Goals.merge`."""
        return replace(self, metrics=metrics, replicates=replicates)


@dataclass(frozen=True)
class Profile:
    """A hardware profile together with the environment it was measured in."""

    fingerprint: str
    environment: Mapping[str, Any]
    kind: str
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class SourceRecord:
    """An earlier study that a study learns from, and how much of it.

    Attributes:
        storage: URL of its database without the password; None for the study's own.
        trials: how many finished trials it had to learn from.
        revision: its revision then. What finished later is not read, so that a resumed search learns from the same.
    """

    storage: str | None
    name: str
    trials: int
    revision: int

    def __str__(self) -> str:
        return self.name if self.storage is None else f"{self.storage}#{self.name}"


@dataclass(frozen=True)
class StudyRecord:
    """A study's definition as the store has it. `space` is the JSON form of the search space.

    Attributes:
        owner: the user who made it; None where that is not known.
        archived_at: since when it is put aside; None where it is not.
        stop_requested_at, stop_requested_by: the last request to stop its searches, until another search begins.
        store_s: seconds that searches which have ended spent on their store.
    """

    id: int
    name: str
    space: Mapping[str, Any]
    space_hash: str
    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    default_config: Mapping[str, Any]
    strategy: str
    seed: int
    state: str
    domain: str | None = None
    stop_reason: str | None = None
    budget: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    strategy_options: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[SourceRecord, ...] = ()
    profile_id: int | None = None
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None
    owner: str | None = None
    archived_at: dt.datetime | None = None
    stop_requested_at: dt.datetime | None = None
    stop_requested_by: str | None = None
    store_s: float = 0.0

    @property
    def stop_requested(self) -> bool:
        """Whether its searches are asked to end, or have ended so."""
        return self.stop_requested_at is not None

    @property
    def goals(self) -> Goals:
        """What the study optimises, and within which limits."""
        return Goals.parse(self.objectives, self.constraints)

    @property
    def fidelities(self) -> tuple[str, ...]:
        """Names of its evaluators from the cheapest to the one whose results count; empty where there is one."""
        return tuple(self.options.get("fidelities", ()))

    def evaluator_of(self, trial: TrialRecord) -> str | None:
        """Name of the evaluator of a trial, in a study of several."""
        return trial.fidelity or next(reversed(self.fidelities), None)


@dataclass(frozen=True)
class StopRequest:
    """Who asked a study's searches to end, and when."""

    by: str
    at: dt.datetime


@dataclass(frozen=True)
class StudySummary:
    """A study with its trials counted in SQL.

    Attributes:
        trials, failures: those that count, by state and by kind of failure.
        cheaper: trials of cheaper fidelities, in whatever state.
    """

    study: StudyRecord
    trials: Mapping[TrialState, int]
    failures: Mapping[str, int]
    cheaper: int = 0


@dataclass(frozen=True)
class Artifact:
    """A file that belongs to a trial. Only where it lies is stored, and what it held then."""

    name: str
    path: str
    sha256: str
