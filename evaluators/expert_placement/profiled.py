"""Evaluator `profiled`: a placement computed on one part of a trace, replayed on the held-out rest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from autotune.errors import UsageError
from autotune.measurement import Failure, FailureKind, Measurement, Metric
from evaluators.expert_placement.cluster import Floats
from evaluators.expert_placement.measure import layer_costs, measure
from evaluators.expert_placement.routing import Routing
from evaluators.expert_placement.solvers import SOLVERS, NoSolutionError, Solution, Task
from evaluators.expert_placement.solvers.swap import swap

METRICS = (
    "hops_per_token",
    "hop_cost_per_token",
    "dispatch_hops_per_token",
    "combine_hops_per_token",
    "pair_hops_per_token",
    "exflow_hops_per_token",
    "gpus_per_token",
    "max_load",
    "worst_load",
    "train_hops_per_token",
    "train_hop_cost_per_token",
    "train_max_load",
)


class Placer:
    """Turns configurations of the domain `expert-placement` into placements.

    What a solver found is kept, so that configurations that only differ in the local search after it share its work.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._starts: dict[str, Solution] = {}

    def place(self, config: Mapping[str, Any]) -> Solution:
        """The placement that a configuration means.

        Args:
            config: `solver`, `sweeps` of the swap search after it and, where there are any, its `load_weight`: one
                number, or one for each range of layers.

        Raises:
            UsageError: for a configuration that lacks one of these, an unknown solver, or one that cannot place these
                experts.
            NoSolutionError: where the solver had nothing when its time was up.
        """
        needed = ("solver", "sweeps", "load_weight") if config.get("sweeps") else ("solver", "sweeps")
        for name in needed:
            if name not in config:
                raise UsageError(f"the configuration has no {name}; give {', '.join(needed)}")
        start = self._start(config["solver"])
        if not config["sweeps"]:
            return start
        polished = swap(self.task, start.placement, config["sweeps"], config["load_weight"])
        return Solution(polished.placement, {**start.facts, **polished.facts})

    def _start(self, name: str) -> Solution:
        if name not in SOLVERS:
            raise UsageError(f"solver {name!r} is unknown; choose one of: {', '.join(SOLVERS)}")
        if name not in self._starts:
            self._starts[name] = SOLVERS[name](self.task)
        return self._starts[name]


class Profiled:
    """Places on the training part and counts hops and loads on the held-out part.

    Deterministic, but for integer programs that are ended by their time limit. The notes hold the placement itself, a list
    of GPUs by expert for every layer; `layers`, the fields of `LayerCosts` on the held-out part; and `solver_s`, the seconds
    that this trial spent on the placement.
    """

    def __init__(self, placer: Placer, held_out: Routing) -> None:
        self.placer = placer
        self.held_out = held_out

    def __call__(self, config: Mapping[str, Any]) -> Measurement:
        begin = time.perf_counter()
        try:
            solution = self.placer.place(config)
        except NoSolutionError as error:
            raise Failure(FailureKind.TIMEOUT, f"{error}; give more program_seconds") from None
        seconds = time.perf_counter() - begin
        task = self.placer.task
        found = asdict(measure(solution.placement, self.held_out, task.cluster))
        trained = measure(solution.placement, task.routing, task.cluster)
        found |= {
            "train_hops_per_token": trained.hops_per_token,
            "train_hop_cost_per_token": trained.hop_cost_per_token,
            "train_max_load": trained.max_load,
        }
        layers = layer_costs(solution.placement, self.held_out, task.cluster)
        notes = {
            **solution.facts,
            "solver_s": round(seconds, 3),
            "placement": solution.placement.tolist(),
            "layers": {name: _plain(getattr(layers, name)) for name in ("hop_cost", "max_load", "gpu_load")},
        }
        return Measurement({name: Metric(found[name]) for name in METRICS}, notes)


def _plain(values: Floats) -> Any:
    """Nested lists of JSON, in five digits; None where there is no number."""
    return [
        _plain(value) if value.ndim else None if np.isnan(value) else float(f"{value:.5g}")
        for value in map(np.asarray, values)
    ]
