"""Search algorithms: one file each, one base class, one registry."""

from __future__ import annotations

import difflib
import sys
from typing import TYPE_CHECKING, TypeGuard

from autotune.errors import UsageError
from autotune.strategies.auto import Auto
from autotune.strategies.base import Capabilities, History, Settings, Source, Strategy, Suggestion, Task
from autotune.strategies.bo import BayesianOptimisation, TreesAlone
from autotune.strategies.exhaustive import Exhaustive
from autotune.strategies.fixed_point import FixedPoint, FixedPointMap
from autotune.strategies.greedy import Greedy, RuleOfThumb
from autotune.strategies.local import LocalSearch
from autotune.strategies.optuna_samplers import OPTUNA_STRATEGIES, OptunaStrategy

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = [
    "STRATEGIES",
    "Capabilities",
    "FixedPointMap",
    "History",
    "RuleOfThumb",
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
    Greedy,
    LocalSearch,
    *OPTUNA_STRATEGIES,
)
STRATEGIES: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in _ALL}


def resolve(strategy: str | type[Strategy] | BaseSampler) -> type[Strategy]:
    """The strategy class of a name, a class, or an Optuna sampler object.

    Raises:
        UsageError: for an unknown name, with the known ones.
    """
    if _is_sampler(strategy):
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


def _is_sampler(given: object) -> TypeGuard[BaseSampler]:
    """Whether this is a sampler of Optuna's, whose module whoever made it has imported: looking imports nothing."""
    samplers = sys.modules.get("optuna.samplers")
    return samplers is not None and isinstance(given, samplers.BaseSampler)
