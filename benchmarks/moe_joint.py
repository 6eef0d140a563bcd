"""The joint search of moe-cache: budgets, splits, policy and thresholds by several strategies at equal evaluations.

python benchmarks/moe_joint.py [--part search|limit] [--traces NAME ...] [--budgets SHARE ...] [--evaluations 50] [--times 100]
    [--rows FILE.jsonl] [--data DIR]

`search`: the best latency after so many measured configurations. `limit`: how far the first answer of `fixed-point` is from
the best that an adversary finds with so many times its evaluations. A file of rows that exists is gone on with: what is in it
is printed and not searched again.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator
from functools import partial
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
from benchmarks.rows import Row, Rows
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


def limits(of: Case) -> Row:
    """The latencies between which a search moves."""
    return {
        "uniform_lru_ms": uniform_lru(of),
        "all_resident_ms": all_resident(of),
        "belady_ms": belady_with_perfect_prefetch(of),
        "parameters": len(of.problem.space.dims),
    }


def searched(of: Case, strategy: str, evaluations: int) -> Row:
    """One strategy's best after some numbers of evaluations."""
    began = time.perf_counter()
    least = best_so_far(of, *STRATEGIES[strategy], evaluations, seed=0)
    best = {str(n): least[n - 1] for n in COUNTS if n <= evaluations}
    return {"best_ms": best, "seconds": time.perf_counter() - began}


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


def limited(solver: CacheSolver, times: int) -> Row:
    """One solve, timed, and the adversary after it."""
    begin, worked = time.perf_counter(), time.process_time()
    runs = solve(solver)
    seconds, worked = time.perf_counter() - begin, time.process_time() - worked
    spent = solver.evaluations
    answers = [plan_of(run.best.config) for run in runs]
    found = attack(solver, answers, times * spent, seed=0)
    return {
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


def closed(between: Row, latency_ms: float) -> float:
    """Share of the way from uniform LRU without prefetching to Belady with perfect prefetching."""
    way = between["uniform_lru_ms"] - between["belady_ms"]
    return float((between["uniform_lru_ms"] - latency_ms) / way)


def print_searched_head(evaluations: int) -> None:
    counts = [n for n in COUNTS if n <= evaluations]
    print("| trace | budget | uniform LRU | all resident | Belady, perfect prefetch | strategy | " + " | ".join(
        f"after {n}" for n in counts) + " | closed | s |")  # fmt: skip
    print("| --- " * (8 + len(counts)) + "|", flush=True)


def print_searched(trace: str, budget: float, between: Row, strategy: str, row: Row) -> None:
    latencies = list(row["best_ms"].values())
    ends = " | ".join(f"{between[key]:.4g}" for key in ("uniform_lru_ms", "all_resident_ms", "belady_ms"))
    cells = " | ".join(f"{ms:.5g}" for ms in latencies)
    print(
        f"| {trace} | {budget:.0%} | {ends} | {strategy} | {cells} | {closed(between, latencies[-1]):.0%} | "
        f"{row['seconds']:.0f} |",
        flush=True,
    )


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
    parser.add_argument("--traces", nargs="+", help="their names; all that are there if left out")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--rows", type=Path, help="keep the numbers here, one JSON object a line")
    parser.add_argument("--data", type=Path, help="folder that holds moe_routing")
    arguments = parser.parse_args()
    there = traces(arguments.data)
    chosen = arguments.traces or list(there)
    if missing := [name for name in chosen if name not in there]:
        parser.error(f"--traces {missing[0]}: there are {', '.join(there)}; the recorded ones need --data DIR")
    known = [(name, there[name], budget) for name in chosen for budget in arguments.budgets]
    rows = Rows(arguments.rows, ("part", "case", "budget", "strategy", "count"))
    if arguments.part != "limit":
        search(known, rows, arguments.evaluations)
    if arguments.part != "search":
        limit(known, rows, arguments.times)
    environment = current_environment()
    print(f"\n{environment.details['hardware']['cpu']['model']}, Python {platform.python_version()}")


def search(known: list[tuple[str, str, float]], rows: Rows, evaluations: int) -> None:
    print_searched_head(evaluations)
    for name, trace, budget in known:
        of = case(name, trace, budget)
        between = rows.row({"part": "limits", "case": name, "budget": budget}, partial(limits, of))
        for strategy in STRATEGIES:
            which = {"part": "search", "case": name, "budget": budget, "strategy": strategy, "count": evaluations}
            row = rows.row(which, partial(searched, of, strategy, evaluations))
            print_searched(name, budget, between, strategy, row)


def limit(known: list[tuple[str, str, float]], rows: Rows, times: int) -> None:
    solvers = [(f"{name}, {budget:.0%}", case(name, trace, budget).solver) for name, trace, budget in known]
    solve(case(*known[0]).solver)  # compiles what is timed below
    print_limited_head()
    for name, solver in [*solvers, *made_solvers()]:
        print_limited(rows.row({"part": "limit", "case": name, "count": times}, partial(limited, solver, times)))


if __name__ == "__main__":
    main()
