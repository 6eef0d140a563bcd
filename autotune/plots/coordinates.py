"""Configurations as columns of numbers: one axis for each parameter, or several where a parameter is a vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.plots.style import clipped
from autotune.space.parameters import Parameter, parameter_from_dict
from autotune.store.records import StudyRecord, TrialRecord
from autotune.study_view import StudyView
from autotune.text import value_text
from autotune.viewing import NothingToShowError

Floats = npt.NDArray[np.float64]

ELEMENTS = 6  # of a vector, up to which each has an axis of its own
_CHOICES = 4  # of a longer vector, up to which each has an axis for its share
_TICK = 24  # characters
INACTIVE = "inactive"


@dataclass(frozen=True)
class Coordinate:
    """One axis.

    Attributes:
        name: of the axis: the parameter's, ``budget[2]``, ``budget (mean)``, or ``policy (share of lru)``.
        parameter: that it comes from.
        values: of shape ``(n,)``, one for each trial, NaN where the parameter is inactive. Listed values are their positions.
        ticks: what the positions 0, 1, ... stand for; None for numbers.
        ordered: whether the order of the values means anything.
        log: whether numbers are searched on a logarithmic scale.
    """

    name: str
    parameter: str
    values: Floats
    ticks: tuple[str, ...] | None = None
    ordered: bool = True
    log: bool = False

    @property
    def is_varied(self) -> bool:
        """Whether trials differ in it."""
        return len(np.unique(self.values)) > 1  # NaN is one value here

    def at(self, chosen: npt.NDArray[Any]) -> Coordinate:
        """The same axis for some of the trials, by their positions or by a mask."""
        return replace(self, values=self.values[chosen])

    def filled(self) -> Floats:
        """The values with the median of the active ones where the parameter is inactive."""
        active = self.values[np.isfinite(self.values)]
        middle = float(np.median(active)) if len(active) else 0.0
        if self.ticks is not None:
            middle = math.floor(middle)
        return np.where(np.isfinite(self.values), self.values, middle)

    def scaled(self) -> Floats:
        """Values in [0, 1] between the least and the greatest that were tried, logarithms where `log`; NaN where inactive."""
        values = np.log(self.values) if self.log else self.values
        active = values[np.isfinite(values)]
        low, high = (active.min(), active.max()) if len(active) else (0.0, 0.0)
        width = high - low
        return (values - low) / width if math.isfinite(width) and width > 0 else np.where(np.isnan(values), np.nan, 0.5)


def coordinates(study: StudyRecord, trials: Sequence[TrialRecord]) -> list[Coordinate]:
    """Every axis of the study's space for these trials, in the order in which the space declares its parameters."""
    found: list[Coordinate] = []
    for given in study.space["parameters"]:
        parameter = parameter_from_dict(given)
        values = [trial.config.get(parameter.name) for trial in trials]
        active = [parameter.name in trial.config for trial in trials]
        if parameter.size is None:
            found.append(_scalar(parameter, parameter.name, values, active))
        elif parameter.size <= ELEMENTS:
            found += [
                _scalar(parameter, f"{parameter.name}[{i}]", [_element(v, i) for v in values], active)
                for i in range(parameter.size)
            ]
        else:
            found += _summary(parameter, values, active)
    return found


def varied(study: StudyRecord, trials: Sequence[TrialRecord]) -> list[Coordinate]:
    """The axes in which these trials differ.

    Raises:
        NothingToShowError: where there is none.
    """
    found = [c for c in coordinates(study, trials) if c.is_varied]
    if not found:
        count = "no trial" if not trials else "one trial" if len(trials) == 1 else f"{len(trials)} trials alike"
        raise NothingToShowError(
            f"study {study.name!r} has {count} with a measurement; parameters are compared once two of them differ"
        )
    return found


def measured(view: StudyView, metric: str) -> list[TrialRecord]:
    """Completed trials that count with a finite value of that metric, by number."""
    return [t for t in view.completed if math.isfinite(t.values.get(metric, math.nan))]


def losses(view: StudyView, trials: Sequence[TrialRecord], metric: str) -> Floats:
    """Values of a metric as numbers to minimise: of an objective by its direction, of another metric as it is."""
    sign = next((o.sign for o in view.goals.objectives if o.metric == metric), 1.0)
    return sign * np.array([t.values[metric] for t in trials], dtype=np.float64)


def chosen_metric(view: StudyView, metric: str | None) -> str:
    """The metric that was asked for, or the first objective.

    Raises:
        NothingToShowError: for a metric that no completed trial has.
    """
    if metric is None:
        return view.goals.first.metric
    known = view.metric_names(view.completed)
    if metric not in known:
        raise NothingToShowError(
            f"option metric = {metric!r} was not measured; known are: {', '.join(known) or 'none'}"
        )
    return metric


def _element(value: Any, index: int) -> Any:
    return value[index] if isinstance(value, list) and index < len(value) else None


def _scalar(parameter: Parameter, name: str, values: Sequence[Any], active: Sequence[bool]) -> Coordinate:
    read, ticks = _reader(parameter)
    numbers = np.array([read(v) if on else math.nan for v, on in zip(values, active, strict=True)], dtype=np.float64)
    log = bool(getattr(parameter, "log", False))
    return Coordinate(name, parameter.name, numbers, ticks, parameter.kind in ("float", "int", "ordinal"), log)


def _reader(parameter: Parameter) -> tuple[Callable[[Any], float], tuple[str, ...] | None]:
    """How a value becomes a number, and what the numbers stand for where they are positions in a list."""
    listed = _listed(parameter)
    if listed is None:
        return _number, None
    places = {_key(value): float(place) for place, value in enumerate(listed)}
    return lambda value: places.get(_key(value), math.nan), tuple(_tick(value) for value in listed)


def _listed(parameter: Parameter) -> list[Any] | None:
    domain: Mapping[str, Any] = parameter.domain()
    if parameter.kind == "bool":
        return [False, True]
    found = domain.get("values", domain.get("choices"))
    return None if found is None else list(found)


def _key(value: Any) -> Any:
    # True equals 1 in Python but is not the same value in a configuration.
    return (isinstance(value, bool), value if not isinstance(value, list) else None)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _tick(value: Any) -> str:
    return clipped("none" if value is None else value_text(value), _TICK) or "''"


def _summary(parameter: Parameter, values: Sequence[Any], active: Sequence[bool]) -> list[Coordinate]:
    """Of a long vector: mean and spread of numbers; of choices the share of each, or how many differ where there are many."""
    rows = [
        v if on and isinstance(v, list) and len(v) == parameter.size else None
        for v, on in zip(values, active, strict=True)
    ]
    listed = _listed(parameter)
    name = parameter.name

    def axis(label: str, of: Callable[[list[Any]], float], *, log: bool = False) -> Coordinate:
        numbers = [math.nan if row is None else of(row) for row in rows]
        return Coordinate(f"{name} ({label})", name, np.array(numbers, dtype=np.float64), log=log)

    if listed is None or (parameter.kind == "ordinal" and all(not math.isnan(_number(v)) for v in listed)):
        log = bool(getattr(parameter, "log", False))
        return [
            axis("mean", lambda row: float(np.mean(row)), log=log),
            axis("spread", lambda row: float(np.max(row)) - float(np.min(row))),
        ]
    if len(listed) > _CHOICES:
        return [axis("distinct values", lambda row: float(len(set(map(_key, row)))))]
    shown = listed[1:] if len(listed) == 2 else listed  # the share of one of two tells that of the other
    return [axis(f"share of {_tick(value)}", _share_of(value)) for value in shown]


def _share_of(value: Any) -> Callable[[list[Any]], float]:
    key = _key(value)
    return lambda row: sum(_key(one) == key for one in row) / len(row)
