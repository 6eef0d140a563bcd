"""Problems of moe-cache that several benchmarks share: traces, budgets, and the latencies between which a search moves."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from autotune.domain import Problem
from autotune.errors import UsageError
from autotune.strategies.fixed_point import solve
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.predict import with_accuracy
from evaluators.moe_cache.profiled import plan_of
from evaluators.moe_cache.solver import CacheSolver
from evaluators.moe_cache.timeline import simulate
from search_spaces.moe_cache import DOMAIN, Options

PROFILE = "epyc-2core-disk"
BUDGETS = (0.05, 0.1, 0.25, 0.5, 0.75)
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """A trace and a budget, as a share of all experts' bytes."""

    trace: str
    budget: float
    problem: Problem
    solver: CacheSolver


def traces(data: Path | None) -> dict[str, str]:
    """The shipped trace, and the recorded ones where they are, by their short names."""
    folder = data or Path(os.environ.get("AUTOTUNE_DATA", _ROOT.parent / "shared" / "data"))
    files = {"granite": "granite.trace.json.gz", "qwen": "qwen.route.csv.gz"}
    found = {name: folder / "moe_routing" / file for name, file in files.items()}
    return {"tiny-moe": "tiny-moe"} | {name: str(path) for name, path in found.items() if path.is_file()}


def case(name: str, trace: str, budget: float, hardware: str = PROFILE) -> Case:
    problem = DOMAIN.problem(Options(trace=trace, budget_fraction=budget, hardware=hardware))
    solver = problem.domain_map
    if not isinstance(solver, CacheSolver):
        raise UsageError(f"trace {name!r}: the domain moe-cache supplies no solver to benchmark")
    return Case(name, budget, problem, solver)


def uniform_lru(of: Case) -> float:
    """Mean ms of a token with the default: equal budgets, LRU, whole experts, no prefetching."""
    return _latency(of.solver, plan_of(of.problem.default))


def all_resident(of: Case) -> float:
    """Mean ms of a token with every expert in fast memory."""
    layers, whole = of.solver.trace.n_layers, int(of.solver.costs.expert_bytes.max()) * of.solver.trace.n_experts
    return _latency(of.solver, CachePlan((whole,) * layers, (1.0,) * layers, "static"))


def belady_with_perfect_prefetch(of: Case) -> float:
    """Mean ms of a token with Belady's rule and predictions that are never wrong; budgets, splits and depth are solved for.

    The limit that a causal plan is held against. The solver's best, so not proved to be the least.
    """
    solver = CacheSolver(
        with_accuracy(of.solver.trace, 1.0, seed=0), of.solver.costs, of.solver.memory, policies=("belady",)
    )
    return solve(solver)[0].best.loss


def _latency(solver: CacheSolver, plan: CachePlan) -> float:
    return float(simulate(solver.trace, plan, solver.costs).latency_ms.mean())
