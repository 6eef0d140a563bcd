"""Kernel Tuner in simulation mode: its strategies search a cache file that holds every configuration, with their default
options; the configurations that it evaluated are then proposed to the harness in that order.

The space's known constraints are given as a restriction, so that all proposals are feasible. Where a strategy takes a starting
point (`x0`), that is the first configuration of the shared initial design; none takes a whole design.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import random
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.peers.protocol import Evaluate, PlainProblem

NEEDS_TABLE = True
_NO_START = ("bayes_opt",)


def version() -> str:
    """Name and version of the package."""
    importlib.import_module("kernel_tuner")
    return f"kernel_tuner {metadata.version('kernel-tuner')}"


def refuses(option: str, problem: PlainProblem) -> str | None:
    """Listed values and one objective."""
    if problem.objectives > 1:
        return "one objective only"
    return "listed values only" if any(not p.values for p in problem.parameters) else None


def search(option: str, problem: PlainProblem, evaluate: Evaluate) -> None:
    """One run: the whole search first, then its evaluations one by one, all of its seconds before the first."""
    random.seed(problem.seed)
    np.random.seed(problem.seed)  # noqa: NPY002 - Kernel Tuner draws from the global generators
    names = [p.name for p in problem.parameters]
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache.json"
        cache.write_text(json.dumps(_cache(problem)))
        found = _simulate(option, problem, cache)
    known: dict[tuple[Any, ...], None] = {}
    for result in found:
        known.setdefault(tuple(result[name] for name in names))
    for values in known:
        evaluate(dict(zip(names, values, strict=True)))


def _simulate(option: str, problem: PlainProblem, cache: Path) -> list[dict[str, Any]]:
    kernel_tuner = importlib.import_module("kernel_tuner")
    names = [p.name for p in problem.parameters]
    feasible = {values for values, _ in problem.table}
    # As `kernel_tuner.tune_cache` makes it, which would tell the strategies what fails, too.
    restriction = importlib.import_module("constraint").FunctionConstraint(lambda *values: values in feasible)
    options: dict[str, Any] = {"max_fevals": problem.budget}
    if problem.initial and option not in _NO_START:
        options["x0"] = [problem.initial[0][name] for name in names]
    with contextlib.redirect_stdout(None):
        results, _ = kernel_tuner.tune_kernel(
            "recorded",
            "",
            1,
            [],
            {p.name: list(p.values) for p in problem.parameters},
            strategy=option,
            strategy_options=options,
            restrictions=[restriction],
            cache=str(cache),
            simulation_mode=True,
            objective="time",
            lang="C",
            quiet=True,
            seed=problem.seed,
        )
    return list(results)


def _cache(problem: PlainProblem) -> dict[str, Any]:
    names = [p.name for p in problem.parameters]
    cache = {}
    for values, loss in problem.table:
        entry: dict[str, Any] = dict(zip(names, values, strict=True))
        entry |= {
            "time": loss if loss is not None else "RuntimeFailedConfig",
            "compile_time": 0.0, "verification_time": 0.0, "benchmark_time": 0.0, "strategy_time": 0.0, "framework_time": 0.0,
            "timestamp": "2000-01-01T00:00:00+00:00",
        }  # fmt: skip
        if loss is None:
            entry["__error__"] = "RuntimeFailedConfig"
        cache[",".join(str(value) for value in values)] = entry
    return {
        "device_name": "recorded",
        "kernel_name": "recorded",
        "problem_size": [1],
        "tune_params_keys": names,
        "tune_params": {p.name: list(p.values) for p in problem.parameters},
        "objective": "time",
        "cache": cache,
    }
