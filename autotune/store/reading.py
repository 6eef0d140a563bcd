"""What a store tells without writing anything."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import sqlalchemy as sa

from autotune.errors import UsageError
from autotune.measurement import Metric
from autotune.store import models as m
from autotune.store import statements as q
from autotune.store.database import Database
from autotune.store.records import Profile, StudyRecord, StudySummary, TrialRecord, TrialState
from autotune.store.rows import study_record, trial_record

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

    def studies(self) -> list[StudySummary]:
        """Every study, newest first, with the trials that count by state, and their failures by kind."""
        counts = m.trials.c.fidelity.is_(None)
        by_state = (
            sa.select(m.trials.c.study_id, m.trials.c.state, sa.func.count())
            .where(counts)
            .group_by(m.trials.c.study_id, m.trials.c.state)
        )
        by_kind = (
            sa.select(m.trials.c.study_id, m.trials.c.failure_kind, sa.func.count())
            .where(counts, m.trials.c.state == TrialState.FAILED.value)
            .group_by(m.trials.c.study_id, m.trials.c.failure_kind)
        )
        others = sa.select(m.trials.c.study_id, sa.func.count()).where(~counts).group_by(m.trials.c.study_id)
        with self._read() as connection:
            records = [
                study_record(row) for row in connection.execute(m.studies.select().order_by(m.studies.c.id.desc()))
            ]
            states: dict[int, dict[TrialState, int]] = {}
            for study_id, state, count in connection.execute(by_state):
                states.setdefault(study_id, {})[TrialState(state)] = count
            kinds: dict[int, dict[str, int]] = {}
            for study_id, kind, count in connection.execute(by_kind):
                kinds.setdefault(study_id, {})[kind] = count
            cheaper = {int(row[0]): int(row[1]) for row in connection.execute(others)}
        return [
            StudySummary(record, states.get(record.id, {}), kinds.get(record.id, {}), cheaper.get(record.id, 0))
            for record in records
        ]

    def trials(self, study_id: int, since: int = -1) -> list[TrialRecord]:
        """The study's trials whose revision is above `since`, by number, with their metrics."""
        chosen = {"this_study": study_id, "since": since}
        with self._read() as connection:
            rows = connection.execute(q.CHANGED_TRIALS, chosen).all()
            found: dict[int, dict[str, Metric]] = {}
            if rows:
                for trial_id, name, value, half_width in connection.execute(q.CHANGED_METRICS, chosen):
                    found.setdefault(trial_id, {})[name] = Metric(math.nan if value is None else value, half_width)
        return [trial_record(dict(row._mapping), found.get(row.id, {})) for row in rows]

    def samples(self, trial_id: int) -> dict[str, tuple[float, ...]]:
        """All samples of a trial by metric, in the order in which they were measured."""
        query = m.samples.select().where(m.samples.c.trial_id == trial_id).order_by(m.samples.c.index)
        kept: dict[str, list[float]] = {}
        with self._read() as connection:
            for row in connection.execute(query):
                kept.setdefault(row.metric, []).append(math.nan if row.value is None else row.value)
        return {name: tuple(values) for name, values in kept.items()}

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
