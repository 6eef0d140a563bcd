"""One run of a Flower app as one trial of a study: its configuration, and what it reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from autotune.checks import mapping
from autotune.errors import AutotuneError, UsageError
from autotune.execution.process import printable, says_out_of_memory
from autotune.integrations.flower.ledger import NO_REPLY, REPORTERS, Phase, Round, numeric
from autotune.integrations.flower.session import RunEnded, Session
from autotune.integrations.flower.wrapping import tuned
from autotune.measurement import Failure, FailureKind, Measurement, Metric
from autotune.space import Config
from autotune.store import TrialRecord
from autotune.study import Study
from autotune.trial import Trial

S = TypeVar("S")
TOTALS = ("rounds", "download_bytes", "upload_bytes", "evaluate_bytes", "wall_s", "slowest_s", "client_failures")
_NOTED_CLIENTS = 64  # whose states a trial keeps; of more, what is aggregated says enough


class TunedRun:
    """A trial under way: its configuration for the app, and what the app reports for the study.

    A `Source` for `tuned`. Every round is a report of the trial, by its number: what was aggregated (``train.loss``,
    ``evaluate.accuracy``, ``server.loss``), and what the run took so far. A metric that the study names without saying who
    reports it (``accuracy``) is found where one reporter alone has it.

    Attributes:
        rounds: that have ended.
        record: the trial as it was told; None before.
        error: what ended the run, where Flower may have wrapped or lost it; None while nothing did.
        pruned: why the run is not worth another round; None while it is.
    """

    def __init__(self, study: Study, trial: Trial) -> None:
        self.study = study
        self.trial = trial
        self.rounds: list[Round] = []
        self.record: TrialRecord | None = None
        self.error: Exception | None = None
        self.pruned: str | None = None
        self._goals = study.record.goals.metrics
        self._sessions: list[Session] = []
        self._latest: dict[str, float] = {}
        self._measured: dict[str, float] = {}
        self._step = -1

    @property
    def config(self) -> Config:
        """The configuration, for what the server itself takes from it."""
        return self.trial.config

    @property
    def number(self) -> int:
        """Of the trial."""
        return self.trial.number

    @property
    def seed(self) -> int:
        """Of the trial; pass it to whatever is random in the app."""
        return self.trial.seed

    def tuned(self, strategy: S, **options: Any) -> S:
        """As `tuned(strategy, run, ...)`."""
        return tuned(strategy, self, **options)

    def measured(self, **metrics: float) -> None:
        """Metrics of the whole run that no round reports, such as what a test of the final model gave."""
        for name, value in metrics.items():
            if name not in numeric({name: value}):
                raise UsageError(f"the metric {name!r} is {value!r}; give a number")
        self._measured |= numeric(metrics)

    def report(self, number: int, metrics: Mapping[str, float]) -> None:
        """A round of an app that has a loop of its own in place of a strategy, before it begins the next one.

        Raises:
            Failure: when the run has diverged. Let it pass, or end the run.
            RunEnded: when it is pruned. Let it pass, or end the run.
        """
        try:
            self.closed(Round(number, numeric(mapping("metrics", metrics))))
            self.configure(number + 1, None)
        except (AutotuneError, Failure) as error:
            self.broke(error)
            raise

    # ------------------------------------------------------------- what a session asks and tells

    def join(self, session: Session) -> None:
        """See `Source`."""
        self._sessions.append(session)

    def configure(self, number: int, model: Any) -> tuple[Config, Any]:
        """See `Source`. A run that is not worth another round ends here."""
        if self.rounds:
            self.pruned = self.study.should_stop(self.trial)
            if self.pruned is not None:
                raise RunEnded(self.pruned)
        return self.config, model

    def closed(self, round_: Round) -> None:
        """See `Source`. A run that has diverged ends here."""
        self.rounds.append(round_)
        named = self._named(round_.metrics)
        self._latest |= named
        # A second strategy, or a second start, counts its rounds from 1 again.
        self._step = max(self._step + 1, round_.number)
        values = {**named, **self.totals()}
        self.study.report(self.trial, self._step, values)
        for name, value in values.items():
            if not math.isfinite(value) and (name in self._goals or "loss" in name.lower()):
                raise Failure(FailureKind.NAN, f"{name} is {value} in round {round_.number}")

    def broke(self, error: Exception) -> None:
        """See `Source`."""
        self.error = self.error or error

    def restored(self) -> Any:
        """See `Source`."""
        return None

    # -------------------------------------------------------------------------- what it all gave

    def totals(self) -> dict[str, float]:
        """What the rounds so far took, as metrics: bytes and seconds as in `Round`, rounds, and failures of clients."""
        slowest = [r.slowest_s for r in self.rounds if r.slowest_s is not None]
        return {
            "rounds": float(sum(r.number > 0 for r in self.rounds)),
            "download_bytes": float(sum(r.download_bytes for r in self.rounds)),
            "upload_bytes": float(sum(r.upload_bytes for r in self.rounds)),
            "evaluate_bytes": float(sum(r.evaluate_bytes for r in self.rounds)),
            "wall_s": sum(r.wall_s for r in self.rounds),
            **({"slowest_s": sum(slowest)} if slowest else {}),
            "client_failures": float(sum(r.failures for r in self.rounds)),
        }

    def outcome(self) -> Measurement:
        """The trial's metrics: the last value of each that rounds reported, the totals, and what was `measured`.

        Raises:
            Failure: when the run diverged, or no client ever came back.
            RunEnded: when it was pruned.
            UsageError: when nothing reported a metric that the study is about.
        """
        if self.pruned is not None:
            raise RunEnded(self.pruned)
        for session in self._sessions:
            session.close()
        if self.error is not None:
            raise self.error
        self._refuse_silence("train", "training", sum(r.trained for r in self.rounds))
        values = {**self._latest, **(self.totals() if self.rounds else {}), **self._measured}
        missing = next((name for name in self._goals if name not in values), None)
        if missing is not None:
            self._refuse_silence("evaluate", "evaluation", sum(r.evaluated for r in self.rounds))
            said = ", ".join(values) or "nothing"
            raise UsageError(
                f"the study is about the metric {missing!r}, which neither clients nor the server reported; reported "
                f"were: {said}"
            )
        clients = {k: v for session in self._sessions for k, v in session.ledger.clients().items()}
        notes = {"clients": clients} if 0 < len(clients) <= _NOTED_CLIENTS else {}
        return Measurement({name: Metric(value) for name, value in values.items()}, notes)

    def _refuse_silence(self, phase: Phase, called: str, came_back: int) -> None:
        """Clients failed, and none ever came back."""
        failed = [r for r in self.rounds if (r.train_failures if phase == "train" else r.evaluate_failures)]
        if not failed or came_back:
            return
        said = failed[-1].failure or ""
        kind = FailureKind.OOM if says_out_of_memory(said) else FailureKind.CRASH
        if said == NO_REPLY:
            kind = FailureKind.TIMEOUT
        text = printable(" ".join(said.split()))
        raise Failure(kind, f"no client came back from {called}; the last one said: {text[:200]}")

    def _named(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Metrics with those that the study names without their reporter."""
        named = dict(metrics)
        for goal in self._goals:
            if goal in named:
                continue
            having = [f"{who}.{goal}" for who in REPORTERS if f"{who}.{goal}" in {**self._latest, **metrics}]
            if len(having) > 1:
                raise UsageError(
                    f"the study is about the metric {goal!r}, which is reported as {' and as '.join(having)}; name one of these"
                )
            if having and having[0] in metrics:
                named[goal] = metrics[having[0]]
        return named
