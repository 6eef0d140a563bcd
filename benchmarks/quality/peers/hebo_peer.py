"""HEBO by suggest and observe with its defaults; an ordered list is an integer index. What is infeasible or fails is told as
the worst loss seen.
"""

from __future__ import annotations

import importlib
import random
import warnings
from importlib import metadata
from typing import Any

import numpy as np

from benchmarks.quality.peers.protocol import Evaluate, PlainParameter, PlainProblem, Worst

NEEDS_TABLE = False


def version() -> str:
    """Name and version of the package."""
    importlib.import_module("hebo.optimizers.hebo")
    return f"hebo {metadata.version('HEBO')}"


def refuses(option: str, problem: PlainProblem) -> str | None:
    """`HEBO` itself takes one objective."""
    return "one objective only" if problem.objectives > 1 else None


def search(option: str, problem: PlainProblem, evaluate: Evaluate) -> None:
    """One run; ends with `Stop` out of `evaluate`."""
    warnings.simplefilter("ignore")
    pandas, torch = importlib.import_module("pandas"), importlib.import_module("torch")
    random.seed(problem.seed)
    np.random.seed(problem.seed)  # noqa: NPY002 - HEBO draws from the global generators
    torch.manual_seed(problem.seed)
    searched = [p for p in problem.parameters if len(p.values) != 1]
    constants = {p.name: p.values[0] for p in problem.parameters if len(p.values) == 1}
    space = (
        importlib.import_module("hebo.design_space.design_space").DesignSpace().parse([_describe(p) for p in searched])
    )
    optimiser = importlib.import_module("hebo.optimizers.hebo").HEBO(space, scramble_seed=problem.seed)
    worst = Worst(1)
    waiting: list[Any] = []  # what has no loss until it is known what is bad

    def tell(row: dict[str, Any], config: dict[str, Any]) -> None:
        answer = evaluate(config)
        if answer.losses is not None:
            worst.see(answer.losses)
            optimiser.observe(pandas.DataFrame([row]), np.array([answer.losses]))
        else:
            waiting.append(row)
        bad = worst.value()
        while waiting and bad is not None:
            optimiser.observe(pandas.DataFrame([waiting.pop()]), np.array([bad]))

    for config in problem.initial:
        tell({p.name: _inner(p, config[p.name]) for p in searched}, dict(config))
    while True:
        row = optimiser.suggest(n_suggestions=1).iloc[0].to_dict()
        tell(row, {**constants, **{p.name: _outer(p, row[p.name]) for p in searched}})


def _describe(parameter: PlainParameter) -> dict[str, Any]:
    match parameter.kind:
        case "float":
            span = {"lb": parameter.low, "ub": parameter.high}
            return {"name": parameter.name, "type": "pow" if parameter.log else "num", **span}
        case "int":
            return {"name": parameter.name, "type": "int", "lb": int(parameter.low), "ub": int(parameter.high)}
        case "ordinal":
            return {"name": parameter.name, "type": "int", "lb": 0, "ub": len(parameter.values) - 1}
        case _:
            return {"name": parameter.name, "type": "cat", "categories": list(parameter.values)}


def _inner(parameter: PlainParameter, value: Any) -> Any:
    return parameter.values.index(value) if parameter.kind == "ordinal" else value


def _outer(parameter: PlainParameter, value: Any) -> Any:
    if parameter.kind == "ordinal":
        return parameter.values[int(value)]
    if parameter.kind == "int":
        return int(value)
    return float(value) if parameter.kind == "float" else parameter.values[parameter.values.index(value)]
