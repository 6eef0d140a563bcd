"""What loggers share: which trials are still to be logged, and what happens when a tracker fails."""

from __future__ import annotations

import importlib
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.checks import instance
from autotune.errors import AutotuneError, UsageError
from autotune.integrations.loggers.values import identity
from autotune.result import Result
from autotune.store import TrialRecord, TrialState
from autotune.study import Study

if TYPE_CHECKING:
    from autotune.loop import Progress

_OPEN = (TrialState.WAITING, TrialState.RUNNING)


class LoggerWarning(UserWarning):
    """A tracker failed. The search goes on; what is missing there is still in the study's store."""


@dataclass(frozen=True)
class Logged:
    """A finished trial on its way to a tracker.

    Attributes:
        reports: intermediate values as (step, metric, value).
        best: the best feasible value of the first objective among this and what was logged before; None while there is none.
            Replicates are values of their own here.
        gain: of `best` over the default; None where undefined.
    """

    trial: TrialRecord
    reports: Sequence[tuple[int, str, float]]
    feasible: bool
    best: float | None
    gain: float | None


class StudyLogger(ABC):
    """A callback that tells a tracker of every finished trial of a study once, and of the result at the end.

    An error of the tracker is told once as a `LoggerWarning`. The search then goes on without it, as a server that does not
    answer would delay every trial, and what it missed is tried once more at the end.
    """

    tracker: str  # its name, for people

    def __init__(self) -> None:
        self._study: Study | None = None
        self._logged: set[int] = set()
        self._next = 0  # all trials before it are logged
        self._best: float | None = None
        self._failed = False

    # As a callback

    def __call__(self, progress: Progress) -> None:
        """Log what has finished."""
        if not self._failed:
            self._guarded(lambda: self._catch_up(progress.study))

    def finish(self, result: Result | None) -> None:
        """Log what is missing and the result, and close the run; None where the search was broken off."""
        study = self._study if result is None else result.study
        if study is not None:
            self._guarded(lambda: self._finish(study, result))

    def log(self, study: Study) -> None:
        """Log a study as it is now, and close the run.

        Raises:
            Exception: whatever the tracker raises.
        """
        instance("study", study, Study, "an autotune.Study")
        self._finish(study, Result.of(study))

    # What a tracker does

    @abstractmethod
    def _open(self, study: Study) -> Collection[int]:
        """Begin the study's run or go on with it; numbers of the trials that it holds."""

    @abstractmethod
    def _log(self, study: Study, logged: Logged) -> None:
        """Log one trial."""

    @abstractmethod
    def _close(self, result: Result, *, broken_off: bool) -> None:
        """Log the result and close the run."""

    def _flush(self) -> None:  # noqa: B027 - most trackers need nothing here
        """Make what was logged visible."""

    # Internals

    def _catch_up(self, study: Study) -> None:
        if self._study is not None and identity(self._study.record) != identity(study.record):
            raise UsageError(
                f"this logger is at study {self._study.name!r} and was given {study.name!r}; make one for each study"
            )
        trials = study.trials
        if self._study is None:
            self._logged, self._next, self._best = set(self._open(study)), 0, None
            for trial in trials:
                if trial.number in self._logged:
                    self._improve(study, trial)
            self._study = study
        finished = [t for t in trials[self._next :] if t.number not in self._logged and t.state not in _OPEN]
        reports = study.store.reports_of([t.id for t in finished])
        for trial in finished:
            feasible = self._improve(study, trial)
            self._log(study, Logged(trial, reports.get(trial.id, ()), feasible, self._best, self._gain(study)))
            self._logged.add(trial.number)
        while self._next in self._logged:
            self._next += 1
        if finished:
            self._flush()

    def _improve(self, study: Study, trial: TrialRecord) -> bool:
        """Take a trial into account; says whether it is feasible."""
        goals = study.record.goals
        if not (trial.counts and trial.state is TrialState.COMPLETED and goals.is_feasible(trial)):
            return False
        value, sign = trial.values[goals.first.metric], goals.first.sign
        if self._best is None or sign * value < sign * self._best:
            self._best = value
        return True

    def _gain(self, study: Study) -> float | None:
        default = study.default
        goal = study.objectives[0]
        if self._best is None or default is None:
            return None
        return goal.gain(self._best, default.values.get(goal.metric, math.nan))

    def _finish(self, study: Study, result: Result | None) -> None:
        try:
            self._catch_up(study)
            self._close(result or Result.of(study), broken_off=result is None)
            self._failed = False
        finally:
            self._study = None

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except AutotuneError:
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {error}".splitlines()[0]
            then = (
                "what is missing there is in the study's store, and log(study) of a new logger logs it"
                if self._failed
                else "the search goes on without it, and what is missing is tried once more at the end"
            )
            self._failed = True
            warnings.warn(f"{self.tracker} failed ({told}); {then}", LoggerWarning, stacklevel=2)


def required(module: str, package: str, extra: str) -> Any:
    """A tracker's module.

    Raises:
        UsageError: when it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{package} cannot be imported ({error}); install it with: pip install 'autotune[{extra}]'"
        ) from None
