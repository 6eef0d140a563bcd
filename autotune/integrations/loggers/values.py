"""Studies and trials as trackers take them: flat names with numbers and short texts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from autotune.result import Result
from autotune.store import StudyRecord, TrialRecord
from autotune.store.rows import digest
from autotune.text import is_numeric_vector, value_text

Scalar = bool | int | float | str


def identity(study: StudyRecord) -> str:
    """Sixteen hexadecimal digits that name a study everywhere: of another name, space or time of creation they are others."""
    made = "" if study.created_at is None else study.created_at.isoformat()
    return digest(json.dumps([study.name, study.space_hash, made]))[:16]


def flat(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """A configuration by name; of a vector of numbers its ``.mean``, ``.min`` and ``.max``, of another one a short text."""
    found: dict[str, Scalar] = {}
    for name, value in config.items():
        if is_numeric_vector(value):
            parts = {"mean": sum(value) / len(value), "min": min(value), "max": max(value)}
            found |= {f"{name}.{part}": number for part, number in parts.items()}
        elif isinstance(value, (bool, int, float, str)):
            found[name] = value
        else:
            found[name] = value_text(value)
    return found


def facts(study: StudyRecord) -> dict[str, Scalar]:
    """What a study looks for, and how."""
    told: dict[str, Scalar | None] = {
        "study": study.name,
        "domain": study.domain,
        "objectives": ", ".join(study.objectives),
        "constraints": ", ".join(study.constraints),
        "strategy": study.strategy,
        "seed": study.seed,
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def outcome(trial: TrialRecord, *, feasible: bool) -> str:
    """How a trial ended, in one line."""
    kind = trial.state.value if trial.failure_kind is None else f"{trial.state.value} ({trial.failure_kind.value})"
    if trial.failure_message:
        return f"{kind}: {trial.failure_message}"
    return kind if feasible or trial.failure_kind or not trial.metrics or not trial.counts else f"{kind}, infeasible"


def summary(result: Result) -> dict[str, float]:
    """Default, best and gain, and how many trials ended how: numbers by name, those that are known and finite."""
    found: dict[str, float] = {}
    for role, measured in (("default", result.default), ("best", result.best)):
        if measured is not None:
            found |= {f"{role}/{name}": value for name, value in measured.metrics.items()}
    if result.best is not None:
        found["best/trial"] = result.best.number
    if result.gain is not None:
        found["gain"] = result.gain
    if len(result.study.objectives) > 1:
        found["pareto/size"] = len(result.pareto)
    found |= {f"trials/{state}": count for state, count in result.trials.items() if isinstance(count, int)}
    found |= {f"failures/{kind}": count for kind, count in result.trials["failures"].items()}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}
