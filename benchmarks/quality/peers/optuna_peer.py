"""Plain Optuna as its documentation shows it: ask, tell, samplers with their defaults.

An ordered list is an integer index, since Optuna knows no order between categories. What TPE is told as pruned it ranks
below everything that completed, so it learns of infeasible and failed trials that way (told as `FAIL`, as Optuna does of
itself, it learns nothing and finds less); with nothing completed it would take them for good ones, hence `FAIL` until then.
The other samplers ignore pruned trials and are told the worst loss seen instead.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import optuna

from benchmarks.quality.peers.protocol import Evaluate, PlainParameter, PlainProblem, Worst

NEEDS_TABLE = False


def version() -> str:
    """Name and version of the package."""
    return f"optuna {optuna.__version__}"


def refuses(option: str, problem: PlainProblem) -> str | None:
    """Several objectives are not for CMA-ES."""
    return "one objective only" if option == "cmaes" and problem.objectives > 1 else None


def search(option: str, problem: PlainProblem, evaluate: Evaluate) -> None:
    """One run; ends with `Stop` out of `evaluate`."""
    optuna.logging.set_verbosity(logging.ERROR)
    warnings.simplefilter("ignore")
    study = optuna.create_study(directions=["minimize"] * problem.objectives, sampler=_SAMPLERS[option](problem.seed))
    for config in problem.initial:
        study.enqueue_trial({p.name: _internal(p, config[p.name]) for p in problem.parameters})
    worst = Worst(problem.objectives)
    while True:
        trial = study.ask()
        answer = evaluate({p.name: _suggest(trial, p) for p in problem.parameters})
        if answer.losses is not None:
            worst.see(answer.losses)
            study.tell(trial, list(answer.losses))
        elif (bad := worst.value()) is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif option == "tpe":
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, bad)


def _suggest(trial: Any, parameter: PlainParameter) -> Any:
    match parameter.kind:
        case "float":
            return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)
        case "int":
            return trial.suggest_int(parameter.name, int(parameter.low), int(parameter.high), log=parameter.log)
        case "ordinal":
            return parameter.values[trial.suggest_int(parameter.name, 0, len(parameter.values) - 1)]
        case _:
            return trial.suggest_categorical(parameter.name, list(parameter.values))


def _internal(parameter: PlainParameter, value: Any) -> Any:
    return parameter.values.index(value) if parameter.kind == "ordinal" else value


_SAMPLERS: dict[str, Callable[[int], Any]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
}
