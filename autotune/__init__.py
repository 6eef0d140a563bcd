"""Automatic configuration search for machine-learning systems.

    import autotune
    from autotune import Categorical, Ordinal, SearchSpace

    space = SearchSpace([Ordinal("tile", [8, 16, 32, 64]), Categorical("cache", ["lru", "lfu"])], constraints=["tile <= 32"])
    result = autotune.search(space, evaluate, objectives="minimize latency_ms", trials=50, seed=0)
    print(result.best.config, result.gain)

Everything public is named here; nothing else is.
"""

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
