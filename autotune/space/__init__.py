"""The search space: parameters, known constraints, the feasible set, sampling, repair and encoding."""

from __future__ import annotations

from autotune.space.constraints import Constraint
from autotune.space.dimensions import Dimension
from autotune.space.feasible import FeasibleTable
from autotune.space.parameters import Bool, Categorical, Config, Float, Int, Ordinal, Parameter
from autotune.space.relation import TableConstraint
from autotune.space.space import SearchSpace

__all__ = [
    "Bool",
    "Categorical",
    "Config",
    "Constraint",
    "Dimension",
    "FeasibleTable",
    "Float",
    "Int",
    "Ordinal",
    "Parameter",
    "SearchSpace",
    "TableConstraint",
]
