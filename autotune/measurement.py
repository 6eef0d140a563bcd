"""What one evaluation returns: a `Measurement` or a typed `Failure`, and the protocol that repeats until precise."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.checks import is_name, whole
from autotune.errors import UsageError

_NAME_LENGTH = 255  # what every database can index

LOG_BYTES = 64 << 10
"""How much of the end of what an evaluation printed is kept, as UTF-8."""


class FailureKind(enum.StrEnum):
    """Why an evaluation gave no measurement. All but `INFRA` are learned from; `INFRA` is retried, boundedly."""

    INVALID = "invalid"  # a constraint that the search space did not know
    OOM = "oom"
    TIMEOUT = "timeout"
    CRASH = "crash"
    NAN = "nan"
    INFRA = "infra"  # the machine died, not the configuration


class Failure(Exception):
    """An evaluation that failed. Raise it from an evaluator, or pass it to `Study.tell`.

    Args:
        kind: one of `FailureKind`, as a member or as its text.
        message: one sentence for the person who reads the study.
        log: what the evaluation printed; its last `LOG_BYTES` are kept with the trial.
    """

    def __init__(self, kind: FailureKind | str, message: str = "", log: str | None = None) -> None:
        try:
            self.kind = FailureKind(kind)
        except ValueError:
            known = ", ".join(k.value for k in FailureKind)
            raise UsageError(f"failure kind {kind!r} is unknown; use one of: {known}") from None
        self.message = message
        self.log = log
        super().__init__(self.kind, message)

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.message}" if self.message else self.kind.value


@dataclass(frozen=True)
class Metric:
    """One measured quantity: the median of its samples and the half-width of that median's confidence interval.

    `half_width` is None where the value was measured once or is exact, so that nothing is known of its noise.
    """

    value: float
    half_width: float | None = None
    samples: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """The metrics of one evaluation by name (units live in names), and facts about it that are not metrics.

    Attributes:
        log: what the evaluation printed; its last `LOG_BYTES` are kept with the trial.
        artifacts: files that belong to the trial, by name. The store keeps where each lies and the SHA-256 of what it holds.
    """

    metrics: Mapping[str, Metric]
    notes: Mapping[str, Any] = field(default_factory=dict)
    log: str | None = None
    artifacts: Mapping[str, str | Path] = field(default_factory=dict)

    @classmethod
    def of(cls, returned: object, objectives: Sequence[str]) -> Measurement:
        """Read whatever an evaluator may return: a number, a mapping of numbers, or a `Measurement`.

        Raises:
            UsageError: when the returned object is none of these, lacks an objective, or names an artifact that is no file.
            Failure: of kind `nan` when an objective is not a finite number.
        """
        if isinstance(returned, Measurement):
            measured = returned
        elif isinstance(returned, Mapping):
            measured = cls({str(name): _metric(str(name), value) for name, value in returned.items()})
        elif (number := as_number(returned)) is not None and not isinstance(returned, bool):
            if len(objectives) != 1:
                raise UsageError(
                    f"the evaluator returned one number, but the study has {len(objectives)} objectives "
                    f"({', '.join(objectives)}); return a mapping with a value for each"
                )
            measured = cls({objectives[0]: Metric(number)})
        else:
            raise UsageError(
                f"the evaluator returned {type(returned).__name__}; return a number, a mapping of metric names to "
                "numbers, or an autotune.Measurement"
            )
        for name in measured.metrics:
            if not 0 < len(name) <= _NAME_LENGTH or not name.isprintable():
                raise UsageError(f"metric name {name!r} cannot be used; give 1 to {_NAME_LENGTH} printable characters")
        for name in objectives:
            if name not in measured.metrics:
                known = ", ".join(measured.metrics) or "none"
                raise UsageError(f"the evaluator returned no metric {name!r}, an objective; it returned: {known}")
            if not math.isfinite(measured.metrics[name].value):
                raise Failure(FailureKind.NAN, f"objective {name} is {measured.metrics[name].value}", measured.log)
        if not measured.artifacts:
            return measured
        # Whole paths, as another process has another folder.
        return replace(measured, artifacts={name: _file(name, path) for name, path in measured.artifacts.items()})

    def values(self) -> dict[str, float]:
        """The metric values alone."""
        return {name: metric.value for name, metric in self.metrics.items()}


def as_number(value: object) -> float | None:
    """A real number as a float, also a NumPy or torch scalar (an array of no dimensions); None for anything else."""
    if not isinstance(value, (int, float)) and getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer beyond what a float holds
        return math.inf if value > 0 else -math.inf


def joined_logs(*logs: str | None) -> str | None:
    """Logs one after the other, the last `LOG_BYTES` of them; None where there are none."""
    text = "".join(log if log.endswith("\n") else f"{log}\n" for log in logs if log)
    return log_tail(text) or None


def log_tail(text: str, most: int = LOG_BYTES) -> str:
    """The end of a text that fits into `most` bytes, without the half of a character at its beginning."""
    if len(text) * 4 <= most:
        return text
    return text.encode("utf-8", "replace")[-most:].decode("utf-8", "ignore")


def _file(name: object, path: object) -> str:
    if not is_name(name, _NAME_LENGTH):
        raise UsageError(f"artifact name {name!r} cannot be used; give 1 to {_NAME_LENGTH} printable characters")
    found = Path(path).absolute() if isinstance(path, (str, Path)) else None
    if found is None or not found.is_file():
        raise UsageError(
            f"artifact {name!r} is {str(path)!r}, which is no file; write it before the evaluation returns"
        )
    return str(found)


def _metric(name: str, value: object) -> Metric:
    if isinstance(value, Metric):
        return value
    number = as_number(value)
    if number is not None:
        return Metric(number)
    raise UsageError(f"metric {name!r} is a {type(value).__name__}; a metric must be a number")


@dataclass(frozen=True)
class Protocol:
    """How often to repeat one measurement.

    Attributes:
        warmup: runs whose results are thrown away.
        min_repeats: counted runs before precision is judged. Below six, no distribution-free 95 % interval of a median
            exists, so a search for precision starts there.
        max_repeats: the repeat budget.
        target: wanted half-width of the median's interval, relative to the median. None measures `min_repeats` times.
        confidence: of that interval.
    """

    warmup: int = 1
    min_repeats: int = 6
    max_repeats: int = 30
    target: float | None = 0.02
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name in ("warmup", "min_repeats", "max_repeats"):
            whole(f"repeats: {name}", getattr(self, name), 0)
        if self.warmup < 0 or self.min_repeats < 1 or self.max_repeats < self.min_repeats:
            raise UsageError(
                f"repeats: warmup={self.warmup}, min_repeats={self.min_repeats}, max_repeats={self.max_repeats}; "
                "warmup must be at least 0 and 1 <= min_repeats <= max_repeats"
            )
        if not 0.0 < self.confidence < 1.0:
            raise UsageError(f"repeats: confidence={self.confidence}; it must lie between 0 and 1, such as 0.95")
        if self.target is not None and not 0.0 < self.target < math.inf:
            raise UsageError(f"repeats: target={self.target}; give a relative width above 0, such as 0.02, or None")


ONCE = Protocol(warmup=0, min_repeats=1, max_repeats=1, target=None)


def median_interval(samples: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Distribution-free confidence interval of the median from order statistics.

    The interval between the k-th smallest and the k-th largest of n samples covers the median with probability
    ``1 - 2 * P(Binomial(n, 1/2) < k)`` (Conover, Practical Nonparametric Statistics, 3.2).

    Args:
        samples: shape ``(n,)``.
        confidence: wanted coverage.

    Returns:
        ``(low, high, coverage)``. Below six samples the range is returned with the coverage that it really has.
    """
    from scipy import stats  # noqa: PLC0415 - takes longer to import than most verbs of the command line to run

    ordered = np.sort(np.asarray(samples, dtype=float))
    n = len(ordered)
    if n == 0:
        raise UsageError("samples is empty; a median needs at least one")
    # ppf gives the smallest k with P(X <= k) >= alpha/2: the largest rank whose tail stays below alpha/2.
    k = max(1, int(stats.binom.ppf((1 - confidence) / 2, n, 0.5)))
    coverage = 1.0 - 2.0 * float(stats.binom.cdf(k - 1, n, 0.5))
    return float(ordered[k - 1]), float(ordered[n - k]), max(0.0, coverage)


def summarise(samples: Sequence[float], confidence: float = 0.95) -> Metric:
    """Median, half-width of its interval (None for a single sample) and the samples themselves."""
    values = [float(s) for s in samples]
    if len(values) == 1:
        return Metric(values[0], None, tuple(values))
    low, high, _ = median_interval(values, confidence)
    return Metric(float(np.median(values)), (high - low) / 2.0, tuple(values))


def drift(samples: Sequence[float], significance: float = 0.01) -> float | None:
    """Kendall's tau between a sample and its index where it is significant, else None (Mann's test for trend)."""
    if len(samples) < 8 or len(set(samples)) == 1:
        return None
    from scipy import stats  # noqa: PLC0415

    tau, p_value = stats.kendalltau(np.arange(len(samples)), np.asarray(samples, dtype=float))
    return float(tau) if p_value < significance else None


def repeat(run: Callable[[], object], objectives: Sequence[str], protocol: Protocol) -> Measurement:
    """Call `run` until every objective's median is known precisely enough, or the repeat budget is spent.

    All samples are kept. `notes` says how often it ran, whether the target was missed (`noisy`) and whether a metric
    drifted while it was measured (`drift`, Kendall's tau by metric).
    """
    for _ in range(protocol.warmup):
        Measurement.of(run(), objectives)
    runs: list[Measurement] = []
    while len(runs) < protocol.max_repeats:
        runs.append(Measurement.of(run(), objectives))
        if len(runs) >= protocol.min_repeats and (
            protocol.target is None or _relative_half_width(runs, objectives, protocol) <= protocol.target
        ):
            break
    if len(runs) == 1:
        return runs[0]
    names = [name for name in runs[0].metrics if all(name in one.metrics for one in runs)]
    series = {name: [one.metrics[name].value for one in runs] for name in names}
    metrics = {name: summarise(values, protocol.confidence) for name, values in series.items()}
    drifts = {name: tau for name, values in series.items() if (tau := drift(values)) is not None}
    notes: dict[str, Any] = {**runs[-1].notes, "repeats": len(runs)}
    if protocol.target is not None:
        notes["noisy"] = _relative_half_width(runs, objectives, protocol) > protocol.target
    if drifts:
        notes["drift"] = drifts
    return Measurement(metrics, notes, joined_logs(*(one.log for one in runs)), runs[-1].artifacts)


def _relative_half_width(runs: Sequence[Measurement], objectives: Sequence[str], protocol: Protocol) -> float:
    widths = []
    for name in objectives:
        values = [one.metrics[name].value for one in runs]
        if len(values) < 2:
            return math.inf  # one value says nothing of its noise
        low, high, coverage = median_interval(values, protocol.confidence)
        if coverage < protocol.confidence and low != high:
            return math.inf
        middle = abs(float(np.median(values)))
        widths.append(0.0 if low == high else (high - low) / 2.0 / middle if middle else math.inf)
    return max(widths)
