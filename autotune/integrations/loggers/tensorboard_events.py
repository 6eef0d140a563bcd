"""Searches in TensorBoard: curves by trial, and every trial on the page of hyper-parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from autotune.errors import UsageError
from autotune.integrations.loggers.base import Logged, StudyLogger, required
from autotune.integrations.loggers.values import flat, identity, outcome, summary
from autotune.result import Result
from autotune.store import TrialState
from autotune.study import Study

_UNSAFE = re.compile(r"[^\w.-]+")
_TRIAL = re.compile(r"trial-(\d+)")
_END = "_hparams_/session_end_info"  # where the plug-in looks for how a session ended


class TensorBoardLogger(StudyLogger):
    """Logs a study as event files: ``LOG_DIR/STUDY-KEY``, with a folder in it for each trial.

    The study's own curves, by trial number, are the metrics, ``best/…``, ``gain`` and, at the end, default, best, gain and
    counts. Each trial is a session of the page of hyper-parameters, with its configuration (of vectors: mean, least and
    greatest), metrics, reports by step under ``reported/…``, and how it ended: success, failure, or neither for a pruned one.

    Args:
        log_dir: what is given to ``tensorboard --logdir``.

    Raises:
        UsageError: when tensorboard is not installed.
    """

    tracker = "TensorBoard"

    def __init__(self, log_dir: str | Path = "runs") -> None:
        super().__init__()
        required("tensorboard", "tensorboard", "tensorboard")
        self._torch = required("torch.utils.tensorboard", "tensorboard", "tensorboard")
        self._hparams = required("torch.utils.tensorboard.summary", "tensorboard", "tensorboard").hparams
        self._root = Path(log_dir)
        self._folder = self._root
        self._curves: Any = None

    def _open(self, study: Study) -> Collection[int]:
        name = _UNSAFE.sub("_", study.name).strip(".") or "study"
        self._folder = self._root / f"{name[:80]}-{identity(study.record)[:8]}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"log_dir {str(self._root)!r} cannot be written: {error.strerror}; name another") from None
        self._curves = self._torch.SummaryWriter(str(self._folder))
        found = (_TRIAL.fullmatch(path.name) for path in self._folder.iterdir())
        return {int(match[1]) for match in found if match}

    def _log(self, study: Study, logged: Logged) -> None:
        trial = logged.trial
        with self._torch.SummaryWriter(str(self._folder / f"trial-{trial.number:05}")) as writer:
            goals = [o.metric for o in study.objectives]
            names = dict.fromkeys([*goals, *trial.values])
            known = {k: v for k, v in flat(trial.config).items() if not isinstance(v, float) or math.isfinite(v)}
            experiment, begin, end = self._hparams(known, dict.fromkeys(names, 0.0), None)
            for part in (experiment, begin, _ended(end, trial.state)):
                writer.file_writer.add_summary(part)
            for name, value in trial.values.items():
                writer.add_scalar(name, value, trial.number)
            for step, name, value in logged.reports:
                writer.add_scalar(f"reported/{name}", value, step)
            writer.add_text("outcome", outcome(trial, feasible=logged.feasible), trial.number)
        for name, value in trial.values.items():
            self._curves.add_scalar(name, value, trial.number)
        so_far = {f"best/{study.objectives[0].metric}": logged.best, "gain": logged.gain}
        for name, found in so_far.items():
            if found is not None:
                self._curves.add_scalar(name, found, trial.number)

    def _flush(self) -> None:
        self._curves.flush()

    def _close(self, result: Result, *, broken_off: bool) -> None:
        for name, value in summary(result).items():
            self._curves.add_scalar(f"result/{name}", value, max(0, len(result.study.trials) - 1))
        if result.stop_reason:
            self._curves.add_text("stop_reason", result.stop_reason)
        self._curves.close()


def _ended(end: Any, state: TrialState) -> Any:
    """The end of a session with the status of a trial; torch writes success only."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415 - an extra
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2  # noqa: PLC0415

    status = {TrialState.COMPLETED: api_pb2.STATUS_SUCCESS, TrialState.FAILED: api_pb2.STATUS_FAILURE}
    changed = Summary()
    changed.CopyFrom(end)
    (value,) = (v for v in changed.value if v.tag == _END)
    data = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
    data.session_end_info.status = status.get(state, api_pb2.STATUS_UNKNOWN)
    value.metadata.plugin_data.content = data.SerializeToString()
    return changed
