"""Searches in Weights & Biases: one run for each study."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from autotune.errors import UsageError
from autotune.integrations.loggers.base import Logged, StudyLogger, required
from autotune.integrations.loggers.values import facts, flat, identity, outcome, summary
from autotune.result import Result
from autotune.store.records import TrialRecord
from autotune.study import Study

_MODES = ("online", "offline", "disabled")
_NOTED = "autotune-trials.txt"  # beside a run's files: the numbers of the trials that it holds, one a line


class WandbLogger(StudyLogger):
    """Logs a study as a run of Weights & Biases, a step for each trial.

    A step holds the trial's number (the charts' axis), how it ended, its configuration (of vectors: mean, least and greatest),
    metrics, and the incumbent. At the end follow a table of all trials, and default, best, gain and counts as the summary.
    The run's identifier follows from the study, so that a study that is gone on with goes on in its run. Which trials a run
    holds already is read beside its local files; where there are none, all that finished before is taken as logged.

    Args:
        project: where the run belongs.
        mode: ``offline`` writes files alone, which ``wandb sync`` sends later; wandb's own choice when None.
        dir: folder of the local files; wandb's own choice when None.
        settings: more arguments for ``wandb.init``, such as `entity`, `group` or `tags`.

    Raises:
        UsageError: when wandb is not installed, or for a mode that it does not have.
    """

    tracker = "Weights & Biases"

    def __init__(
        self,
        project: str = "autotune",
        *,
        mode: Literal["online", "offline", "disabled"] | None = None,
        dir: str | Path | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if mode is not None and mode not in _MODES:
            raise UsageError(f"mode {mode!r} is unknown to wandb; use one of: {', '.join(_MODES)}")
        ours = sorted(settings.keys() & {"id", "resume", "config"})
        if ours:
            raise UsageError(f"{ours[0]} follows from the study, so that a search goes on in its run; leave it out")
        self._wandb = required("wandb", "wandb", "wandb")
        self._settings = {
            "project": project,
            "mode": mode,
            "dir": None if dir is None else str(dir),
            **settings,
        }
        self._run: Any = None
        self._noted: Path | None = None

    def _open(self, study: Study) -> Collection[int]:
        if self._settings["dir"] is not None:  # wandb turns to another folder, silently, where it is not there
            Path(self._settings["dir"]).mkdir(parents=True, exist_ok=True)
        config = {**facts(study.record), "default": dict(study.record.default_config)}
        self._run = self._wandb.init(
            **{"name": study.name, **self._settings}, id=identity(study.record), resume="allow", config=config
        )
        self._run.define_metric("trial")
        self._run.define_metric("*", step_metric="trial")
        folder = Path(self._run.dir).parent
        self._noted = folder / _NOTED if folder.is_dir() else None
        earlier = [] if self._noted is None else sorted(folder.parent.glob(f"*-{self._run.id}/{_NOTED}"))
        if earlier:
            return {int(number) for file in earlier for number in file.read_text().split()}
        return {t.number for t in study.trials if t.finished_at is not None} if self._run.resumed else ()

    def _log(self, study: Study, logged: Logged) -> None:
        trial = logged.trial
        step: dict[str, Any] = {
            "trial": trial.number,
            "state": trial.state.value,
            "outcome": outcome(trial, feasible=logged.feasible),
            **{f"config/{name}": value for name, value in flat(trial.config).items()},
            **trial.values,
        }
        so_far = {f"best/{study.objectives[0].metric}": logged.best, "gain": logged.gain}
        times = {"time/suggest_s": trial.suggest_s, "time/evaluate_s": trial.evaluate_s}
        self._run.log(step | {name: value for name, value in (so_far | times).items() if value is not None})
        if self._noted is not None:
            with self._noted.open("a", encoding="utf-8") as file:
                file.write(f"{trial.number}\n")

    def _close(self, result: Result, *, broken_off: bool) -> None:
        trials = result.study.trials
        if trials:
            rows = [_row(trial) for trial in trials]
            columns = list(dict.fromkeys(name for row in rows for name in row))
            data = [[row.get(name) for name in columns] for row in rows]
            self._run.log({"trials": self._wandb.Table(columns=columns, data=data, allow_mixed_types=True)})
        self._run.summary.update(summary(result))
        if result.best is not None:
            self._run.summary["best_config"] = json.dumps(dict(result.best.config))
        if result.stop_reason:
            self._run.summary["stop_reason"] = result.stop_reason
        self._run.finish(exit_code=1 if broken_off else 0)


def _row(trial: TrialRecord) -> Mapping[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state.value,
        "label": trial.label,
        "proposer": trial.proposer,
        "failure": None if trial.failure_kind is None else trial.failure_kind.value,
        "message": trial.failure_message,
        **{f"config/{name}": value for name, value in flat(trial.config).items()},
        **trial.values,
    }
