"""Our spaces and configurations in Optuna's terms: scalar distributions by dimension, `budget[3]` for a vector's fourth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from autotune.space import Bool, Categorical, Config, Float, Int, Ordinal, Parameter, SearchSpace


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """One distribution per scalar dimension, conditional ones included.

    An ordinal becomes the index of its value, since Optuna knows no order between categories.
    """
    found: dict[str, BaseDistribution] = {}
    for parameter in space.parameters:
        for key in _keys(parameter):
            found[key] = _distribution(parameter)
    return found


def flatten(space: SearchSpace, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as Optuna's external parameter values; only what is active."""
    flat: dict[str, Any] = {}
    for parameter in space.parameters:
        if parameter.name not in config:
            continue
        value = config[parameter.name]
        values = [value] if parameter.size is None else value
        for key, one in zip(_keys(parameter), values, strict=True):
            flat[key] = parameter.values.index(one) if isinstance(parameter, Ordinal) else one
    return flat


def unflatten(space: SearchSpace, flat: Mapping[str, Any]) -> Config:
    """Back from Optuna's values; parameters that are missing (wholly or in part) stay out."""
    config: Config = {}
    for parameter in space.parameters:
        keys = _keys(parameter)
        if any(key not in flat for key in keys):
            continue
        values = [parameter.values[int(flat[key])] if isinstance(parameter, Ordinal) else flat[key] for key in keys]
        config[parameter.name] = values[0] if parameter.size is None else values
    return config


def _keys(parameter: Parameter) -> list[str]:
    if parameter.size is None:
        return [parameter.name]
    return [f"{parameter.name}[{i}]" for i in range(parameter.size)]


def _distribution(parameter: Parameter) -> BaseDistribution:
    match parameter:
        case Float():
            return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
        case Int():
            return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
        case Ordinal():
            return IntDistribution(0, len(parameter.values) - 1)
        case Bool():
            return CategoricalDistribution((False, True))
        case Categorical():
            return CategoricalDistribution(tuple(parameter.choices))
    raise TypeError(f"parameter {parameter.name!r} is a {type(parameter).__name__}, which has no Optuna distribution")
