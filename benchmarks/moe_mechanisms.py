"""What every mechanism of moe-cache is worth: the solver's best, and its best again without one of them.

python benchmarks/moe_mechanisms.py [--json FILE] [--data DIR] [--hardware PROFILE]

Switched off means solved for anew: what is left adapts. The threshold of the slow tier's processor takes part where the
hardware profile has its times.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

from autotune.hardware import current_environment
from autotune.strategies.fixed_point import solve
from benchmarks.moe_cases import PROFILE, Case, all_resident, case, traces, uniform_lru
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.predict import with_accuracy
from evaluators.moe_cache.profiled import plan_of
from evaluators.moe_cache.solver import SEARCHED_POLICIES, CacheSolver

BUDGETS = (0.1, 0.25, 0.5)

# What the solver is left without, by the name of the mechanism that this switches off.
OFF: dict[str, dict[str, Any]] = {
    "budgets per layer": {"uniform_budgets": True},
    "splits": {"thetas": (1.0,)},
    "policy (LRU)": {"policies": (Policy.LRU.value,)},
    "placement in hindsight": {"policies": tuple(p for p in SEARCHED_POLICIES if p != Policy.STATIC)},
    "prefetching": {"max_prefetch_depth": 0},
    "CPU threshold": {"slow_tier": False},
}
BASELINES: dict[str, dict[str, Any]] = {
    "cache-only": {"thetas": (1.0,), "max_prefetch_depth": 0},
    "prefetch-only": {"thetas": (0.0,)},
}

# What foresight would add: of what is needed next (in place of predictions), and of what is needed last (of a policy).
LIMITS: dict[str, tuple[bool, dict[str, Any]]] = {
    "perfect predictions": (True, {}),
    "Belady, no prefetching": (False, {"policies": (Policy.BELADY.value,), "max_prefetch_depth": 0}),
    "Belady, predictions": (False, {"policies": (Policy.BELADY.value,)}),
    "Belady, perfect predictions": (True, {"policies": (Policy.BELADY.value,)}),
}

Row = dict[str, Any]


def solved(of: Case, *, foresees: bool = False, **narrowed: Any) -> Row:
    """The best plan of a solver that may decide less, or whose predictions are never wrong."""
    trace = with_accuracy(of.solver.trace, 1.0, seed=0) if foresees else of.solver.trace
    solver = CacheSolver(trace, of.solver.costs, of.solver.memory, **narrowed)
    run = solve(solver)[0]
    plan = plan_of(run.best.config)
    return {
        "ms": run.best.loss,
        "policy": plan.policy,
        "prefetch_depth": plan.prefetch_depth,
        "theta_mean": sum(plan.theta) / len(plan.theta),
        "cpu_threshold_tokens": plan.cpu_threshold_tokens,
    }


def mechanisms(of: Case) -> Row:
    with_processor = of.solver.costs.cpu_expert_ms is not None
    off = {name: narrowed for name, narrowed in OFF.items() if with_processor or "slow_tier" not in narrowed}
    return {
        "trace": of.trace,
        "budget": of.budget,
        "uniform_lru_ms": uniform_lru(of),
        "all_resident_ms": all_resident(of),
        "best": solved(of),
        "without": {name: solved(of, **narrowed) for name, narrowed in off.items()},
        "baselines": {name: solved(of, **narrowed) for name, narrowed in BASELINES.items()},
        "limits": {name: solved(of, foresees=foresees, **narrowed) for name, (foresees, narrowed) in LIMITS.items()},
    }


def print_rows(rows: list[Row]) -> None:
    names = list(rows[0]["without"])
    baselines = list(rows[0]["baselines"])
    print("| trace | budget | best, ms | what it is | " + " | ".join(f"without {name}" for name in names)
          + " | " + " | ".join(baselines) + " | uniform LRU |")  # fmt: skip
    print("| --- " * (5 + len(names) + len(baselines)) + "|")
    for row in rows:
        best = row["best"]
        others = [*row["without"].values(), *row["baselines"].values()]
        cells = [f"{o['ms']:.4g} ({o['ms'] / best['ms'] - 1.0:+.1%})" for o in others]
        kind = f"{best['policy']}, prefetch {best['prefetch_depth']}, mean theta {best['theta_mean']:.2f}"
        if best["cpu_threshold_tokens"]:
            kind += f", CPU up to {best['cpu_threshold_tokens']} tokens"
        last = f"{row['uniform_lru_ms']:.4g} ({row['uniform_lru_ms'] / best['ms'] - 1.0:+.1%})"
        print(f"| {row['trace']} | {row['budget']:.0%} | {best['ms']:.4g} | {kind} | {' | '.join(cells)} | {last} |")


def print_limits(rows: list[Row]) -> None:
    print(
        "\n| trace | budget | best, ms | "
        + " | ".join(LIMITS)
        + " | all resident | closed of the way to the last limit |"
    )
    print("| --- " * (5 + len(LIMITS)) + "|")
    for row in rows:
        best, lru, limits = row["best"]["ms"], row["uniform_lru_ms"], [o["ms"] for o in row["limits"].values()]
        cells = " | ".join(f"{ms:.4g} ({ms / best - 1.0:+.1%})" for ms in [*limits, row["all_resident_ms"]])
        share = (lru - best) / (lru - limits[-1])
        print(f"| {row['trace']} | {row['budget']:.0%} | {best:.4g} | {cells} | {share:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--data", type=Path, help="folder that holds moe_routing")
    parser.add_argument("--hardware", default=PROFILE, help="hardware profile, by name or file")
    arguments = parser.parse_args()
    rows = [
        mechanisms(case(name, trace, budget, arguments.hardware))
        for name, trace in traces(arguments.data).items()
        for budget in BUDGETS
    ]
    print_rows(rows)
    print_limits(rows)
    environment = current_environment()
    print(f"\nprofile {arguments.hardware}; {environment.details['hardware']['cpu']['model']}, "
          f"Python {platform.python_version()}")  # fmt: skip
    if arguments.json:
        document = {"environment": environment.to_dict(), "profile": arguments.hardware, "rows": rows}
        arguments.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
