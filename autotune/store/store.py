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
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from autotune.checks import stored_name
from autotune.errors import LeaseLostError, StoreError, StudyExistsError, UsageError
from autotune.measurement import Failure, FailureKind, Measurement, Metric, log_tail
from autotune.reports import Pruned
from autotune.store import models as m
from autotune.store import statements as q
from autotune.store.insertion import inserted_key, save_environment, save_profile
from autotune.store.reading import Reading
from autotune.store.records import PRUNED_NOTE, Profile, Proposal, SourceRecord, StudyRecord, TrialRecord, TrialState
from autotune.store.rows import (
    artifact_rows,
    begun_record,
    clean,
    dumps,
    finished_record,
    metric_rows,
    nullable,
    sample_rows,
    trial_record,
    utc_now,
)
from autotune.store.workers import is_dead, user_name

MAX_ATTEMPTS = 3  # how often a trial is tried when the machine, not the configuration, fails


class Store(Reading):
    """Studies and trials in one database. Safe to share between threads; each process opens its own."""

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
        strategy_options: Mapping[str, Any] | None = None,
        sources: Sequence[SourceRecord] = (),
        profile: Profile | None = None,
        owner: str | None = None,
    ) -> StudyRecord:
        """Write a new study.

        Args:
            owner: who makes it; the user of this process when None (`workers.user_name`).

        Raises:
            UsageError: when the name is taken, or cannot be a name.
        """
        stored_name("study name", name, m.NAME_LENGTH)
        owner = user_name() if owner is None else stored_name("owner", owner, m.NAME_LENGTH)
        now = utc_now()
        with self._write() as connection:
            profile_id = save_profile(connection, profile) if profile else None
            try:
                connection.execute(
                    m.studies.insert().values(
                        name=name,
                        domain=domain,
                        space=dumps(space),
                        space_hash=space_hash,
                        objectives=dumps(list(objectives)),
                        constraints=dumps(list(constraints)),
                        default_config=dumps(default_config),
                        strategy=strategy,
                        strategy_options=dumps(strategy_options) if strategy_options else None,
                        sources=dumps([asdict(source) for source in sources]) if sources else None,
                        seed=seed,
                        budget=dumps(budget or {}),
                        options=dumps(options or {}),
                        state="running",
                        profile_id=profile_id,
                        next_number=0,
                        revision=0,
                        created_at=now,
                        updated_at=now,
                        owner=owner,
                    )
                )
            except sa.exc.IntegrityError:
                raise StudyExistsError(
                    f"study {name!r} exists already in {self.url}; load it, or choose another name"
                ) from None
        return self.load_study(name)

    def set_study_state(
        self, study_id: int, state: str, reason: str | None = None, *, store_s: float | None = None
    ) -> None:
        """Record that a search runs, is done or was interrupted, and why it stopped.

        Args:
            store_s: seconds that a search which ends spent on its store, added to those of others.
        """
        values: dict[str, Any] = {"state": state, "stop_reason": reason}
        if store_s is not None:
            values["store_s"] = sa.func.coalesce(m.studies.c.store_s, 0.0) + store_s
        self._set(study_id, values)

    def begin_search(self, study: StudyRecord) -> None:
        """Record that a search runs, and take back the request to stop that `study` was read with; a newer one stands."""
        this = m.studies.c.id == study.id
        with self._write() as connection:
            connection.execute(
                m.studies.update().where(this).values(state="running", stop_reason=None, updated_at=utc_now())
            )
            if study.stop_requested:
                connection.execute(
                    m.studies.update()
                    .where(this, m.studies.c.stop_requested_at == study.stop_requested_at)
                    .values(stop_requested_at=None, stop_requested_by=None)
                )

    def request_stop(self, study_id: int, by: str) -> None:
        """Ask every search of the study to end after the evaluation that it is at.

        A search that begins later takes the request back; `by` is named in the reason that a search ends with.

        Raises:
            UsageError: when `by` cannot be a name.
        """
        by = stored_name("the name of who stops a study", by, m.NAME_LENGTH)
        self._set(study_id, {"stop_requested_at": utc_now(), "stop_requested_by": by})

    def archive(self, study_id: int, archived: bool = True) -> None:
        """Put a study aside, so that lists leave it out, or take it back. Its trials stay as they are."""
        self._set(study_id, {"archived_at": utc_now() if archived else None})

    def set_options(self, study_id: int, changed: Mapping[str, Any]) -> None:
        """Keep other values of some of a study's options (None takes one out), and all the rest."""
        this = m.studies.c.id == study_id
        with self._write() as connection:
            # The row is taken before it is read, so that no other writer comes in between.
            connection.execute(m.studies.update().where(this).values(updated_at=utc_now()))
            kept = json.loads(connection.execute(sa.select(m.studies.c.options).where(this)).scalar_one())
            options = {name: value for name, value in {**kept, **changed}.items() if value is not None}
            connection.execute(m.studies.update().where(this).values(options=dumps(options)))

    def _set(self, study_id: int, values: Mapping[str, Any]) -> None:
        with self._write() as connection:
            connection.execute(
                m.studies.update().where(m.studies.c.id == study_id).values(updated_at=utc_now(), **values)
            )

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
        up_to: int | None = None,
        cheaper_up_to: int | None = None,
        expect: int | None = None,
    ) -> list[TrialRecord | None] | None:
        """Turn proposals into running trials, in one transaction.

        A configuration is begun once at each fidelity, replicates apart.

        Args:
            up_to: begin none where the study has so many already, however many workers begin trials at once.
            cheaper_up_to: as `up_to`, for trials of cheaper fidelities, which `up_to` does not count then; None in a
                study of one fidelity.
            expect: the revision of the study that the proposals were made for.

        Returns:
            One entry per proposal; None where that configuration is in the study already, or was one too many. None for
            all, and nothing is written, where the study has moved on from `expect`.
        """
        now = utc_now()
        begun: list[TrialRecord | None] = []
        with self._write() as connection:
            # Numbers are taken for all at once, and given back in the rare case that some are not needed.
            after, revision = self._advance(connection, study_id, now, len(proposals))
            if expect is not None and revision != expect + 1:
                connection.rollback()
                return None
            number = after - len(proposals)
            most, most_cheaper = (math.inf if limit is None else limit for limit in (up_to, cheaper_up_to))
            apart = cheaper_up_to is not None
            cheaper = connection.execute(q.COUNT_CHEAPER, {"this_study": study_id}).scalar_one() if apart else 0
            for proposal in proposals:
                cheap = apart and proposal.fidelity is not None
                if (
                    number - cheaper >= most
                    or (cheap and cheaper >= most_cheaper)
                    or not (allow_duplicates or proposal.replicate or _is_new(connection, study_id, proposal))
                ):
                    begun.append(None)
                    continue
                cheaper += cheap
                row = {
                    "study_id": study_id,
                    "number": number,
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
                    "notes": dumps(proposal.notes) if proposal.notes else None,
                    "created_at": now,
                }
                key = inserted_key(connection.execute(q.INSERT_TRIAL, row))
                begun.append(begun_record(proposal, key, row))
                number += 1
            if number != after:
                connection.execute(q.SET_NUMBER, {"this_study": study_id, "number": number})
        return begun

    def take_over(
        self, study_id: int, *, worker_id: str, lease_s: float, environment_id: int | None = None
    ) -> TrialRecord | None:
        """Lease a trial that waits to be evaluated again: released, expired, or left by a process that is gone.

        A trial whose worker vanished `MAX_ATTEMPTS` times is closed as an `infra` failure instead.
        """
        if not self._stale(study_id):
            return None
        now = utc_now()
        with self._write() as connection:
            _, revision = self._advance(connection, study_id, now)
            for row in connection.execute(q.OPEN_TRIALS, {"this_study": study_id}):
                if not _can_be_taken(row, now):
                    continue
                this = m.trials.update().where(m.trials.c.id == row.id)
                if row.attempt >= MAX_ATTEMPTS and row.state == TrialState.RUNNING.value:
                    connection.execute(
                        this.values(
                            state=TrialState.FAILED.value,
                            failure_kind=FailureKind.INFRA.value,
                            failure_message=f"given up after {row.attempt} attempts: its worker vanished each time",
                            lease_until=None,
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
                    "environment_id": environment_id,
                    "revision": revision,
                }
                connection.execute(this.values(**values))
                connection.execute(q.FORGET_REPORTS, {"this_trial": row.id})  # it is measured from the start
                return trial_record({**row._mapping, **values}, {})
        return None

    def _stale(self, study_id: int) -> bool:
        """A look without a lock, so that an ask in the ordinary case stays one transaction."""
        now = utc_now()
        with self._read() as connection:
            return any(_can_be_taken(row, now) for row in connection.execute(q.OPEN_TRIALS, {"this_study": study_id}))

    def extend_lease(self, trial: TrialRecord, lease_s: float) -> None:
        """Keep a running trial (a heartbeat).

        Raises:
            LeaseLostError: when it was given to another worker.
        """
        until = utc_now() + dt.timedelta(seconds=lease_s)
        with self._write() as connection:
            self._swap(connection, q.EXTEND, trial, {"lease_until": until})

    def finish(
        self,
        study_id: int,
        trial: TrialRecord,
        outcome: Measurement | Failure | Pruned,
        *,
        evaluate_s: float | None = None,
        retry: bool = True,
    ) -> TrialRecord:
        """Write what an evaluation gave, with its log and artifacts, in one transaction, durable on return.

        An `infra` failure puts the trial back to wait until it was attempted `MAX_ATTEMPTS` times, unless `retry` is
        False.

        Raises:
            LeaseLostError: when the trial is not this worker's any more, or was finished before.
            UsageError: for an artifact that cannot be read; nothing is written then.
        """
        now = utc_now()
        values: dict[str, Any] = dict.fromkeys(("failure_kind", "failure_message", "lease_until"))
        values |= {"evaluate_s": evaluate_s, "finished_at": now}
        notes = dict(trial.notes)
        metrics: Mapping[str, Metric] = {}
        if isinstance(outcome, Measurement):
            values["state"] = TrialState.COMPLETED.value
            notes |= outcome.notes
            metrics = outcome.metrics
        elif isinstance(outcome, Pruned):
            values["state"] = TrialState.PRUNED.value
            values["failure_message"] = clean(outcome.reason)
            notes[PRUNED_NOTE] = outcome.facts
        elif outcome.kind is FailureKind.INFRA and retry and trial.attempt < MAX_ATTEMPTS:
            values |= {"state": TrialState.WAITING.value, "evaluate_s": None, "finished_at": None}
        else:
            values["state"] = TrialState.FAILED.value
            values["failure_kind"] = outcome.kind.value
            values["failure_message"] = clean(outcome.message)
        values["notes"] = dumps(notes) if notes else None
        samples = sample_rows(trial.id, metrics)
        artifacts = artifact_rows(trial.id, outcome.artifacts) if isinstance(outcome, Measurement) else []
        with self._write() as connection:
            _, values["revision"] = self._advance(connection, study_id, now)
            self._swap(connection, q.FINISH, trial, values)
            if metrics:
                connection.execute(q.INSERT_METRICS, metric_rows(trial.id, metrics))
            if samples:
                connection.execute(q.INSERT_SAMPLES, samples)
            if trial.attempt > 1:  # an attempt before may have left some
                connection.execute(q.FORGET_LOG, {"this_trial": trial.id})
                connection.execute(q.FORGET_ARTIFACTS, {"this_trial": trial.id})
            if outcome.log:
                connection.execute(q.INSERT_LOG, {"trial_id": trial.id, "text": log_tail(clean(outcome.log) or "")})
            if artifacts:
                connection.execute(q.INSERT_ARTIFACTS, artifacts)
        return finished_record(trial, values, metrics)

    def release(self, study_id: int, trial: TrialRecord) -> None:
        """Put a running trial back to wait, when its worker is stopped before it could finish.

        Raises:
            LeaseLostError: when it is not this worker's any more.
        """
        with self._write() as connection:
            _, revision = self._advance(connection, study_id, utc_now())
            values = {
                **dict.fromkeys(("failure_kind", "failure_message", "evaluate_s", "finished_at", "lease_until")),
                "state": TrialState.WAITING.value,
                "notes": dumps(trial.notes) if trial.notes else None,
                "revision": revision,
            }
            self._swap(connection, q.FINISH, trial, values)

    def report(self, trial: TrialRecord, step: int, values: Mapping[str, float]) -> None:
        """Write intermediate values of a running trial; see `report_all`."""
        self.report_all(trial, [(step, values)])

    def report_all(self, trial: TrialRecord, reports: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Write intermediate values of a running trial by step, in one transaction.

        Raises:
            UsageError: when one of these metrics was reported for its step before.
            LeaseLostError: when the trial is not this worker's any more, or was finished before.
        """
        rows = [
            {"trial_id": trial.id, "step": step, "metric": k, "value": nullable(v)}
            for step, values in reports
            for k, v in values.items()
        ]
        if not rows:
            return
        with self._write() as connection:
            if connection.execute(q.FIND_LEASE, _lease(trial)).scalar() is None:
                raise _lost(trial)
            try:
                connection.execute(q.INSERT_REPORTS, rows)
            except sa.exc.IntegrityError:
                steps = f"step {reports[0][0]}" if len(reports) == 1 else f"steps {reports[0][0]} to {reports[-1][0]}"
                names = ", ".join(dict.fromkeys(name for _, values in reports for name in values))
                raise UsageError(
                    f"trial {trial.number} has a report of {names} at {steps} already; count steps up"
                ) from None

    # ---------------------------------------------- environments and profiles

    def save_environment(self, fingerprint: str, details: Mapping[str, Any]) -> int:
        """Key of the environment with this fingerprint and these details, written when it is new."""
        with self._write() as connection:
            return save_environment(connection, fingerprint, details)

    # -------------------------------------------------------------- internals

    def _advance(self, connection: sa.Connection, study_id: int, now: dt.datetime, count: int = 0) -> tuple[int, int]:
        """Take the study's row and move its counters; returns (next trial number, revision) after that."""
        moved = q.advance(connection, {"this_study": study_id, "now": now, "count": count})
        if moved is None:
            raise StoreError(f"study {study_id} was deleted from {self.url} while it was in use")
        return moved

    @staticmethod
    def _swap(connection: sa.Connection, update: sa.Update, trial: TrialRecord, values: Mapping[str, Any]) -> None:
        new = {f"new_{name}": value for name, value in values.items()}
        if connection.execute(update, _lease(trial) | new).rowcount != 1:
            raise _lost(trial)


def _lease(trial: TrialRecord) -> dict[str, Any]:
    return {"this_trial": trial.id, "this_worker": trial.worker_id, "this_attempt": trial.attempt}


def _lost(trial: TrialRecord) -> LeaseLostError:
    return LeaseLostError(
        f"trial {trial.number} is not leased to {trial.worker_id} any more: it was told already, or its lease ran out and "
        "another worker took it"
    )


def _is_new(connection: sa.Connection, study_id: int, proposal: Proposal) -> bool:
    known = {"this_study": study_id, "hash": proposal.config_hash}
    if proposal.fidelity is None:
        return connection.execute(q.FIND_CONFIG, known).scalar() is None
    return connection.execute(q.FIND_CONFIG_AT, {**known, "fidelity": proposal.fidelity}).scalar() is None


def _can_be_taken(row: Any, now: dt.datetime) -> bool:
    if row.state == TrialState.WAITING.value:
        return True
    return bool(row.lease_until is None or row.lease_until < now or is_dead(row.worker_id))
