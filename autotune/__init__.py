"""Automatic configuration search for machine-learning systems.

    import autotune
    from autotune import Categorical, Ordinal, SearchSpace

    space = SearchSpace([Ordinal("tile", [8, 16, 32, 64]), Categorical("cache", ["lru", "lfu"])], constraints=["tile <= 32"])
    result = autotune.search(space, evaluate, objectives="minimize latency_ms", trials=50, seed=0)
    print(result.best.config, result.gain)

Everything public is named here; nothing else is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.domain import Domain, Problem
    from autotune.errors import (
        AutotuneError,
        EmptySpaceError,
        LeaseLostError,
        SearchFailedError,
        SpaceExhaustedError,
        StoreError,
        UsageError,
    )
    from autotune.execution import InProcess, Isolated
    from autotune.explaining import Section
    from autotune.exporting import Exported, Exporter
    from autotune.loop import Progress, search, search_iter
    from autotune.measurement import Failure, FailureKind, Measurement, Metric, Protocol
    from autotune.objective import Objective, OutcomeConstraint
    from autotune.predictors import Predictor, PredictorWarning
    from autotune.pruning import PRUNERS
    from autotune.reports import Pruned, Report
    from autotune.result import Result
    from autotune.space import Bool, Categorical, Constraint, Float, Int, Ordinal, SearchSpace
    from autotune.store import Store
    from autotune.strategies import STRATEGIES, FixedPointMap, History, Settings, Source, Strategy, Suggestion, Task
    from autotune.study import Study
    from autotune.trial import Trial

__version__ = "0.1.0"

__all__ = [
    "PRUNERS",
    "STRATEGIES",
    "AutotuneError",
    "Bool",
    "Categorical",
    "Constraint",
    "Domain",
    "EmptySpaceError",
    "Exported",
    "Exporter",
    "Failure",
    "FailureKind",
    "FixedPointMap",
    "Float",
    "History",
    "InProcess",
    "Int",
    "Isolated",
    "LeaseLostError",
    "Measurement",
    "Metric",
    "Objective",
    "Ordinal",
    "OutcomeConstraint",
    "Predictor",
    "PredictorWarning",
    "Problem",
    "Progress",
    "Protocol",
    "Pruned",
    "Report",
    "Result",
    "SearchFailedError",
    "SearchSpace",
    "Section",
    "Settings",
    "Source",
    "SpaceExhaustedError",
    "Store",
    "StoreError",
    "Strategy",
    "Study",
    "Suggestion",
    "Task",
    "Trial",
    "UsageError",
    "search",
    "search_iter",
]

# Where each lives. They are imported when they are first asked for: whoever needs a compressor in a training process shall
# not load a database toolkit with it.
_HOMES = {
    "autotune.domain": ("Domain", "Problem"),
    "autotune.errors": (
        "AutotuneError",
        "EmptySpaceError",
        "LeaseLostError",
        "SearchFailedError",
        "SpaceExhaustedError",
        "StoreError",
        "UsageError",
    ),
    "autotune.execution": ("InProcess", "Isolated"),
    "autotune.explaining": ("Section",),
    "autotune.exporting": ("Exported", "Exporter"),
    "autotune.loop": ("Progress", "search", "search_iter"),
    "autotune.measurement": ("Failure", "FailureKind", "Measurement", "Metric", "Protocol"),
    "autotune.objective": ("Objective", "OutcomeConstraint"),
    "autotune.predictors": ("Predictor", "PredictorWarning"),
    "autotune.pruning": ("PRUNERS",),
    "autotune.reports": ("Pruned", "Report"),
    "autotune.result": ("Result",),
    "autotune.space": ("Bool", "Categorical", "Constraint", "Float", "Int", "Ordinal", "SearchSpace"),
    "autotune.store": ("Store",),
    "autotune.strategies": (
        "STRATEGIES",
        "FixedPointMap",
        "History",
        "Settings",
        "Source",
        "Strategy",
        "Suggestion",
        "Task",
    ),
    "autotune.study": ("Study",),
    "autotune.trial": ("Trial",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # or type checkers would take every name for public

    def __getattr__(name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module 'autotune' has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
