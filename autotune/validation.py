"""How far predictions are from what is measured: many configurations by both, and a correction from a few of them.

A domain that has a cheap model of its evaluator may have a method ``validation(options, runs, calibration, seed)``, which says
what to measure and how measurements correct the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from autotune.checks import whole
from autotune.domain import Problem, load_domain
from autotune.errors import SearchFailedError, UsageError
from autotune.execution import Runner
from autotune.loop import Progress, measure_iter
from autotune.options import parse_options
from autotune.predictors import PredictorLike, guarded
from autotune.space import Config
from autotune.store import Store, TrialRecord
from autotune.study import IN_MEMORY, Study

DEFAULT_RUNS, DEFAULT_CALIBRATION = 36, 5
_LEAST_RUNS = 3  # below, no rank correlation says anything

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Corrected:
    """A model after correction.

    Attributes:
        predictor: the corrected model.
        facts: what was corrected and by how much, as JSON-able values.
        save: keeps the correction for later searches on this machine, and returns the file; None where no search would use it.
    """

    predictor: PredictorLike
    facts: Mapping[str, Any]
    save: Callable[[], Path] | None


@dataclass(frozen=True)
class Validation:
    """What a domain brings.

    Attributes:
        problem: with the uncorrected model as its predictor.
        options: of the domain, as the study keeps them.
        evaluator: which of the problem's measures.
        calibration, checks: configurations by name; the first correct the model, the others judge it.
        metrics: to compare, the most telling first.
        correct: the model corrected by completed trials.
    """

    problem: Problem
    options: Mapping[str, Any]
    evaluator: str
    calibration: Mapping[str, Config]
    checks: Mapping[str, Config]
    metrics: tuple[str, ...]
    correct: Callable[[Sequence[TrialRecord]], Corrected]


@runtime_checkable
class Validating(Protocol):
    """A domain whose predictions can be compared with measurements."""

    def validation(self, options: Any, runs: int, calibration: int, seed: int) -> Validation: ...


@dataclass(frozen=True)
class MetricError:
    """Predictions of one metric beside its measurements; all but `pairs` are fractions.

    Attributes:
        pairs: that it rests on.
        mape: mean of ``|predicted - measured| / |measured|`` where something was measured; NaN where nothing was.
        bias: mean of ``(predicted - measured) / |measured|``, so above 0 where predictions are too high.
        worst: the largest such error.
        spearman: rank correlation; NaN where one side does not vary.
    """

    pairs: int
    mape: float
    bias: float
    worst: float
    spearman: float

    @classmethod
    def of(cls, predicted: npt.ArrayLike, measured: npt.ArrayLike) -> MetricError:
        """Of vectors of the same shape ``(n,)``; pairs in which one is not finite are left out."""
        from scipy import stats  # noqa: PLC0415 - slow to import

        x, y = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
        both = np.isfinite(x) & np.isfinite(y)
        x, y = x[both], y[both]
        # Nothing measured and nothing predicted is no error; something predicted where nothing was has no relative one.
        error = np.divide(x - y, np.abs(y), out=np.where(x == y, 0.0, np.nan), where=y != 0.0)
        error = error[np.isfinite(error)]
        if not len(error):
            return cls(len(x), math.nan, math.nan, math.nan, math.nan)
        varied = len(x) > 1 and np.ptp(x) > 0.0 and np.ptp(y) > 0.0
        rank = float(stats.spearmanr(x, y).statistic) if varied else math.nan
        return cls(len(x), float(np.abs(error).mean()), float(error.mean()), float(np.abs(error).max()), rank)


@dataclass(frozen=True)
class Compared:
    """One configuration that judged the model: metrics by name; the first of the trials that measured it, and how many."""

    name: str
    trial: int
    trials: int
    measured: Mapping[str, float]
    predicted: Mapping[str, float]
    corrected: Mapping[str, float]


@dataclass(frozen=True)
class ValidationReport:
    """How far predictions are from measurements.

    Attributes:
        study: that holds the runs.
        metrics: errors of the model as searches use it from now on: corrected, where a correction was asked for.
        uncorrected: errors of the model before.
        repeated: of runs as predictions of other runs of the same configurations: medians of odd rounds beside those of even
            ones. What differs there is the machine's. Empty with a single round.
        compared: the configurations that judged it; those that corrected it are not among them.
        calibration: how many corrected it.
        correction: what was corrected; None without one.
        saved: where it is kept.
        failed: runs that gave no measurement.
    """

    study: Study
    metrics: Mapping[str, MetricError]
    uncorrected: Mapping[str, MetricError]
    repeated: Mapping[str, MetricError]
    compared: tuple[Compared, ...]
    calibration: int
    correction: Mapping[str, Any] | None
    saved: Path | None
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values; NaN where a number is undefined."""
        return {
            "study": self.study.name,
            "storage": self.study.store.url,
            "facts": dict(self.study.record.options.get("facts", {})),
            "runs": len(self.compared),
            "calibration_runs": self.calibration,
            "failed_runs": self.failed,
            "metrics": {name: asdict(error) for name, error in self.metrics.items()},
            "uncorrected": {name: asdict(error) for name, error in self.uncorrected.items()},
            "repeated": {name: asdict(error) for name, error in self.repeated.items()},
            "correction": None if self.correction is None else dict(self.correction),
            "correction_file": None if self.saved is None else str(self.saved),
            "configurations": [asdict(one) for one in self.compared],
        }


def validate(
    domain: str,
    options: Mapping[str, Any] | None = None,
    *,
    runs: int = DEFAULT_RUNS,
    calibration: int = DEFAULT_CALIBRATION,
    seed: int = 0,
    storage: str | Store = IN_MEMORY,
    study: str | None = None,
    rounds: int = 1,
    runner: Runner | None = None,
    save: bool = True,
    callback: Callable[[Progress], None] | None = None,
) -> ValidationReport:
    """Measure configurations, and compare with what the domain's model predicts of them.

    Every run is a trial of a study, so that one that was broken off goes on where it was.

    Args:
        domain: its name.
        options: the domain's.
        runs: configurations that judge the model.
        calibration: configurations that correct it before; 0 judges it as it is.
        seed: of the choice of configurations.
        study: name of the study; ``validation-DOMAIN`` when not given.
        rounds: how often every configuration is measured, in turns with all others; medians count.
        runner: as of `autotune.search`.
        save: whether to keep the correction for searches on this machine.
        callback: called after every run.

    Raises:
        UsageError: for what cannot be used, and a domain that has nothing to compare.
        SearchFailedError: when too few runs gave a measurement.
    """
    whole("runs", runs, _LEAST_RUNS)
    whole("calibration", calibration, 0)
    whole("seed", seed, 0, 2**32 - 1)
    whole("rounds", rounds, 1)
    found = load_domain(domain)
    if not isinstance(found, Validating):
        raise UsageError(
            f"domain {domain!r} has no model to compare with measurements, so there is nothing to validate"
        )
    plan = found.validation(parse_options(found.options, options or {}), runs, calibration, seed)
    steps = measure_iter(
        plan.problem,
        _spread(plan.calibration, plan.checks),
        domain=domain,
        options={
            "domain_options": dict(plan.options),
            "validation": {"runs": runs, "calibration": calibration, "seed": seed},
        },
        evaluator=plan.evaluator,
        rounds=rounds,
        storage=storage,
        study=f"validation-{domain}" if study is None else study,
        runner=runner,
    )
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            measured: Study = end.value
            return _report(plan, measured, save=save)
        if callback is not None:
            callback(progress)


def _spread(calibration: Mapping[str, Config], checks: Mapping[str, Config]) -> dict[str, Config]:
    """All in one order, the first evenly among the others: a machine drifts, and a correction should see all of it."""
    placed = [
        ((n + 0.5) / len(part), name, config)
        for part in (calibration, checks)
        for n, (name, config) in enumerate(part.items())
    ]
    return {name: config for _, name, config in sorted(placed, key=lambda one: one[0])}


def _report(plan: Validation, study: Study, *, save: bool) -> ValidationReport:
    by_hash: dict[str, list[TrialRecord]] = {}
    for trial in study.history.completed:
        by_hash.setdefault(trial.config_hash, []).append(trial)

    def completed(configs: Mapping[str, Config]) -> dict[str, list[TrialRecord]]:
        hashes = {name: plan.problem.space.config_hash(config) for name, config in configs.items()}
        return {name: by_hash[digest] for name, digest in hashes.items() if digest in by_hash}

    known, judged = completed(plan.calibration), completed(plan.checks)
    failed = len(plan.calibration) + len(plan.checks) - len(known) - len(judged)
    if len(judged) < _LEAST_RUNS or (plan.calibration and not known):
        raise SearchFailedError(
            f"{failed} of {len(plan.calibration) + len(plan.checks)} runs of study {study.name!r} gave no measurement, too "
            "many to judge by the others; see why with: autotune trials"
        )
    corrected = plan.correct([trial for trials in known.values() for trial in trials]) if known else None
    configs = [dict(trials[0].config) for trials in judged.values()]
    before = _predictions(plan.problem.predictor, configs, plan)
    after = before if corrected is None else _predictions(corrected.predictor, configs, plan)
    compared = tuple(
        Compared(name, trials[0].number, len(trials), _medians(trials, plan.metrics), x, y)
        for (name, trials), x, y in zip(judged.items(), before, after, strict=True)
    )
    return ValidationReport(
        study=study,
        metrics=_errors([(one.corrected, one.measured) for one in compared], plan.metrics),
        uncorrected=_errors([(one.predicted, one.measured) for one in compared], plan.metrics),
        repeated=_errors(
            [(_medians(t[::2], plan.metrics), _medians(t[1::2], plan.metrics)) for t in judged.values() if len(t) > 1],
            plan.metrics,
        ),
        compared=compared,
        calibration=len(known),
        correction=None if corrected is None else corrected.facts,
        saved=corrected.save() if corrected is not None and corrected.save is not None and save else None,
        failed=failed,
    )


def _medians(trials: Sequence[TrialRecord], metrics: Sequence[str]) -> dict[str, float]:
    values = {m: [t.values[m] for t in trials if m in t.values] for m in metrics}
    return {m: float(np.median(found)) for m, found in values.items() if found}


def _predictions(
    predictor: PredictorLike | None, configs: Sequence[Config], plan: Validation
) -> list[dict[str, float]]:
    model = guarded(predictor, plan.metrics)
    assert model is not None, "a domain that validates has a predictor"
    said = model.predict(configs)
    return [{m: float(said[m][i]) for m in plan.metrics if m in said} for i in range(len(configs))]


def _errors(
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], metrics: Sequence[str]
) -> dict[str, MetricError]:
    """Of each metric that some of the pairs (predicted, measured) have on both sides."""
    found = {}
    for metric in metrics:
        values = [(x[metric], y[metric]) for x, y in pairs if metric in x and metric in y]
        if values:
            found[metric] = MetricError.of(*zip(*values, strict=True))
    return found
