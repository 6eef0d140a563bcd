"""Search algorithms: one file each, one base class, one registry."""

from __future__ import annotations

import difflib

from optuna.samplers import BaseSampler

from autotune.errors import UsageError
from autotune.strategies.auto import Auto
from autotune.strategies.base import Capabilities, History, Settings, Source, Strategy, Suggestion, Task
from autotune.strategies.bo import BayesianOptimisation, TreesAlone
from autotune.strategies.exhaustive import Exhaustive
from autotune.strategies.fixed_point import FixedPoint, FixedPointMap
from autotune.strategies.local import LocalSearch
from autotune.strategies.optuna_samplers import OPTUNA_STRATEGIES, OptunaStrategy

__all__ = [
    "STRATEGIES",
    "Capabilities",
    "FixedPointMap",
    "History",
    "Settings",
    "Source",
    "Strategy",
    "Suggestion",
    "Task",
    "resolve",
]

_ALL: tuple[type[Strategy], ...] = (
    Auto,
    BayesianOptimisation,
    TreesAlone,
    Exhaustive,
    FixedPoint,
    LocalSearch,
    *OPTUNA_STRATEGIES,
)
STRATEGIES: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in _ALL}


def resolve(strategy: str | type[Strategy] | BaseSampler) -> type[Strategy]:
    """The strategy class of a name, a class, or an Optuna sampler object.

    Raises:
        UsageError: for an unknown name, with the known ones.
    """
    if isinstance(strategy, BaseSampler):
        return OptunaStrategy.wrap(strategy)
    if isinstance(strategy, type) and issubclass(strategy, Strategy):
        return strategy
    if not isinstance(strategy, str):
        raise UsageError(f"strategy is {strategy!r}; give a name, a Strategy class or an Optuna sampler")
    if strategy not in STRATEGIES:
        close = difflib.get_close_matches(strategy, STRATEGIES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UsageError(f"strategy {strategy!r} is unknown{hint}; known are: {', '.join(sorted(STRATEGIES))}")
    return STRATEGIES[strategy]
