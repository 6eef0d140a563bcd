"""What ends a search, and the sentence that says so.

But for the time limit, a rule sees stored trials alone, so that every worker of a study decides alike, and a study that is
gone on with decides anew. A request to stop is stored too, and ends the search of every worker. The number of trials is kept
to in the store itself, where several workers may begin trials at once, and only the strategy knows when nothing is left to
propose: `Study.ask` sees to both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from autotune.checks import positive, whole
from autotune.errors import UsageError
from autotune.objective import Objective, OutcomeConstraint, parse_constraints
from autotune.store.records import TrialRecord
from autotune.strategies.base import History
from autotune.text import number

GAIN_NOTE = "expected_gain"
"""The note of a suggestion by which a strategy tells what it expects of an evaluation: the relative improvement of the
first objective over the incumbent, a number."""

GAIN_PROPOSALS = 5
"""Proposals in a row that must promise too little: one estimate is noisy, and one new measurement may change it."""

CHEAPER_PER_TRIAL = 10
"""Trials of cheaper fidelities for each trial of the budget: more than is sensible, so that a search always ends."""

_HOUR_S = 3600.0


@dataclass(frozen=True)
class TrialBudget:
    """How many trials a study may hold.

    Attributes:
        trials: of the fidelity that counts, whoever proposed them.
        several: whether the study has cheaper fidelities too.
    """

    trials: int
    several: bool = False

    @property
    def cheaper(self) -> int | None:
        """Trials of the cheaper fidelities, all together; None in a study of one fidelity."""
        return CHEAPER_PER_TRIAL * self.trials if self.several else None

    def reason(self, counted: int, cheaper: int) -> str | None:
        """Why no trial may begin beside so many, None where one may."""
        if counted >= self.trials:
            return f"the budget of {self.trials} trials is spent"
        if self.cheaper is not None and cheaper >= self.cheaper:
            return (
                f"the budget of {self.cheaper} cheaper trials, {CHEAPER_PER_TRIAL} for each of {self.trials}, is spent "
                f"with {counted} of these measured"
            )
        return None


def stopped_by(name: str) -> str:
    """The sentence of a search that somebody asked to end; see `Store.request_stop`."""
    return f"stopped by {name}"


class StopRule(Protocol):
    """A reason to end a search that stored trials may give."""

    def reason(self, history: History) -> str | None:
        """One sentence with its numbers, None to go on."""


@dataclass(frozen=True)
class Target:
    """The incumbent is good enough: feasible, and as good as every limit asks.

    With several objectives, one configuration of the Pareto front that keeps all limits.
    """

    limits: tuple[OutcomeConstraint, ...]

    def reason(self, history: History) -> str | None:
        """See `StopRule`."""
        best = [history.best] if len(history.task.objectives) == 1 else history.pareto
        for trial in best:
            if trial is not None and all(limit.violation(trial.values) == 0.0 for limit in self.limits):
                wanted = " and ".join(map(str, self.limits))
                has = ", ".join(f"{limit.metric} {number(trial.values[limit.metric])}" for limit in self.limits)
                return f"target {wanted} reached: trial {trial.number} has {has}"
        return None


@dataclass(frozen=True)
class MinGain:
    """The strategy expected less than `least` of each of its last proposals that say what they expect (`GAIN_NOTE`)."""

    least: float

    def reason(self, history: History) -> str | None:
        """See `StopRule`."""
        gains = [gain for _, gain in _last_gains(history)]
        if len(gains) < GAIN_PROPOSALS or max(gains) >= self.least:
            return None
        row = f"{GAIN_PROPOSALS} proposals in a row"
        return f"expected gain below {_share(self.least)} for {row}, {_share(gains[-1])} in the last"


@dataclass(frozen=True)
class MinGainPerHour:
    """As `MinGain`, for what an hour of evaluations at their mean measured seconds is expected to bring."""

    least: float

    def reason(self, history: History) -> str | None:
        """See `StopRule`."""
        last = _last_gains(history)
        seconds = {fidelity: history.seconds(fidelity) for fidelity in {trial.fidelity for trial, _ in last}}
        if len(last) < GAIN_PROPOSALS or not all(seconds.values()):
            return None
        rates = [gain * _HOUR_S / (seconds[trial.fidelity] or math.inf) for trial, gain in last]
        if max(rates) >= self.least:
            return None
        trial, gain = last[-1]
        return (
            f"expected gain below {_share(self.least)} per hour for {GAIN_PROPOSALS} proposals in a row, "
            f"{_share(rates[-1])} in the last ({_share(gain)} in {number(seconds[trial.fidelity])} s)"
        )


def _last_gains(history: History) -> list[tuple[TrialRecord, float]]:
    """The newest trials whose proposals told what they expect, with that; by number, at most `GAIN_PROPOSALS`."""
    found: list[tuple[TrialRecord, float]] = []
    for trial in reversed(history.trials):
        gain = trial.notes.get(GAIN_NOTE)
        if isinstance(gain, (int, float)) and not isinstance(gain, bool):
            found.append((trial, float(gain)))
            if len(found) == GAIN_PROPOSALS:
                break
    return found[::-1]


def _share(value: float) -> str:
    return f"{100.0 * value:.3g} %"


@dataclass(frozen=True)
class Limits:
    """Everything that a user may set to end a search; `check` makes one of what was given.

    Attributes:
        target: limits on objectives, see `Target`.
        min_gain, min_gain_per_hour: relative, see `MinGain` and `MinGainPerHour`.
    """

    trials: int | None = None
    timeout_s: float | None = None
    target: tuple[OutcomeConstraint, ...] = ()
    min_gain: float | None = None
    min_gain_per_hour: float | None = None

    @classmethod
    def check(
        cls,
        *,
        trials: int | None,
        timeout_s: float | None,
        target: str | OutcomeConstraint | Iterable[str | OutcomeConstraint] | None,
        min_gain: float | None,
        min_gain_per_hour: float | None,
    ) -> Limits:
        """Limits that can be used.

        Raises:
            UsageError: naming the one that cannot.
        """
        try:
            limits = parse_constraints(() if target is None else target)
        except UsageError:
            raise UsageError(f"target is {target!r}; write it as 'METRIC <= NUMBER' or 'METRIC >= NUMBER'") from None
        return cls(
            None if trials is None else whole("trials", trials, 1),
            None if timeout_s is None else positive("timeout_s", timeout_s),
            limits,
            None if min_gain is None else positive("min_gain", min_gain),
            None if min_gain_per_hour is None else positive("min_gain_per_hour", min_gain_per_hour),
        )

    def require_objectives(self, objectives: Iterable[Objective]) -> None:
        """Check that the target can tell a good incumbent of these objectives from a bad one.

        Raises:
            UsageError: where it names another metric, or is met by bad values.
        """
        known = {o.metric: o for o in objectives}
        for limit in self.target:
            objective = known.get(limit.metric)
            if objective is None:
                raise UsageError(f"target '{limit}' names no objective; this search has: {', '.join(known)}")
            wanted = "<=" if objective.direction == "minimize" else ">="
            if limit.operator != wanted:
                raise UsageError(
                    f"target '{limit}' is met by bad values, as the objective is to {objective}; "
                    f"write '{limit.metric} {wanted} {limit.bound:g}'"
                )

    def stored(self) -> dict[str, Any]:
        """What a study keeps of them, so that it is gone on with by its name alone. A time limit is of one run."""
        kept: Mapping[str, Any] = {
            "trials": self.trials,
            "target": [str(limit) for limit in self.target],
            "min_gain": self.min_gain,
            "min_gain_per_hour": self.min_gain_per_hour,
        }
        return {name: value for name, value in kept.items() if value}

    def reason(self, elapsed_s: float, history: Callable[[], History]) -> str | None:
        """Why a search that has run for `elapsed_s` seconds ends before it asks for another trial, None to go on.

        Args:
            history: called only where a rule wants to see trials.
        """
        if self.timeout_s is not None and elapsed_s >= self.timeout_s:
            return f"time limit of {self.timeout_s:g} s reached"
        rules = self._rules()
        if not rules:
            return None
        seen = history()
        return next((why for rule in rules if (why := rule.reason(seen)) is not None), None)

    def _rules(self) -> list[StopRule]:
        rules: list[StopRule] = [Target(self.target)] if self.target else []
        if self.min_gain is not None:
            rules.append(MinGain(self.min_gain))
        if self.min_gain_per_hour is not None:
            rules.append(MinGainPerHour(self.min_gain_per_hour))
        return rules
