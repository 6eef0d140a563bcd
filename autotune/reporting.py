"""What an evaluation reports while a search drives it: kept in the store, and answered by the study's pruner."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from autotune.errors import LeaseLostError, StoreError
from autotune.execution import Evaluate, Runner
from autotune.execution.runner import takes
from autotune.reports import TOO_LATE, Pruned, checked
from autotune.study import Study
from autotune.trial import Trial

_EVERY_S = 0.25  # between two writes: each is a transaction that waits for the disk


class Reporter:
    """The `Report` of one trial. Use as a context manager: when it is left, everything reported is in the store.

    Reports are written together, at most one transaction in a quarter of a second, and none waits longer than that for the
    next. Decisions do not wait: the pruner sees every report at once.

    Args:
        study, trial: whose reports.
        every_s: seconds between two writes.

    Attributes:
        stopped: the signal that was raised, None while there was no reason to.
    """

    def __init__(self, study: Study, trial: Trial, every_s: float = _EVERY_S) -> None:
        self.stopped: Pruned | None = None
        self._study, self._trial, self._every_s = study, trial, every_s
        self._watch = study.referee.watch(trial.record)
        self._lock = threading.Lock()  # between the evaluation and the timer
        self._step = -1
        self._waiting: list[tuple[int, Mapping[str, float]]] = []
        self._wrote = time.monotonic()
        self._timer: threading.Timer | None = None
        self._lost = self._closed = False

    def __call__(self, step: int, **metrics: float) -> None:
        """See `Report`."""
        with self._lock:
            if self._closed:
                raise Pruned(TOO_LATE)
            if self.stopped is None:
                self._step, values = checked(step, metrics, self._step)
                self._waiting.append((self._step, values))
                reason = "another worker has the trial by now" if self._lost else self._watch.add(self._step, values)
                if reason is not None:
                    self.stopped = self._watch.pruned(reason)
                self._write_soon()
        if self.stopped is not None:
            raise self.stopped

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if error is None and not self._lost:  # else the trial is measured anew, from its first report
                self._write()

    def _write_soon(self) -> None:
        left = self._wrote + self._every_s - time.monotonic()
        if left <= 0.0:
            self._try()
        elif self._timer is None:
            self._timer = threading.Timer(left, self._tick)
            self._timer.daemon = True
            self._timer.start()

    def _tick(self) -> None:
        with self._lock:
            if self._timer is not None:  # else the evaluation has ended meanwhile
                self._timer = None
                self._try()

    def _try(self) -> None:
        """Write, and leave what a busy database does not take for the next time."""
        try:
            self._write()
        except LeaseLostError:
            self._lost = True  # the next report ends the evaluation, and telling it says so
        except StoreError:
            self._wrote = time.monotonic()

    def _write(self) -> None:
        with self._study._store_clock:
            self._study.store.report_all(self._trial.record, self._waiting)
        self._waiting = []
        self._wrote = time.monotonic()


def reporter_of(study: Study, trial: Trial, evaluate: Evaluate, runner: Runner) -> Reporter | None:
    """A reporter where the evaluator takes one, and the runner passes it on."""
    able: Any = runner.run
    return Reporter(study, trial) if takes(evaluate, "report") and takes(able, "report") else None
