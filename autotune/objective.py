"""Objectives, outcome constraints, the one rule of feasibility, and Pareto order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from autotune.checks import texts
from autotune.errors import UsageError

Direction = Literal["minimize", "maximize"]

_NAME = r"[A-Za-z_][A-Za-z0-9_./-]*"
_OBJECTIVE = re.compile(rf"^\s*(?:(minimi[sz]e|min|maximi[sz]e|max)\s+)?({_NAME})\s*$")
_CONSTRAINT = re.compile(rf"^\s*({_NAME})\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*$")

# The unit of a metric is the suffix of its name, so that a number can never be shown without it.
_UNITS = {
    "s": "s", "ms": "ms", "us": "µs", "gib": "GiB", "mib": "MiB", "gb": "GB", "mb": "MB", "j": "J", "w": "W",
    "pct": "%", "rate": "", "count": "", "per_s": "1/s", "usd": "USD",
}  # fmt: skip


def unit_of(metric: str) -> str:
    """The unit that a metric's name ends in (``latency_ms`` -> ``ms``), or an empty text."""
    parts = metric.lower().split("_")
    for length in (2, 1):
        unit = _UNITS.get("_".join(parts[-length:])) if len(parts) > length else None
        if unit is not None:
            return unit
    return ""


@dataclass(frozen=True)
class Objective:
    """A metric to minimise or maximise."""

    metric: str
    direction: Direction = "minimize"

    @classmethod
    def parse(cls, text: str | Objective) -> Objective:
        """Read ``latency_ms``, ``minimize latency_ms`` or ``maximize throughput``. A bare name is minimised."""
        if isinstance(text, Objective):
            return text
        found = _OBJECTIVE.match(text)
        if not found:
            raise UsageError(f"objective {text!r} is not of the form 'minimize METRIC' or 'maximize METRIC'")
        return cls(found[2], "maximize" if (found[1] or "").startswith("max") else "minimize")

    @property
    def unit(self) -> str:
        return unit_of(self.metric)

    @property
    def sign(self) -> float:
        """Factor that turns the metric into something to minimise."""
        return 1.0 if self.direction == "minimize" else -1.0

    def gain(self, value: float, reference: float) -> float | None:
        """Relative improvement of `value` over `reference`, positive when better; None where it is undefined."""
        if not (math.isfinite(value) and math.isfinite(reference)) or reference == 0:
            return None
        return self.sign * (reference - value) / abs(reference)

    def __str__(self) -> str:
        return f"{self.direction} {self.metric}"


@dataclass(frozen=True)
class OutcomeConstraint:
    """A limit on a measured metric (an SLO): ``metric <= bound`` or ``metric >= bound``."""

    metric: str
    operator: Literal["<=", ">="]
    bound: float

    @classmethod
    def parse(cls, text: str | OutcomeConstraint) -> OutcomeConstraint:
        """Read ``vram_gib <= 24``. Strict signs are accepted and mean the same, as measurements are real numbers."""
        if isinstance(text, OutcomeConstraint):
            return text
        found = _CONSTRAINT.match(text)
        try:
            bound = float(found[3]) if found else math.nan
        except ValueError:
            bound = math.nan
        if not found or not math.isfinite(bound):
            raise UsageError(f"outcome constraint {text!r} is not of the form 'METRIC <= NUMBER' or 'METRIC >= NUMBER'")
        return cls(found[1], "<=" if found[2][0] == "<" else ">=", bound)

    def violation(self, metrics: Mapping[str, float]) -> float:
        """How far the limit is exceeded, in the metric's unit; 0 when kept, infinite when absent or NaN."""
        value = metrics.get(self.metric, math.nan)
        if math.isnan(value):
            return math.inf
        return max(0.0, value - self.bound if self.operator == "<=" else self.bound - value)

    def __str__(self) -> str:
        # Studies are stored as text, so no digit may be lost.
        bound = int(self.bound) if self.bound.is_integer() and abs(self.bound) < 1e15 else self.bound
        return f"{self.metric} {self.operator} {bound!r}"


def parse_objectives(given: str | Objective | Iterable[str | Objective]) -> tuple[Objective, ...]:
    """One or many objectives, as text or as objects; at least one, each metric once."""
    objectives = tuple(Objective.parse(item) for item in texts("objectives", given, Objective))
    names = [o.metric for o in objectives]
    if not objectives:
        raise UsageError("objectives is empty; give at least one, such as 'minimize latency_ms'")
    if len(set(names)) != len(names):
        raise UsageError(f"objectives name a metric twice: {', '.join(names)}")
    return objectives


def parse_constraints(
    given: str | OutcomeConstraint | Iterable[str | OutcomeConstraint],
) -> tuple[OutcomeConstraint, ...]:
    """None, one or many outcome constraints, as text or as objects."""
    return tuple(OutcomeConstraint.parse(item) for item in texts("constraints", given, OutcomeConstraint))


def is_feasible(metrics: Mapping[str, float], constraints: Sequence[OutcomeConstraint]) -> bool:
    """The one rule: a completed measurement is feasible when it breaks no outcome constraint."""
    return all(c.violation(metrics) == 0.0 for c in constraints)


def losses(metrics: Mapping[str, float], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The objectives as numbers to minimise."""
    return tuple(o.sign * metrics[o.metric] for o in objectives)


def pareto_mask(points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which of ``n x m`` points (all to be minimised) no other point dominates. Equal points are kept together."""
    values = np.asarray(points, dtype=float)
    keep = np.ones(len(values), dtype=bool)
    for i, point in enumerate(values):
        if keep[i]:
            dominated = np.all(values >= point, axis=1) & np.any(values > point, axis=1)
            keep &= ~dominated
    return keep
