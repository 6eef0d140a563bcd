"""SMAC3 by ask and tell: random forest and local search (`HyperparameterOptimizationFacade`), and on spaces of real numbers
only its Gaussian process (`BlackBoxFacade`), as its documentation recommends. What is infeasible or fails is told as the worst
loss seen. Several objectives go through ParEGO.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from importlib import metadata
from typing import Any

from benchmarks.quality.peers.protocol import Answer, Evaluate, PlainParameter, PlainProblem, Worst

NEEDS_TABLE = False


def version() -> str:
    """Name and version of the package."""
    importlib.import_module("smac")
    return f"smac {metadata.version('smac')}"


def refuses(option: str, problem: PlainProblem) -> str | None:
    """SMAC takes all plain spaces."""
    return None


def search(option: str, problem: PlainProblem, evaluate: Evaluate) -> None:
    """One run; ends with `Stop` out of `evaluate`."""
    smac, configspace = importlib.import_module("smac"), importlib.import_module("ConfigSpace")
    values = importlib.import_module("smac.runhistory.dataclasses")
    logging.disable(logging.CRITICAL)
    space = configspace.ConfigurationSpace(seed=problem.seed)
    space.add([_hyperparameter(configspace, p) for p in problem.parameters])
    names = [f"loss{i}" for i in range(problem.objectives)]
    with tempfile.TemporaryDirectory() as folder:
        scenario = smac.Scenario(
            space,
            deterministic=True,
            # Free proposals count as trials for SMAC; the harness says when it is over.
            n_trials=100 * problem.budget,
            seed=problem.seed,
            output_directory=folder,
            objectives=names if problem.objectives > 1 else "loss0",
        )
        real = all(p.kind == "float" for p in problem.parameters)
        facade = smac.BlackBoxFacade if real else smac.HyperparameterOptimizationFacade
        given = [configspace.Configuration(space, values=config) for config in problem.initial]
        design: dict[str, Any] = {"n_configs": 0, "additional_configs": given} if given else {}
        parts: dict[str, Any] = {}
        if problem.objectives > 1:
            parts["multi_objective_algorithm"] = facade.get_multi_objective_algorithm(scenario)
        optimiser = facade(
            scenario,
            lambda config, seed=0: 0.0,
            initial_design=facade.get_initial_design(scenario, **design),
            overwrite=True,
            logging_level=False,
            **parts,
        )
        worst = Worst(problem.objectives)
        held: list[Any] = []  # told as soon as it is known what is bad
        while True:
            info = optimiser.ask()
            answer = evaluate(_plain(problem, dict(info.config)))
            if answer.losses is not None:
                worst.see(answer.losses)
            held.append((info, answer))
            bad = worst.value()
            if bad is not None or len(held) > len(given):
                for one, known in held:
                    cost = _cost(known, bad)
                    optimiser.tell(
                        one, values.TrialValue(cost=cost[0] if problem.objectives == 1 else cost), save=False
                    )
                held = []


def _cost(answer: Answer, bad: list[float] | None) -> list[float]:
    if answer.losses is not None:
        return list(answer.losses)
    return bad if bad is not None else [1.0]


def _plain(problem: PlainProblem, config: dict[str, Any]) -> dict[str, Any]:
    """ConfigSpace returns numpy's types; listed values are looked up."""
    result = {}
    for p in problem.parameters:
        value = config[p.name]
        value = value.item() if hasattr(value, "item") else value
        result[p.name] = p.values[p.values.index(value)] if p.values else value
    return result


def _hyperparameter(configspace: Any, parameter: PlainParameter) -> Any:
    match parameter.kind:
        case "float":
            return configspace.Float(parameter.name, (parameter.low, parameter.high), log=parameter.log)
        case "int":
            return configspace.Integer(parameter.name, (int(parameter.low), int(parameter.high)), log=parameter.log)
        case _ if len(parameter.values) == 1:
            return configspace.Constant(parameter.name, parameter.values[0])
        case "ordinal":
            return configspace.OrdinalHyperparameter(parameter.name, list(parameter.values))
        case _:
            return configspace.CategoricalHyperparameter(parameter.name, list(parameter.values))
