"""What a store tells without writing anything."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import sqlalchemy as sa

from autotune.errors import UsageError
from autotune.store import models as m
from autotune.store import statements as q
from autotune.store.database import Database
from autotune.store.records import (
    Artifact,
    Profile,
    StopRequest,
    StudyRecord,
    StudySummary,
    TrialRecord,
    TrialState,
)
from autotune.store.rows import metrics_by_trial, study_record, trial_records

_AT_ONCE = 500  # keys in one statement; databases bound their number


class Reading(Database):
    """Studies and trials as the database has them now."""

    def find_study(self, name: str) -> StudyRecord | None:
        """The study of that name, or None."""
        with self._read() as connection:
            row = connection.execute(m.studies.select().where(m.studies.c.name == name)).one_or_none()
        return None if row is None else study_record(row)

    def load_study(self, name: str) -> StudyRecord:
        """The study of that name.

        Raises:
            UsageError: naming the studies that exist.
        """
        study = self.find_study(name)
        if study is None:
            with self._read() as connection:
                names = connection.execute(
                    sa.select(m.studies.c.name).order_by(m.studies.c.id.desc()).limit(8)
                ).scalars()
                known = ", ".join(names)
            raise UsageError(
                f"study {name!r} does not exist in {self.url}; "
                + (f"it holds: {known}" if known else "it holds no study yet")
            )
        return study

    def records(self) -> list[StudyRecord]:
        """Every study, newest first, archived ones too; without a look at their trials."""
        with self._read() as connection:
            return [study_record(row) for row in connection.execute(m.studies.select().order_by(m.studies.c.id.desc()))]

    def studies(self) -> list[StudySummary]:
        """Every study, newest first, archived ones too, with the trials that count by state, and their failures by kind."""
        with self._read() as connection:
            rows = connection.execute(m.studies.select().order_by(m.studies.c.id.desc())).all()
            counted = connection.execute(q.TRIAL_COUNTS).all()
        states: dict[int, dict[TrialState, int]] = {row.id: {} for row in rows}
        kinds: dict[int, dict[str, int]] = {row.id: {} for row in rows}
        cheaper: dict[int, int] = {}
        for study_id, state, kind, fidelity, count in counted:
            if study_id not in states:
                continue  # made between the two looks
            if fidelity is not None:
                cheaper[study_id] = cheaper.get(study_id, 0) + count
                continue
            found = TrialState(state)
            states[study_id][found] = states[study_id].get(found, 0) + count
            if found is TrialState.FAILED:
                kinds[study_id][kind] = count
        return [StudySummary(study_record(row), states[row.id], kinds[row.id], cheaper.get(row.id, 0)) for row in rows]

    def stop_request(self, study_id: int) -> StopRequest | None:
        """Who asked the study's searches to end, and when; None where nobody did since one began."""
        with self._read() as connection:
            row = connection.execute(q.STOP_REQUEST, {"this_study": study_id}).one_or_none()
        return None if row is None or row[0] is None else StopRequest(row[1] or "somebody", row[0])

    def trials(self, study_id: int, since: int = -1) -> list[TrialRecord]:
        """The study's trials whose revision is above `since`, by number, with their metrics."""
        chosen = {"this_study": study_id, "since": since}
        with self._read() as connection:  # left before anything is parsed, so that it stays short
            rows = connection.execute(q.CHANGED_TRIALS, chosen).all()
            values = connection.execute(q.CHANGED_METRICS, chosen).all() if rows else []
        return trial_records(rows, metrics_by_trial(values))

    def samples(self, trial_id: int) -> dict[str, tuple[float, ...]]:
        """All samples of a trial by metric, in the order in which they were measured."""
        query = m.samples.select().where(m.samples.c.trial_id == trial_id).order_by(m.samples.c.index)
        kept: dict[str, list[float]] = {}
        with self._read() as connection:
            for row in connection.execute(query):
                kept.setdefault(row.metric, []).append(math.nan if row.value is None else row.value)
        return {name: tuple(values) for name, values in kept.items()}

    def log(self, trial_id: int) -> str | None:
        """The end of what the evaluation of a trial printed; None where nothing is known of that."""
        with self._read() as connection:
            return connection.execute(sa.select(m.logs.c.text).where(m.logs.c.trial_id == trial_id)).scalar()

    def artifacts(self, trial_id: int) -> list[Artifact]:
        """The files that belong to a trial, by name."""
        query = m.artifacts.select().where(m.artifacts.c.trial_id == trial_id).order_by(m.artifacts.c.name)
        with self._read() as connection:
            return [Artifact(row.name, row.path, row.sha256) for row in connection.execute(query)]

    def reports(self, trial_id: int) -> list[tuple[int, str, float]]:
        """Intermediate values of a trial as (step, metric, value)."""
        return self.reports_of([trial_id]).get(trial_id, [])

    def reports_of(self, trial_ids: Sequence[int]) -> dict[int, list[tuple[int, str, float]]]:
        """Intermediate values as (step, metric, value), by step, of each of these trials that has any."""
        found: dict[int, list[tuple[int, str, float]]] = {}
        for first in range(0, len(trial_ids), _AT_ONCE):
            some = m.reports.c.trial_id.in_(trial_ids[first : first + _AT_ONCE])
            with self._read() as connection:
                for row in connection.execute(m.reports.select().where(some).order_by(m.reports.c.step)):
                    value = math.nan if row.value is None else row.value
                    found.setdefault(row.trial_id, []).append((row.step, row.metric, value))
        return found

    def profile(self, profile_id: int) -> Profile:
        """The hardware profile that a study was measured with."""
        query = (
            sa.select(m.environments.c.fingerprint, m.environments.c.details, m.profiles.c.kind, m.profiles.c.payload)
            .join(m.environments, m.environments.c.id == m.profiles.c.environment_id)
            .where(m.profiles.c.id == profile_id)
        )
        with self._read() as connection:
            row = connection.execute(query).one()
        return Profile(row.fingerprint, json.loads(row.details), row.kind, json.loads(row.payload))
