"""Tuning within one long run: every few rounds another configuration, judged beside the default.

How fast a model learns changes as it does, so what a configuration brings is compared with what the default brings just before
and just after it: rounds run as default, candidate, default, candidate, default, ... . With p the progress of a window of
rounds (the relative improvement of the watched metric, for each round or byte or second that it took),

    gain(candidate) = p(candidate) - (p(default before) + p(default after)) / 2

in which a progress that falls or rises linearly from window to window cancels exactly. What does not cancel: what a candidate
leaves behind in the model or in the state of a server's optimiser, and noise, of which the gain of the default itself
(trial 0) gives an idea. It costs about half of the rounds while candidates are tried.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from autotune.checks import whole
from autotune.errors import SpaceExhaustedError, StoreError, UsageError
from autotune.heartbeat import Heartbeat
from autotune.integrations.flower.ledger import Round
from autotune.integrations.flower.session import Session
from autotune.measurement import Failure, FailureKind, Measurement, Metric
from autotune.objective import Objective
from autotune.space import Config
from autotune.study import Study
from autotune.trial import Trial

GAIN = "gain"
_COSTS = ("rounds", "download_bytes", "upload_bytes", "wall_s", "slowest_s")


@dataclass
class _Window:
    """Rounds of one configuration, up to now.

    Attributes:
        trial: the candidate; None where the default runs.
        before: the watched metric when it began; None where nothing had reported it yet.
        model: that the server had then.
    """

    config: Config
    trial: Trial | None
    before: float | None
    model: Any
    rounds: int = 0
    first: int = 0
    cost: float = 0.0
    after: float | None = None
    names: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Candidate:
    """A candidate whose window has ended, and which waits for the default's after it."""

    window: _Window
    default_before: float
    progress: float


class OnlineTuner:
    """Tries configurations within one run of a strategy, and goes on with the best. A `Source` for `tuned`; use it in a `with`.

        study = Study.create(space, "maximize gain")
        with OnlineTuner(study, "minimize train.loss", every=2, trials=10) as tuner:
            tuned(FedAvg(), tuner).start(grid, arrays, num_rounds=100)

    Each candidate is a trial of the study, whose metric ``gain`` is what this module says. A candidate under which the model
    diverges is told as a `nan` failure, and the server goes on with the model of before. After the last candidate the rest of
    the run has the best one's configuration, the default's where none has a gain above 0.

    Args:
        study: of the objective ``maximize gain``.
        watch: the metric that shall improve, and how: ``"minimize server.loss"``. It must not be 0.
        every: rounds of a window.
        trials: candidates in the study; what it was made for when None.
        per: what progress is divided by: ``rounds``, ``download_bytes``, ``upload_bytes``, ``wall_s`` or ``slowest_s`` of the
            window, see `Round`.

    Raises:
        UsageError: for a study of other objectives, and later where no round of a window reports the metric.
    """

    def __init__(
        self, study: Study, watch: str, *, every: int = 1, trials: int | None = None, per: str = "rounds"
    ) -> None:
        if [(o.metric, o.direction) for o in study.objectives] != [(GAIN, "maximize")]:
            has = ", ".join(map(str, study.objectives))
            raise UsageError(
                f"study {study.name!r} is to {has}; make one with objectives='maximize {GAIN}' to tune within a run"
            )
        if per not in _COSTS:
            raise UsageError(f"per is {per!r}; use one of: {', '.join(_COSTS)}")
        budget = study.record.budget.get("trials") if trials is None else trials
        if budget is None:
            raise UsageError("trials is None, and the study has no budget either; say how many candidates to try")
        self.study = study
        self.watch = Objective.parse(watch)
        self.every = whole("every", every, 1)
        self.trials = whole("trials", budget, 1)
        self.per = per
        self.settled: Config | None = None
        self._default = dict(study.record.default_config)
        self._value: float | None = None
        self._window: _Window | None = None
        self._default_before: float | None = None
        self._candidate: _Candidate | None = None
        self._restored: Any = None
        self._heartbeat = Heartbeat(study)
        self._beating = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Give a candidate back whose comparison was not finished."""
        self._beating.close()
        self._heartbeat.stop()
        trial = self._under_way()
        if trial is not None:
            with suppress(StoreError):
                self.study.release(trial)

    # ------------------------------------------------------------- what a session asks and tells

    def join(self, session: Session) -> None:
        """See `Source`."""

    def configure(self, number: int, model: Any) -> tuple[Config, Any]:
        """See `Source`."""
        if self._restored is not None:
            model, self._restored = self._restored, None
        if self._window is None and self.settled is None:
            self._begin(number, model)
        config = self._window.config if self._window is not None else self.settled
        return dict(config or self._default), model

    def closed(self, round_: Round) -> None:
        """See `Source`."""
        window = self._window
        value = round_.metrics.get(self.watch.metric)
        if window is None or round_.number < window.first:  # the evaluation before the first round, or all is decided
            self._value = self._value if value is None else value
            return
        window.rounds += 1
        window.cost += 1.0 if self.per == "rounds" else float(getattr(round_, self.per) or 0.0)
        window.names |= dict.fromkeys(round_.metrics)
        window.after = window.after if value is None else value
        bad = next((n for n, v in round_.metrics.items() if not math.isfinite(v) and self._tells(n)), None)
        if bad is not None:
            self._diverged(window, f"{bad} is {round_.metrics[bad]} in round {round_.number}")
        elif window.rounds == self.every:
            self._end(window)

    def broke(self, error: Exception) -> None:
        """See `Source`. An online run raises where it is."""

    def restored(self) -> Any:
        """See `Source`."""
        return self._restored

    # ------------------------------------------------------------------------------ windows

    def _begin(self, number: int, model: Any) -> None:
        """The next window, or none from now on."""
        if self._default_before is None or self._candidate is not None:
            self._window = _Window(self._default, None, self._value, model, first=number)
            return
        try:
            trial = self.study.ask(up_to=self.trials)
        except SpaceExhaustedError:
            best = self.study.best
            better = best is not None and best.values[GAIN] > 0.0
            self.settled = dict(best.config) if best is not None and better else self._default
            return
        self._beating.enter_context(self._heartbeat.beating(trial))
        self._window = _Window(trial.config, trial, self._value, model, first=number)

    def _end(self, window: _Window) -> None:
        if window.after is None:
            said = ", ".join(window.names) or "nothing"
            raise UsageError(
                f"watch is {self.watch.metric!r}, which no round from {window.first} on reported; reported were: {said}"
            )
        self._window, self._value = None, window.after
        progress = self._progress(window)
        if progress is None:  # it only found out where the metric begins
            return
        if window.trial is not None:
            assert self._default_before is not None
            self._candidate = _Candidate(window, self._default_before, progress)
            return
        done, self._candidate, self._default_before = self._candidate, None, progress
        if done is not None:
            self._tell(done, progress)

    def _progress(self, window: _Window) -> float | None:
        if window.before is None or window.after is None:
            return None
        gained = self.watch.gain(window.after, window.before)
        if gained is None or window.cost <= 0.0:
            what = f"{self.watch.metric} was {window.before}" if gained is None else f"{self.per} is not known"
            raise UsageError(
                f"no progress can be told of the rounds from {window.first} on, as {what}; watch another metric, or count "
                "per rounds"
            )
        return gained / window.cost

    def _tell(self, done: _Candidate, default_after: float) -> None:
        trial, window = done.window.trial, done.window
        assert trial is not None and window.before is not None and window.after is not None
        default = (done.default_before + default_after) / 2.0
        metrics = {
            GAIN: done.progress - default,
            "progress": done.progress,
            "default_progress": default,
            "before": window.before,
            "after": window.after,
        }
        notes = {"watch": str(self.watch), "per": self.per, "first_round": window.first, "rounds": window.rounds}
        self._beating.close()
        self.study.tell(trial, Measurement({name: Metric(value) for name, value in metrics.items()}, notes))

    def _diverged(self, window: _Window, what: str) -> None:
        """The candidate is to blame, also where the default's window after it shows what it did."""
        begun = window if window.trial is not None else None if self._candidate is None else self._candidate.window
        if begun is None or begun.trial is None:
            raise Failure(FailureKind.NAN, f"{what}, under the default configuration")
        self._window, self._candidate, self._default_before = None, None, None
        self._value, self._restored = begun.before, begun.model
        self._beating.close()
        self.study.tell(begun.trial, Failure(FailureKind.NAN, what))

    def _tells(self, name: str) -> bool:
        return name == self.watch.metric or "loss" in name.lower()

    def _under_way(self) -> Trial | None:
        if self._candidate is not None:
            return self._candidate.window.trial
        return None if self._window is None else self._window.trial
