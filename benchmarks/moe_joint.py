"""The joint search of moe-cache: budgets, splits, policy and thresholds by several strategies at equal evaluations.

python benchmarks/moe_joint.py [--part search|limit] [--evaluations 50] [--times 100] [--json FILE] [--data DIR]

`search`: the best latency after so many measured configurations. `limit`: how far the first answer of `fixed-point` is from
the best that an adversary finds with so many times its evaluations.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autotune import SpaceExhaustedError, Study
from autotune.hardware import current_environment
from autotune.strategies.fixed_point import solve
from benchmarks.fixed_point import EXPERT_BYTES, made_costs, made_trace
from benchmarks.moe_adversary import attack
from benchmarks.moe_cases import (
    BUDGETS,
    Case,
    all_resident,
    belady_with_perfect_prefetch,
    case,
    traces,
    uniform_lru,
)
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.predict import with_accuracy
from evaluators.moe_cache.profiled import Profiled, plan_of
from evaluators.moe_cache.solver import CacheSolver, Memory

STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "fixed-point": ("fixed-point", {}),
    "bo": ("bo", {}),
    "bo, no seeds": ("bo", {"seeds": 0}),
    "auto": ("auto", {}),
    "auto, no fixed-point": ("auto", {"members": ["bo", "trees", "tpe", "local", "random"]}),
    "tpe": ("tpe", {}),
    "random": ("random", {}),
}
COUNTS = (1, 10, 50, 100)

Row = dict[str, Any]


def best_so_far(of: Case, strategy: str, options: dict[str, Any], evaluations: int, seed: int) -> list[float]:
    """Least ms after each configuration that the strategy proposed; the default, measured before, does not count."""
    problem, evaluate = of.problem, Profiled(of.solver.trace, of.solver.costs)
    study = Study.create(
        problem.space,
        objectives=problem.objectives,
        default=problem.default,
        strategy=strategy,
        strategy_options=options,
        seed=seed,
        budget=evaluations + 1,
        domain_map=of.solver,
    )
    found: list[float] = []
    for _ in range(evaluations + 1):
        try:
            trial = study.ask()
        except SpaceExhaustedError:  # fixed-point has said all that it knows
            break
        measured = evaluate(trial.config)
        study.tell(trial, measured)
        found.append(measured.metrics["token_latency_ms"].value)
    least = np.minimum.accumulate(found[1:]).tolist()
    return [*least, *[least[-1]] * (evaluations - len(least))]


def searched(of: Case, evaluations: int) -> Row:
    row: Row = {
        "trace": of.trace,
        "budget": of.budget,
        "uniform_lru_ms": uniform_lru(of),
        "all_resident_ms": all_resident(of),
        "belady_ms": belady_with_perfect_prefetch(of),
        "parameters": len(of.problem.space.dims),
        "best_ms": {},
    }
    for name, (strategy, options) in STRATEGIES.items():
        least = best_so_far(of, strategy, options, evaluations, seed=0)
        row["best_ms"][name] = {n: least[n - 1] for n in COUNTS if n <= evaluations}
    return row


def closed(row: Row, latency_ms: float) -> float:
    """Share of the way from uniform LRU without prefetching to Belady with perfect prefetching."""
    way = row["uniform_lru_ms"] - row["belady_ms"]
    return float((row["uniform_lru_ms"] - latency_ms) / way)


def made_solvers() -> Iterator[tuple[str, CacheSolver]]:
    """Routing that no choice in the solver was made on: other skews, other accuracies, a slow and a fast link."""
    for layers, experts, top_k, accuracy, transfer_ms, budget in (
        (24, 60, 4, 0.9, 0.15, 0.25),
        (24, 60, 4, 0.9, 1.0, 0.25),
        (24, 60, 4, 0.6, 0.4, 0.5),
        (32, 8, 2, 0.9, 0.3, 0.5),
        (16, 128, 8, 1.0, 0.2, 0.1),
        (12, 32, 4, 0.75, 0.5, 0.15),
    ):
        trace = with_accuracy(made_trace(layers, experts, top_k, 96, seed=layers), accuracy, seed=1)
        total = int(budget * layers * experts * EXPERT_BYTES)
        name = (
            f"made {layers} x {experts}, top {top_k}, accuracy {accuracy:g}, transfer {transfer_ms:g} ms, {budget:.0%}"
        )
        yield name, CacheSolver(trace, made_costs(layers, transfer_ms), Memory(total, top_k * EXPERT_BYTES))


def limited(name: str, solver: CacheSolver, times: int) -> Row:
    """One solve, timed, and the adversary after it."""
    begin, worked = time.perf_counter(), time.process_time()
    runs = solve(solver)
    seconds, worked = time.perf_counter() - begin, time.process_time() - worked
    spent = solver.evaluations
    answers = [plan_of(run.best.config) for run in runs]
    found = attack(solver, answers, times * spent, seed=0)
    return {
        "case": name,
        "fixed_point_ms": runs[0].best.loss,
        "iterate_ms": min(run.best_iterate.loss for run in runs),
        "evaluations": spent,
        "seconds": seconds,
        "cpu_seconds": worked,
        "policy": _named(answers[0]),
        "adversary_ms": found.latency_ms,
        "adversary_evaluations": found.evaluations,
        "adversary_policy": _named(found.plan),
        "gap": runs[0].best.loss / found.latency_ms - 1.0,
    }


def _named(plan: CachePlan) -> str:
    return f"{plan.policy}, prefetch {plan.prefetch_depth}"


def print_searched(rows: list[Row], evaluations: int) -> None:
    counts = [n for n in COUNTS if n <= evaluations]
    print("| trace | budget | uniform LRU | all resident | Belady, perfect prefetch | strategy | " + " | ".join(
        f"after {n}" for n in counts) + " | closed |")  # fmt: skip
    print("| --- " * (7 + len(counts)) + "|")
    for row in rows:
        head = f"| {row['trace']} | {row['budget']:.0%} | " + " | ".join(
            f"{row[key]:.4g}" for key in ("uniform_lru_ms", "all_resident_ms", "belady_ms")
        )
        for name, best in row["best_ms"].items():
            cells = " | ".join(f"{best[n]:.5g}" for n in counts)
            print(f"{head} | {name} | {cells} | {closed(row, best[counts[-1]]):.0%} |")


def print_limited_head() -> None:
    print("| case | fixed-point, ms | evaluations | s | CPU s | adversary, ms | its evaluations | gap |")
    print("| --- " * 8 + "|", flush=True)


def print_limited(row: Row) -> None:
    print(
        f"| {row['case']} | {row['fixed_point_ms']:.5g} ({row['policy']}) | {row['evaluations']:,} | {row['seconds']:.1f} | "
        f"{row['cpu_seconds']:.1f} | {row['adversary_ms']:.5g} ({row['adversary_policy']}) | "
        f"{row['adversary_evaluations']:,} | {row['gap']:.2%} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("search", "limit", "all"), default="all")
    parser.add_argument("--evaluations", type=int, default=50)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--data", type=Path, help="folder that holds moe_routing")
    arguments = parser.parse_args()
    document: dict[str, Any] = {"environment": current_environment().to_dict()}
    known = [(name, trace, budget) for name, trace in traces(arguments.data).items() for budget in arguments.budgets]
    if arguments.part != "limit":
        document["search"] = [searched(case(*given), arguments.evaluations) for given in known]
        print_searched(document["search"], arguments.evaluations)
    if arguments.part != "search":
        solve(case(*known[0]).solver)  # compiles what is timed below
        solvers = [(f"{name}, {budget:.0%}", case(name, trace, budget).solver) for name, trace, budget in known]
        print_limited_head()
        document["limit"] = []
        for name, solver in [*solvers, *made_solvers()]:
            document["limit"].append(limited(name, solver, arguments.times))
            print_limited(document["limit"][-1])
    environment = current_environment()
    print(f"\n{environment.details['hardware']['cpu']['model']}, Python {platform.python_version()}")
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
