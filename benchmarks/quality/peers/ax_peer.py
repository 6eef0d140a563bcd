"""Ax through its client, generation strategy left to Ax but for the shared initial design in place of its own. What the known
constraints forbid is abandoned, which Ax keeps out of later proposals; what fails is marked as failed.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from importlib import metadata
from typing import Any

from benchmarks.quality.peers.protocol import Answer, Evaluate, PlainParameter, PlainProblem

NEEDS_TABLE = False


def version() -> str:
    """Name and version of the package."""
    importlib.import_module("ax.api.client")
    return f"ax-platform {metadata.version('ax-platform')}"


def refuses(option: str, problem: PlainProblem) -> str | None:
    """Ax takes all plain spaces."""
    return None


def search(option: str, problem: PlainProblem, evaluate: Evaluate) -> None:
    """One run; ends with `Stop` out of `evaluate`."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    client = importlib.import_module("ax.api.client").Client(random_seed=problem.seed)
    configs = importlib.import_module("ax.api.configs")
    names = [f"loss{i}" for i in range(problem.objectives)]
    client.configure_experiment(parameters=[_parameter(configs, p) for p in problem.parameters if not _is_constant(p)])
    client.configure_optimization(objective=", ".join(f"-{name}" for name in names))
    if problem.initial:
        client.configure_generation_strategy(
            initialization_budget=len(problem.initial),
            initialization_random_seed=problem.seed,
            initialize_with_center=False,
        )
    for config in problem.initial:
        given = {p.name: config[p.name] for p in problem.parameters if not _is_constant(p)}
        _tell(client, names, client.attach_trial(parameters=given), evaluate(config))
    constants = {p.name: p.values[0] for p in problem.parameters if _is_constant(p)}
    while True:
        for index, given in client.get_next_trials(max_trials=1).items():
            # A dictionary in the parameters' order: the harness compares by name.
            _tell(client, names, index, evaluate({**constants, **given}))


def _tell(client: Any, names: list[str], index: int, answer: Answer) -> None:
    if answer.losses is not None:
        client.complete_trial(index, raw_data=dict(zip(names, answer.losses, strict=True)))
    elif answer.status == "failed":
        client.mark_trial_failed(index)
    else:
        client.mark_trial_abandoned(index)


def _is_constant(parameter: PlainParameter) -> bool:
    return len(parameter.values) == 1


def _parameter(configs: Any, parameter: PlainParameter) -> Any:
    if parameter.kind in ("float", "int"):
        return configs.RangeParameterConfig(
            name=parameter.name,
            bounds=(parameter.low, parameter.high)
            if parameter.kind == "float"
            else (int(parameter.low), int(parameter.high)),
            parameter_type=parameter.kind,
            scaling="log" if parameter.log else "linear",
        )
    kinds = {bool: "bool", int: "int", float: "float", str: "str"}
    return configs.ChoiceParameterConfig(
        name=parameter.name,
        values=list(parameter.values),
        parameter_type=kinds[type(parameter.values[0])],
        is_ordered=parameter.kind == "ordinal",
    )
