"""The store: one transaction per ask and one per tell.

Concurrency contract
    Every write to a study first updates that study's row, so writers of one study take turns and its `revision` counter
    orders everything that happened. Readers ask for trials whose revision is above the last that they saw.
    A running trial is a lease: (`worker_id`, `attempt`, `lease_until`). Only the worker that holds it can finish it; a
    `finish` under a lost lease raises `LeaseLostError` and changes nothing. A lease that has run out may be taken over.
    When a call returns, what it wrote is durable (SQLite with synchronous=FULL; servers as they are configured).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import sqlalchemy as sa

from autotune.errors import LeaseLostError, StoreError, UsageError
from autotune.measurement import Failure, FailureKind, Measurement, Metric
from autotune.objective import unit_of
from autotune.store import models as m
from autotune.store.engine import open_engine
from autotune.store.records import Profile, Proposal, StudyRecord, StudySummary, TrialRecord, TrialState

MAX_ATTEMPTS = 3  # how often a trial is tried when the machine, not the configuration, fails
_TAKE_OVER = (TrialState.WAITING.value, TrialState.RUNNING.value)


def worker_name() -> str:
    """Identity of this process as a lease holder: host, process and the process's start, as numbers are reused."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def _is_dead(worker_id: str | None) -> bool:
    """Whether a lease holder is known to be gone: it ran on this host and its process does not exist any more."""
    host, pid, started = (worker_id or "::").rsplit(":", 2)
    if host != socket.gethostname() or not pid.isdigit() or int(pid) == os.getpid():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True


class Store:
    """Studies and trials in one database. Safe to share between threads; each process opens its own."""

    def __init__(self, url: str = "sqlite://", *, read_only: bool = False) -> None:
        """Open `url` (``sqlite:///runs.db``, ``postgresql://…``; ``sqlite://`` is in memory), schema brought up to date.

        Raises:
            StorageUnavailableError: when it cannot be opened; the message names the way out.
        """
        self.url = url
        self.read_only = read_only
        self._engine = open_engine(url, read_only=read_only)
        self._writer = self._engine.execution_options(writes=True)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        try:
            with self._writer.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise StoreError(f"storage {self.url!r} could not be written: {error.orig}") from error

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise StoreError(f"storage {self.url!r} could not be read: {error.orig}") from error

    # ---------------------------------------------------------------- studies

    def create_study(
        self,
        *,
        name: str,
        space: Mapping[str, Any],
        space_hash: str,
        objectives: Sequence[str],
        constraints: Sequence[str],
        default_config: Mapping[str, Any],
        strategy: str,
        seed: int,
        domain: str | None = None,
        budget: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        profile: Profile | None = None,
    ) -> StudyRecord:
        """Write a new study.

        Raises:
            UsageError: when the name is taken.
        """
        now = _now()
        with self._write() as connection:
            profile_id = _save_profile(connection, profile) if profile else None
            try:
                connection.execute(
                    m.studies.insert().values(
                        name=name,
                        domain=domain,
                        space=_dumps(space),
                        space_hash=space_hash,
                        objectives=_dumps(list(objectives)),
                        constraints=_dumps(list(constraints)),
                        default_config=_dumps(default_config),
                        strategy=strategy,
                        seed=seed,
                        budget=_dumps(budget or {}),
                        options=_dumps(options or {}),
                        state="running",
                        profile_id=profile_id,
                        next_number=0,
                        revision=0,
                        created_at=now,
                        updated_at=now,
                    )
                )
            except sa.exc.IntegrityError:
                raise UsageError(
                    f"study {name!r} exists already in {self.url}; load it, or choose another name"
                ) from None
        return self.load_study(name)

    def find_study(self, name: str) -> StudyRecord | None:
        """The study of that name, or None."""
        with self._read() as connection:
            row = connection.execute(m.studies.select().where(m.studies.c.name == name)).one_or_none()
        return None if row is None else _study(row)

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

    def set_study_state(self, study_id: int, state: str, reason: str | None = None) -> None:
        """Record that a search runs, is done or was interrupted, and why it stopped."""
        with self._write() as connection:
            connection.execute(
                m.studies.update()
                .where(m.studies.c.id == study_id)
                .values(state=state, stop_reason=reason, updated_at=_now())
            )

    def studies(self) -> list[StudySummary]:
        """Every study, newest first, with its trials counted by state and its failures by kind."""
        by_state = sa.select(m.trials.c.study_id, m.trials.c.state, sa.func.count()).group_by(
            m.trials.c.study_id, m.trials.c.state
        )
        by_kind = (
            sa.select(m.trials.c.study_id, m.trials.c.failure_kind, sa.func.count())
            .where(m.trials.c.state == TrialState.FAILED.value)
            .group_by(m.trials.c.study_id, m.trials.c.failure_kind)
        )
        with self._read() as connection:
            records = [_study(row) for row in connection.execute(m.studies.select().order_by(m.studies.c.id.desc()))]
            states: dict[int, dict[TrialState, int]] = {}
            for study_id, state, count in connection.execute(by_state):
                states.setdefault(study_id, {})[TrialState(state)] = count
            kinds: dict[int, dict[str, int]] = {}
            for study_id, kind, count in connection.execute(by_kind):
                kinds.setdefault(study_id, {})[kind] = count
        return [StudySummary(record, states.get(record.id, {}), kinds.get(record.id, {})) for record in records]

    # ----------------------------------------------------------------- trials

    def begin_trials(
        self,
        study_id: int,
        proposals: Sequence[Proposal],
        *,
        worker_id: str,
        lease_s: float,
        allow_duplicates: bool = False,
        environment_id: int | None = None,
    ) -> list[TrialRecord | None]:
        """Turn proposals into running trials, in one transaction.

        Returns:
            One entry per proposal; None where that configuration is in the study already and was not written again.
        """
        now = _now()
        with self._write() as connection:
            number, revision = self._advance(connection, study_id, now)
            taken: set[str] = set() if allow_duplicates else _known_hashes(connection, study_id, proposals)
            rows: list[dict[str, Any]] = []
            begun: list[Proposal | None] = []
            for proposal in proposals:
                if proposal.config_hash in taken:
                    begun.append(None)
                    continue
                if not allow_duplicates:
                    taken.add(proposal.config_hash)
                begun.append(proposal)
                rows.append(
                    {
                        "study_id": study_id,
                        "number": number + len(rows),
                        "config": proposal.config_json,
                        "config_hash": proposal.config_hash,
                        "label": proposal.label,
                        "state": TrialState.RUNNING.value,
                        "proposer": proposal.proposer,
                        "fidelity": proposal.fidelity,
                        "worker_id": worker_id,
                        "lease_until": now + dt.timedelta(seconds=lease_s),
                        "attempt": 1,
                        "revision": revision,
                        "environment_id": environment_id,
                        "suggest_s": proposal.suggest_s,
                        "notes": _dumps(proposal.notes) if proposal.notes else None,
                        "created_at": now,
                    }
                )
            # One by one: the key of each is needed, and an ask is rarely for more than a few.
            ids = [_inserted_key(connection.execute(_INSERT_TRIAL, row)) for row in rows]
            if rows:
                connection.execute(_SET_NUMBER, {"this_study": study_id, "next_number": number + len(rows)})
        fresh = iter(zip(ids, rows, strict=True))
        return [None if proposal is None else _begun(proposal, *next(fresh)) for proposal in begun]

    def take_over(self, study_id: int, *, worker_id: str, lease_s: float) -> TrialRecord | None:
        """Lease a trial that waits to be evaluated again: released, expired, or left by a process that is gone.

        A trial that was attempted `MAX_ATTEMPTS` times is closed as an `infra` failure instead.
        """
        if not self._stale(study_id):
            return None
        now = _now()
        with self._write() as connection:
            _, revision = self._advance(connection, study_id, now)
            for row in connection.execute(_open_trials(study_id)):
                if not _can_be_taken(row, now):
                    continue
                if row.attempt >= MAX_ATTEMPTS and row.state == TrialState.RUNNING.value:
                    connection.execute(
                        m.trials.update()
                        .where(m.trials.c.id == row.id)
                        .values(
                            state=TrialState.FAILED.value,
                            failure_kind=FailureKind.INFRA.value,
                            failure_message=f"given up after {row.attempt} attempts: its worker vanished each time",
                            revision=revision,
                            finished_at=now,
                        )
                    )
                    continue
                values = {
                    "state": TrialState.RUNNING.value,
                    "worker_id": worker_id,
                    "lease_until": now + dt.timedelta(seconds=lease_s),
                    "attempt": row.attempt + 1,
                    "revision": revision,
                }
                connection.execute(m.trials.update().where(m.trials.c.id == row.id).values(**values))
                return _trial({**row._mapping, **values}, {})
        return None

    def _stale(self, study_id: int) -> bool:
        """A look without a lock, so that an ask in the ordinary case stays one transaction."""
        now = _now()
        with self._read() as connection:
            return any(_can_be_taken(row, now) for row in connection.execute(_open_trials(study_id)))

    def extend_lease(self, trial: TrialRecord, lease_s: float) -> None:
        """Keep a running trial (a heartbeat).

        Raises:
            LeaseLostError: when it was given to another worker.
        """
        with self._write() as connection:
            self._swap(connection, trial, {"lease_until": _now() + dt.timedelta(seconds=lease_s)})

    def finish(
        self,
        study_id: int,
        trial: TrialRecord,
        outcome: Measurement | Failure,
        *,
        evaluate_s: float | None = None,
        retry: bool = True,
    ) -> TrialRecord:
        """Write what an evaluation gave, in one transaction, durable on return.

        An `infra` failure puts the trial back to wait until it was attempted `MAX_ATTEMPTS` times, unless `retry` is
        False.

        Raises:
            LeaseLostError: when the trial is not this worker's any more, or was finished before.
        """
        now = _now()
        values: dict[str, Any] = {"evaluate_s": evaluate_s, "finished_at": now, "lease_until": None}
        notes = dict(trial.notes)
        if isinstance(outcome, Measurement):
            values["state"] = TrialState.COMPLETED.value
            notes |= outcome.notes
        elif outcome.kind is FailureKind.INFRA and retry and trial.attempt < MAX_ATTEMPTS:
            values = {"state": TrialState.WAITING.value, "lease_until": None}
        else:
            values["state"] = TrialState.FAILED.value
            values["failure_kind"] = outcome.kind.value
            values["failure_message"] = outcome.message
        values["notes"] = _dumps(notes) if notes else None
        with self._write() as connection:
            _, values["revision"] = self._advance(connection, study_id, now)
            self._swap(connection, trial, values)
            if isinstance(outcome, Measurement):
                _insert_metrics(connection, trial.id, outcome.metrics)
        return TrialRecord(
            id=trial.id,
            number=trial.number,
            config=trial.config,
            config_hash=trial.config_hash,
            state=TrialState(values["state"]),
            proposer=trial.proposer,
            attempt=trial.attempt,
            revision=values["revision"],
            label=trial.label,
            fidelity=trial.fidelity,
            worker_id=trial.worker_id,
            failure_kind=FailureKind(values["failure_kind"]) if "failure_kind" in values else None,
            failure_message=values.get("failure_message"),
            metrics=outcome.metrics if isinstance(outcome, Measurement) else {},
            suggest_s=trial.suggest_s,
            evaluate_s=evaluate_s,
            notes=notes,
            created_at=trial.created_at,
            finished_at=values.get("finished_at"),
        )

    def release(self, study_id: int, trial: TrialRecord) -> None:
        """Put a running trial back to wait, when its worker is stopped before it could finish."""
        with self._write() as connection:
            _, revision = self._advance(connection, study_id, _now())
            values = {"state": TrialState.WAITING.value, "lease_until": None, "revision": revision}
            self._swap(connection, trial, values)

    def report(self, trial: TrialRecord, step: int, values: Mapping[str, float]) -> None:
        """Write intermediate values of a running trial."""
        with self._write() as connection:
            connection.execute(
                m.reports.insert(),
                [{"trial_id": trial.id, "step": step, "metric": k, "value": _finite(v)} for k, v in values.items()],
            )

    def trials(self, study_id: int, since: int = -1) -> list[TrialRecord]:
        """The study's trials whose revision is above `since`, by number, with their metrics."""
        chosen = (m.trials.c.study_id == study_id) & (m.trials.c.revision > since)
        with self._read() as connection:
            rows = connection.execute(m.trials.select().where(chosen).order_by(m.trials.c.number)).all()
            found: dict[int, dict[str, Metric]] = {}
            if rows:
                query = (
                    sa.select(m.metrics.c.trial_id, m.metrics.c.name, m.metrics.c.value, m.metrics.c.half_width)
                    .join(m.trials, m.trials.c.id == m.metrics.c.trial_id)
                    .where(chosen)
                )
                for trial_id, name, value, half_width in connection.execute(query):
                    found.setdefault(trial_id, {})[name] = Metric(math.nan if value is None else value, half_width)
        return [_trial(dict(row._mapping), found.get(row.id, {})) for row in rows]

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
        query = m.reports.select().where(m.reports.c.trial_id == trial_id).order_by(m.reports.c.step)
        with self._read() as connection:
            return [
                (row.step, row.metric, math.nan if row.value is None else row.value)
                for row in connection.execute(query)
            ]

    # ---------------------------------------------- environments and profiles

    def save_environment(self, fingerprint: str, details: Mapping[str, Any]) -> int:
        """Key of the environment with this fingerprint and these details, written when it is new."""
        with self._write() as connection:
            return _save_environment(connection, fingerprint, details)

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

    # -------------------------------------------------------------- internals

    def _advance(self, connection: sa.Connection, study_id: int, now: dt.datetime) -> tuple[int, int]:
        """Take the study's row and move its revision; returns (next trial number, new revision)."""
        connection.execute(_ADVANCE, {"this_study": study_id, "now": now})
        row = connection.execute(_COUNTERS, {"this_study": study_id}).one_or_none()
        if row is None:
            raise StoreError(f"study {study_id} was deleted from {self.url} while it was in use")
        return row.next_number, row.revision

    @staticmethod
    def _swap(connection: sa.Connection, trial: TrialRecord, values: Mapping[str, Any]) -> None:
        changed = connection.execute(
            m.trials.update()
            .where(
                m.trials.c.id == trial.id,
                m.trials.c.state == TrialState.RUNNING.value,
                m.trials.c.worker_id == trial.worker_id,
                m.trials.c.attempt == trial.attempt,
            )
            .values(**values)
        ).rowcount
        if changed != 1:
            raise LeaseLostError(
                f"trial {trial.number} is not leased to {trial.worker_id} any more: it was told already, or its "
                "lease ran out and another worker took it"
            )


_INSERT_TRIAL = m.trials.insert()
_ADVANCE = (
    m.studies.update()
    .where(m.studies.c.id == sa.bindparam("this_study"))
    .values(revision=m.studies.c.revision + 1, updated_at=sa.bindparam("now"))
)
_SET_NUMBER = (
    m.studies.update()
    .where(m.studies.c.id == sa.bindparam("this_study"))
    .values(next_number=sa.bindparam("next_number"))
)
_COUNTERS = sa.select(m.studies.c.next_number, m.studies.c.revision).where(m.studies.c.id == sa.bindparam("this_study"))


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=str)


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _known_hashes(connection: sa.Connection, study_id: int, proposals: Iterable[Proposal]) -> set[str]:
    query = sa.select(m.trials.c.config_hash).where(
        m.trials.c.study_id == study_id, m.trials.c.config_hash.in_([p.config_hash for p in proposals])
    )
    return set(connection.execute(query).scalars())


def _open_trials(study_id: int) -> sa.Select[Any]:
    return (
        m.trials.select()
        .where(m.trials.c.study_id == study_id, m.trials.c.state.in_(_TAKE_OVER))
        .order_by(m.trials.c.number)
    )


def _can_be_taken(row: Any, now: dt.datetime) -> bool:
    if row.state == TrialState.WAITING.value:
        return True
    return bool(row.lease_until is None or row.lease_until < now or _is_dead(row.worker_id))


def _insert_metrics(connection: sa.Connection, trial_id: int, metrics: Mapping[str, Metric]) -> None:
    connection.execute(
        m.metrics.insert(),
        [
            {
                "trial_id": trial_id,
                "name": name,
                "value": _finite(metric.value),
                "half_width": None if metric.half_width is None else _finite(metric.half_width),
                "unit": unit_of(name),
            }
            for name, metric in metrics.items()
        ],
    )
    rows = [
        {"trial_id": trial_id, "metric": name, "index": index, "value": _finite(sample)}
        for name, metric in metrics.items()
        for index, sample in enumerate(metric.samples)
    ]
    if rows:
        connection.execute(m.samples.insert(), rows)


def _save_environment(connection: sa.Connection, fingerprint: str, details: Mapping[str, Any]) -> int:
    text = _dumps(details)
    values = {"fingerprint": fingerprint, "details_hash": _digest(text), "details": text}
    return _find_or_insert(connection, m.environments, values, ("fingerprint", "details_hash"))


def _save_profile(connection: sa.Connection, profile: Profile) -> int:
    payload = _dumps(profile.payload)
    values = {
        "environment_id": _save_environment(connection, profile.fingerprint, profile.environment),
        "kind": profile.kind,
        "payload_hash": _digest(payload),
        "payload": payload,
        "created_at": _now(),
    }
    return _find_or_insert(connection, m.profiles, values, ("environment_id", "kind", "payload_hash"))


def _find_or_insert(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any], key: Sequence[str]) -> int:
    query = sa.select(table.c.id).where(*(table.c[name] == values[name] for name in key))
    found = connection.execute(query).scalar()
    if found is not None:
        return int(found)
    try:
        with connection.begin_nested():
            return _inserted_key(connection.execute(table.insert().values(**values)))
    except sa.exc.IntegrityError:  # another worker wrote the same row in between
        return int(connection.execute(query).scalar_one())


def _inserted_key(result: sa.CursorResult[Any]) -> int:
    key = result.inserted_primary_key
    if key is None:  # only for statements that insert nothing or many rows
        raise StoreError("the database returned no key for a row that was just written")
    return int(key[0])


def _study(row: Any) -> StudyRecord:
    return StudyRecord(
        id=row.id,
        name=row.name,
        space=json.loads(row.space),
        space_hash=row.space_hash,
        objectives=tuple(json.loads(row.objectives)),
        constraints=tuple(json.loads(row.constraints)),
        default_config=json.loads(row.default_config),
        strategy=row.strategy,
        seed=row.seed,
        state=row.state,
        domain=row.domain,
        stop_reason=row.stop_reason,
        budget=json.loads(row.budget),
        options=json.loads(row.options),
        profile_id=row.profile_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _begun(proposal: Proposal, trial_id: int, row: Mapping[str, Any]) -> TrialRecord:
    return TrialRecord(
        id=trial_id,
        number=row["number"],
        config=proposal.config,
        config_hash=proposal.config_hash,
        state=TrialState.RUNNING,
        proposer=proposal.proposer,
        attempt=1,
        revision=row["revision"],
        label=proposal.label,
        fidelity=proposal.fidelity,
        worker_id=row["worker_id"],
        suggest_s=proposal.suggest_s,
        notes=proposal.notes,
        created_at=row["created_at"],
    )


def _trial(row: Mapping[str, Any], metrics: Mapping[str, Metric]) -> TrialRecord:
    return TrialRecord(
        id=row["id"],
        number=row["number"],
        config=json.loads(row["config"]),
        config_hash=row["config_hash"],
        state=TrialState(row["state"]),
        proposer=row["proposer"],
        attempt=row["attempt"],
        revision=row["revision"],
        label=row["label"],
        fidelity=row["fidelity"],
        worker_id=row["worker_id"],
        failure_kind=FailureKind(row["failure_kind"]) if row["failure_kind"] else None,
        failure_message=row["failure_message"],
        metrics=metrics,
        suggest_s=row["suggest_s"],
        evaluate_s=row["evaluate_s"],
        notes=json.loads(row["notes"]) if row["notes"] else {},
        created_at=row["created_at"],
        finished_at=row["finished_at"],
    )
