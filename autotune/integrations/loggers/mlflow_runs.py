"""Searches in MLflow: a run for each study, with a nested run for each trial."""

from __future__ import annotations

import json
import posixpath
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from autotune.errors import UsageError
from autotune.integrations.loggers.base import Logged, StudyLogger, required
from autotune.integrations.loggers.values import facts, flat, identity, outcome, summary
from autotune.result import Result
from autotune.store import TrialRecord, TrialState
from autotune.store.rows import utc_now
from autotune.study import Study

_FORBIDDEN = re.compile(r"[^\w\-. :/]")
_NAME_LENGTH, _PARAM_LENGTH, _TAG_LENGTH = 250, 500, 5000  # what older servers take too
_AT_ONCE = 100  # parameters or tags in one request; of metrics it may be more
_PAGE = 1000
_KEY, _ROLE, _NUMBER = "autotune.key", "autotune.role", "autotune.trial"
_STATUS = {TrialState.COMPLETED: "FINISHED", TrialState.FAILED: "FAILED", TrialState.PRUNED: "KILLED"}


class MLflowLogger(StudyLogger):
    """Logs a study as a run of MLflow and each of its trials as a run nested in it.

    A trial's run holds the configuration as parameters (of vectors: mean, least and greatest), metrics, reports by step, and as
    tags how it ended; its status is FINISHED, FAILED or KILLED, the last for a pruned one. The study's run holds the
    incumbent by trial, and at the end default, best, gain, counts and the whole result as ``result.json``.

    Args:
        experiment: made where it does not exist.
        tracking_uri: where MLflow keeps runs, ``sqlite:///mlflow.db``; MLflow's own choice when None.
        tags: of the study's run.

    Raises:
        UsageError: when MLflow is not installed.
    """

    tracker = "MLflow"

    def __init__(
        self, experiment: str = "autotune", *, tracking_uri: str | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        if not experiment.strip():
            raise UsageError(f"experiment {experiment!r} is empty; name an experiment of MLflow")
        self._mlflow = required("mlflow", "MLflow", "mlflow")
        self._entities = required("mlflow.entities", "MLflow", "mlflow")
        self._experiment_name, self._uri, self._tags = experiment, tracking_uri, dict(tags or {})
        self._client: Any = None
        self._experiment = self._key = self._run = ""
        self._begun: dict[int, str] = {}  # runs of trials that another process began and did not end

    def _open(self, study: Study) -> Collection[int]:
        self._client = self._mlflow.MlflowClient(tracking_uri=self._uri)
        found = self._client.get_experiment_by_name(self._experiment_name)
        self._experiment = (
            self._client.create_experiment(self._experiment_name) if found is None else found.experiment_id
        )
        self._key = identity(study.record)
        run = next(self._runs("study"), None)
        if run is None:
            tags = {**self._tags, _KEY: self._key, _ROLE: "study", "autotune.storage": study.store.url}
            run = self._client.create_run(self._experiment, tags=tags, run_name=study.name)
            self._write(run.info.run_id, params=facts(study.record))
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._run = run.info.run_id
        ended: set[int] = set()
        for one in self._runs("trial"):
            number = int(one.data.tags[_NUMBER])
            if one.info.status == "RUNNING":
                self._begun[number] = one.info.run_id
            else:
                ended.add(number)
        return ended

    def _runs(self, role: str) -> Iterator[Any]:
        query = f"tags.`{_KEY}` = '{self._key}' and tags.`{_ROLE}` = '{role}'"
        token: str | None = None
        while True:
            page = self._client.search_runs([self._experiment], query, max_results=_PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _log(self, study: Study, logged: Logged) -> None:
        trial = logged.trial
        run = self._begun.pop(trial.number, None) or self._begin(trial)
        ended = _milliseconds(trial.finished_at)
        reported = [(name, value, step, ended) for step, name, value in logged.reports]
        measured = [(name, value, 0, ended) for name, value in trial.values.items()]
        if trial.evaluate_s is not None:
            measured.append(("evaluate_s", trial.evaluate_s, 0, ended))
        steps = {name: step + 1 for name, _, step, _ in sorted(reported, key=lambda one: one[2])}
        measured = [(name, value, steps.get(name, 0), at) for name, value, _, at in measured]
        self._write(run, [*reported, *measured], flat(trial.config), self._told(study, logged))
        self._client.set_terminated(run, _STATUS[trial.state], end_time=ended)
        so_far = {f"best/{study.objectives[0].metric}": logged.best, "gain": logged.gain}
        self._write(self._run, [(n, v, trial.number, ended) for n, v in so_far.items() if v is not None])

    def _begin(self, trial: TrialRecord) -> str:
        tags = {
            _KEY: self._key,
            _ROLE: "trial",
            _NUMBER: str(trial.number),
            "mlflow.parentRunId": self._run,
        }
        name = f"trial {trial.number}" + (f" ({trial.label})" if trial.label else "")
        started = _milliseconds(trial.created_at)
        made = self._client.create_run(self._experiment, start_time=started, tags=tags, run_name=name[:_NAME_LENGTH])
        return str(made.info.run_id)

    @staticmethod
    def _told(study: Study, logged: Logged) -> dict[str, Any]:
        trial = logged.trial
        told = {
            "outcome": outcome(trial, feasible=logged.feasible),
            "state": trial.state.value,
            "feasible": str(logged.feasible).lower() if trial.state is TrialState.COMPLETED else None,
            "failure_kind": None if trial.failure_kind is None else trial.failure_kind.value,
            "proposer": trial.proposer,
            "label": trial.label,
            "fidelity": study.record.evaluator_of(trial),
            "config": json.dumps(dict(trial.config)),
        }
        return {f"autotune.{name}": value for name, value in told.items() if value is not None}

    def _close(self, result: Result, *, broken_off: bool) -> None:
        now = _milliseconds(utc_now())
        step = max(0, len(result.study.trials) - 1)
        tags = {"autotune.stop_reason": result.stop_reason} if result.stop_reason else {}
        self._write(self._run, [(name, v, step, now) for name, v in summary(result).items()], tags=tags)
        self._client.log_dict(self._run, result.to_dict(), "result.json")
        self._client.set_terminated(self._run, "KILLED" if broken_off else "FINISHED")

    def _write(
        self,
        run: str,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Write (name, value, step, time in ms), parameters and tags, in requests of the size that servers take."""
        known = _names([name for name, *_ in metrics])
        values = [self._entities.Metric(known[name], value, at, step) for name, value, step, at in metrics]
        named = _names(params or ())
        pairs = [self._entities.Param(named[k], str(v)[:_PARAM_LENGTH]) for k, v in (params or {}).items()]
        marks = [self._entities.RunTag(k, str(v)[:_TAG_LENGTH]) for k, v in (tags or {}).items()]
        for first in range(0, max(map(len, (values, pairs, marks))), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            self._client.log_batch(run, metrics=values[some], params=pairs[some], tags=marks[some])


def _names(given: Collection[str]) -> dict[str, str]:
    """Names that MLflow takes, each its own: other characters than its own become ``_``."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(given):
        made = _FORBIDDEN.sub("_", name)
        if posixpath.normpath(made) != made or made.startswith(("/", "..")) or made == ".":
            made = made.replace("/", "_").strip(".") or "_"
        made = made[: _NAME_LENGTH - 4]
        unique, count = made, 1
        while unique in taken:
            count += 1
            unique = f"{made}_{count}"
        taken.add(unique)
        found[name] = unique
    return found


def _milliseconds(moment: Any) -> int:
    return int(time.time() * 1000) if moment is None else int(moment.timestamp() * 1000)
