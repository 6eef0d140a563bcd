"""What a search found: the best configuration, what it is a gain over, and where the time went."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from autotune.equipment import GIVEN, PREDICTOR
from autotune.notebook import result_html, result_text
from autotune.predictors import Agreement, agreements
from autotune.store import TrialRecord, TrialState
from autotune.store.records import DEFAULT_LABEL
from autotune.study import Study

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Outcome:
    """A trial as a result shows it: its number, configuration and metric values.

    Attributes:
        replicates: trials that measured the configuration; the number is the first one's, and the metrics are theirs
            together (`Goals.merge`).
    """

    number: int
    config: Mapping[str, Any]
    metrics: Mapping[str, float]
    replicates: int = 1

    @classmethod
    def of(cls, trial: TrialRecord) -> Outcome:
        return cls(trial.number, trial.config, trial.values, trial.replicates)

    def to_dict(self) -> dict[str, Any]:
        return {"number": self.number, "config": dict(self.config), "metrics": _finite(self.metrics)}


@dataclass(frozen=True)
class Spent:
    """What the trials of one fidelity took.

    Attributes:
        trials: in whatever state; `completed`, `failed` and `pruned` of them ended so.
        seconds: of evaluation.
    """

    trials: int
    completed: int
    failed: int
    pruned: int
    seconds: float

    @classmethod
    def of(cls, trials: Sequence[TrialRecord]) -> Spent:
        states = Counter(t.state for t in trials)
        seconds = sum(t.evaluate_s or 0.0 for t in trials)
        completed, failed = states[TrialState.COMPLETED], states[TrialState.FAILED]
        return cls(len(trials), completed, failed, states[TrialState.PRUNED], seconds)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 4)}


@dataclass(frozen=True)
class Result:
    """The end of a search, read from the store. In a study of several fidelities only trials of the one that counts are
    ranked and counted; `fidelities` tells of the others.

    Attributes:
        best: the best feasible trial; None when there is none, or with several objectives (see `pareto`).
        default: trial 0, None when it did not complete.
        baselines: the domain's named configurations that completed.
        pareto: feasible trials that no other dominates; with one objective the best alone.
        gain: relative improvement of the first objective over the default, positive when better; None where undefined.
        trials: by state, and failures by kind.
        fidelities: what each took, from the cheapest to the one that counts; empty in a study of one fidelity.
        predictor: by metric, how the study's predictor was borne out by the trials that count; None without one.
        seconds: ``total`` of this run, and its parts ``suggest``, ``evaluate`` and ``store``.
    """

    study: Study
    best: Outcome | None
    default: Outcome | None
    baselines: Mapping[str, Outcome]
    pareto: tuple[Outcome, ...]
    gain: float | None
    trials: Mapping[str, Any]
    seconds: Mapping[str, float]
    stop_reason: str | None
    fidelities: Mapping[str, Spent] = field(default_factory=dict)
    predictor: Mapping[str, Agreement] | None = None

    @classmethod
    def of(cls, study: Study, seconds: Mapping[str, float] | None = None) -> Result:
        """Read a study's result from its store."""
        history = study.history
        best = history.best if len(study.objectives) == 1 else None
        borne_out = agreements(history.merged, study.record.goals.metrics)
        predicted = bool(borne_out) or study.record.options.get(PREDICTOR) == GIVEN
        return cls(
            study=study,
            best=None if best is None else Outcome.of(best),
            default=_completed(study.default),
            baselines={name: o for name, t in study.baselines.items() if (o := _completed(t)) is not None},
            pareto=tuple(Outcome.of(t) for t in history.pareto),
            gain=history.gain(best),
            trials=counts(history.counted),
            seconds=seconds or _stored_seconds(history.trials),
            stop_reason=study.store.load_study(study.name).stop_reason,
            fidelities={name: Spent.of(history.at(name).trials) for name in study.record.fidelities},
            predictor=borne_out if predicted else None,
        )

    @property
    def gains(self) -> dict[str, float]:
        """Relative improvement of the best over the default and over every baseline, by name; of those that completed."""
        if self.best is None:
            return {}
        objective = self.study.objectives[0]
        value = self.best.metrics[objective.metric]
        named = {DEFAULT_LABEL: self.default, **self.baselines}
        found = {name: objective.gain(value, o.metrics[objective.metric]) for name, o in named.items() if o is not None}
        return {name: gain for name, gain in found.items() if gain is not None}

    def frame(self) -> pd.DataFrame:
        """One row per trial, as the study has them now; see `Study.frame`.

        frame = result.frame()
        frame[frame.state == "completed"].nsmallest(5, "latency_ms")[["number", "config.policy", "latency_ms"]]
        """
        return self.study.frame()

    def __repr__(self) -> str:
        return result_text(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return result_html(self)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-able values."""
        return {
            "study": self.study.name,
            "storage": self.study.store.url,
            "objectives": [str(o) for o in self.study.objectives],
            "constraints": [str(c) for c in self.study.constraints],
            "best": self.best.to_dict() if self.best else None,
            "default": self.default.to_dict() if self.default else None,
            "gain": self.gain,
            "gains": self.gains,
            "baselines": {name: outcome.to_dict() for name, outcome in self.baselines.items()},
            "pareto": [o.to_dict() for o in self.pareto] if len(self.study.objectives) > 1 else None,
            "trials": dict(self.trials),
            "fidelities": {name: spent.to_dict() for name, spent in self.fidelities.items()} or None,
            "predictor": None if self.predictor is None else {m: a.to_dict() for m, a in self.predictor.items()},
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "stop_reason": self.stop_reason,
        }


def counts(trials: tuple[TrialRecord, ...]) -> dict[str, Any]:
    """Trials by state, and failures by kind."""
    states = Counter(t.state.value for t in trials)
    failures = Counter(t.failure_kind.value for t in trials if t.failure_kind is not None)
    return {"total": len(trials), **{s.value: states.get(s.value, 0) for s in TrialState}, "failures": dict(failures)}


def _completed(trial: TrialRecord | None) -> Outcome | None:
    return Outcome.of(trial) if trial is not None and trial.state is TrialState.COMPLETED else None


def _stored_seconds(trials: tuple[TrialRecord, ...]) -> dict[str, float]:
    return {
        "suggest": sum(t.suggest_s for t in trials),
        "evaluate": sum(t.evaluate_s or 0.0 for t in trials),
    }


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN and no infinity."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
