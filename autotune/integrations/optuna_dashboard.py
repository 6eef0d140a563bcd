"""optuna-dashboard on an autotune database as it is: nothing is copied, new trials show as they come, nothing is written.

    from optuna_dashboard import run_server
    from autotune.integrations.optuna_dashboard import LiveStorage

    run_server(LiveStorage("sqlite:///autotune.db"))

`serve` does the same, answers several requests at once, and refuses what would write with a sentence.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any, NoReturn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from autotune.errors import AutotuneError, UsageError
from autotune.integrations.optuna_export import InOptunaTerms
from autotune.store import Store, StudyRecord, TrialRecord, TrialState
from autotune.study import Study

_METRIC_NAMES = "study:metric_names"  # where Optuna keeps what `Study.set_metric_names` was given
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

Respond = Callable[..., Any]
Application = Callable[[dict[str, Any], Respond], Iterable[bytes]]


@dataclass
class _Known:
    """What was read of one study so far: up to `revision` nothing is missing."""

    terms: InOptunaTerms
    study: Study
    revision: int = -1
    records: dict[int, TrialRecord] = field(default_factory=dict)  # by number, as are the next
    trials: dict[int, FrozenTrial] = field(default_factory=dict)


class LiveStorage(BaseStorage):  # type: ignore[misc]
    """The studies of an autotune database as an Optuna storage that can be read and not written.

    Each read asks the database for what changed since the last one. Safe to share between threads. See `InOptunaTerms` for how
    trials look; the best trial is the best feasible one, or the one nearest to feasible where there is none.

    Args:
        storage: a database URL, opened for reading only, or a `Store`.

    Raises:
        UsageError: when the database is not there, or cannot be read.
    """

    def __init__(self, storage: str | Store) -> None:
        self._store = storage if isinstance(storage, Store) else Store(storage, read_only=True)
        self._turn = threading.RLock()
        self._known: dict[tuple[int, Any], _Known] = {}
        self._study_of: dict[int, int] = {}  # by a trial's key

    # What Optuna reads

    def get_all_studies(self) -> list[FrozenStudy]:
        """Every study, the oldest first."""
        return [_frozen(study) for study in reversed(self._store.records())]

    def get_study_id_from_name(self, study_name: str) -> int:
        """See Optuna."""
        found = self._store.find_study(study_name)
        if found is None:
            raise KeyError(study_name)
        return found.id

    def get_study_name_from_id(self, study_id: int) -> str:
        """See Optuna."""
        return self._record(study_id).name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See Optuna."""
        return list(_frozen(self._record(study_id)).directions)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See Optuna."""
        return dict(_frozen(self._record(study_id)).user_attrs)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See Optuna."""
        return dict(_frozen(self._record(study_id)).system_attrs)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[OptunaState] | None = None
    ) -> list[FrozenTrial]:
        """Trials as the database has them now, by number. They are never changed afterwards, so none is ever copied."""
        with self._turn:
            known = self._read(study_id)
            found = [known.trials[number] for number in sorted(known.trials)]
        return [t for t in found if states is None or t.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See Optuna."""
        with self._turn:
            if trial_id not in self._study_of:
                for study in self._store.records():
                    self._read(study.id)
            trials = self.get_all_trials(self._study_of[trial_id]) if trial_id in self._study_of else []
        for trial in trials:
            if trial._trial_id == trial_id:
                return trial
        raise KeyError(trial_id)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """See Optuna; outcome constraints are heeded, and replicates taken as one."""
        with self._turn:
            known = self._read(study_id)
            goals = known.study.record.goals
            if len(goals.objectives) > 1:
                raise RuntimeError(f"study {known.study.name!r} has several objectives, of which no one trial is best")
            counted = [known.records[number] for number in sorted(known.records) if known.records[number].counts]
            completed = [t for t in counted if t.state is TrialState.COMPLETED]
            ranked = [t for t in goals.merge(completed) if goals.is_usable(t)]
            if not ranked:
                raise ValueError(f"study {known.study.name!r} has no completed trial yet")
            return known.trials[min(ranked, key=goals.rank).number]

    # What it cannot do here

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Refused."""
        self._refuse()

    def delete_study(self, study_id: int) -> None:
        """Refused."""
        self._refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Refused."""
        self._refuse()

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Refused."""
        self._refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Refused."""
        self._refuse()

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Refused."""
        self._refuse()

    def set_trial_state_values(self, trial_id: int, state: OptunaState, values: Sequence[float] | None = None) -> bool:
        """Refused."""
        self._refuse()

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Refused."""
        self._refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Refused."""
        self._refuse()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Refused."""
        self._refuse()

    def remove_session(self) -> None:
        """Nothing to do: connections are given back after each read."""

    # Internals

    def _refuse(self) -> NoReturn:
        raise UsageError(f"{self._store.url} is shown through Optuna for reading only; write to it through autotune")

    def _record(self, study_id: int) -> StudyRecord:
        for study in self._store.records():
            if study.id == study_id:
                return study
        raise KeyError(study_id)

    def _read(self, study_id: int) -> _Known:
        record = self._record(study_id)
        key = (study_id, record.created_at)  # a database may give a deleted study's key to another one
        if key not in self._known:
            study = Study.view(self._store, record)
            self._known[key] = _Known(InOptunaTerms(study), study)
        known = self._known[key]
        changed = self._store.trials(study_id, since=known.revision)
        for trial in changed:
            known.records[trial.number] = trial
            known.revision = max(known.revision, trial.revision)
            self._study_of[trial.id] = study_id
        # Reports move no revision, so those of running trials are read every time.
        running = [t for t in known.records.values() if t.state is TrialState.RUNNING]
        fresh = {t.number: t for t in (*running, *changed)}
        reports = self._store.reports_of([t.id for t in fresh.values()])
        known.trials |= {number: known.terms.trial(t, reports.get(t.id, ())) for number, t in fresh.items()}
        return known


def _frozen(study: StudyRecord) -> FrozenStudy:
    told = {
        "domain": study.domain,
        "strategy": study.strategy,
        "constraints": ", ".join(study.constraints),
        "state": study.state,
        "stop reason": study.stop_reason,
    }
    objectives = study.goals.objectives
    return FrozenStudy(
        study_name=study.name,
        direction=None,
        directions=[StudyDirection[o.direction.upper()] for o in objectives],
        user_attrs={name: text for name, text in told.items() if text},
        system_attrs={_METRIC_NAMES: [o.metric for o in objectives]},
        study_id=study.id,
    )


def require_optuna_dashboard() -> None:
    """
    Raises:
        UsageError: when optuna-dashboard is not installed.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise UsageError("optuna-dashboard is not installed; install it with: pip install 'autotune[optuna-dashboard]'")


def application(storage: str | Store) -> Application:
    """optuna-dashboard on a database as a WSGI application, for a server of one's own. It only reads.

    Requests that would write are refused with status 403, and with 503 all that cannot be read, each with a sentence.

    Raises:
        UsageError: when optuna-dashboard is not installed, or the database cannot be read.
    """
    require_optuna_dashboard()
    from optuna_dashboard import wsgi  # noqa: PLC0415 - an extra

    live = LiveStorage(storage)
    pages: Application = wsgi(live)

    def answer(environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD", "GET") not in _READING:
            return _told(respond, HTTPStatus.FORBIDDEN, "this view is for reading only; nothing was changed")
        if path.startswith("/api/studies"):
            try:
                live.get_all_studies()
            except AutotuneError as error:
                return _told(respond, HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        return pages(environ, respond)

    return answer


def _told(respond: Respond, status: HTTPStatus, reason: str) -> Iterable[bytes]:
    body = json.dumps({"reason": reason}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    respond(f"{status.value} {status.phrase}", headers)
    return [body]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Pages ask every few seconds, and no line is worth a look."""


def make_dashboard_server(storage: str | Store, host: str = "127.0.0.1", port: int = 8081) -> WSGIServer:
    """A server that is bound and not yet serving: ``server.serve_forever()``; `port` 0 takes a free one.

    Raises:
        UsageError: as `application`; and when the address cannot be bound.
    """
    app: Any = application(storage)
    try:
        return make_server(host, port, app, server_class=_Server, handler_class=_Quiet)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"port {port} of {host} cannot be served: {reason}; choose another port") from None


def serve(storage: str | Store, host: str = "127.0.0.1", port: int = 8081) -> None:
    """Serve until interrupted. See `make_dashboard_server`."""
    with make_dashboard_server(storage, host, port) as server:
        server.serve_forever()
