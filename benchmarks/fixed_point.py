"""The solver of moe-cache: its distance to the exhaustive optimum, and its time at 48 layers x 128 experts x 64 quanta.

python benchmarks/fixed_point.py [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from autotune.hardware import current_environment
from autotune.strategies.fixed_point import iterate, refine
from evaluators.moe_cache.latency import latency_like
from evaluators.moe_cache.layer_tables import Outer
from evaluators.moe_cache.plan import CachePlan, Costs
from evaluators.moe_cache.solver import CacheSolver, Memory
from evaluators.moe_cache.timeline import simulate
from evaluators.moe_cache.trace import DECODE, RoutingTrace

EXPERT_BYTES = 1_000_000
THETAS = (1.0, 0.6, 0.3)
LAYERS, EXPERTS = 3, 6  # of what is searched exhaustively


def made_trace(layers: int, experts: int, top_k: int, tokens: int, seed: int) -> RoutingTrace:
    """Decode tokens; layers differ in the skew of their popularity, and three in ten tokens repeat the one before."""
    rng = np.random.default_rng(seed)
    picks = np.empty((tokens, layers, top_k), dtype=np.int16)
    for layer in range(layers):
        weights = (np.arange(experts) + 1.0) ** -(0.2 + 1.2 * layer / max(1, layers - 1))
        ranks = rng.permutation(experts)
        for token in range(tokens):
            if token and rng.random() < 0.3:
                picks[token, layer] = picks[token - 1, layer]
            else:
                picks[token, layer] = ranks[rng.choice(experts, top_k, replace=False, p=weights / weights.sum())]
    turn, phase = np.zeros(tokens, dtype=np.int32), np.full(tokens, DECODE, dtype=np.int8)
    return RoutingTrace(model="made", n_experts=experts, top_k=top_k, experts=picks, turn=turn, phase=phase)


def made_costs(layers: int, transfer_ms: float) -> Costs:
    return Costs(
        expert_bytes=np.full(layers, EXPERT_BYTES),
        link_bytes=np.array([1_000.0, EXPERT_BYTES]),
        link_ms=np.array([transfer_ms / 1000, transfer_ms]),
        expert_ms=np.array([0.0, 0.1, 0.2]),
        dense_ms=np.array([0.0, 0.2, 0.4]),
    )


def against_exhaustive(seed: int, transfer_ms: float, depth: int) -> dict[str, Any]:
    """Three layers of six experts: every choice of slots and of thetas of a grid that the memory holds."""
    trace, costs = made_trace(LAYERS, EXPERTS, 2, 60, seed), made_costs(LAYERS, transfer_ms)
    memory = Memory((8 + 2 * (1 + depth)) * EXPERT_BYTES, 2 * EXPERT_BYTES)
    solver = CacheSolver(trace, costs, memory, thetas=THETAS, policies=["lru"], max_prefetch_depth=depth)
    run = refine(solver, iterate(solver, Outer("lru", depth).name))
    plans = every_plan(memory.for_caches(depth), depth)
    latency = latency_like(trace, costs, plans[0])
    best = min(latency(plan) for plan in plans)
    return {
        "prefetch_depth": depth,
        "transfer_ms": transfer_ms,
        "seed": seed,
        "configurations": len(plans),
        "optimum_ms": best,
        "iterate_gap": run.best_iterate.loss / best - 1,
        "refined_gap": run.best.loss / best - 1,
        "iterations": len(run.iterates),
        "converged": run.converged,
    }


def every_plan(cache_bytes: int, depth: int) -> list[CachePlan]:
    """All plans of whole slots that fit, LRU."""
    shares = [(0, 1.0)] + [
        (math.ceil(n * theta * EXPERT_BYTES), theta) for n in range(1, EXPERTS + 1) for theta in THETAS
    ]
    return [
        CachePlan(tuple(b for b, _ in chosen), tuple(t for _, t in chosen), "lru", prefetch_depth=depth)
        for chosen in itertools.product(shares, repeat=LAYERS)
        if sum(b for b, _ in chosen) <= cache_bytes
    ]


def large(depth: int, repeats: int) -> dict[str, Any]:
    """48 layers x 128 experts x 64 quanta, 21 splits; every repeat starts with nothing computed."""
    seconds = []
    for _ in range(repeats):
        trace, costs = made_trace(48, 128, 6, 128, seed=0), made_costs(48, 1.0)
        memory = Memory(48 * 128 * EXPERT_BYTES // 4, 6 * EXPERT_BYTES)
        begin = time.perf_counter()
        solver = CacheSolver(trace, costs, memory, policies=["lru"])
        name = Outer("lru", depth).name
        uniform = float(simulate(trace, solver.uniform(Outer("lru", depth)), costs).latency_ms.mean())
        run = refine(solver, iterate(solver, name))
        seconds.append(time.perf_counter() - begin)
    return {
        "prefetch_depth": depth,
        "seconds": statistics.median(seconds),
        "uniform_ms": uniform,
        "found_ms": run.best.loss,
        "iterations": len(run.iterates),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    cases = [
        against_exhaustive(seed, transfer_ms, depth)
        for depth in (0, 1, 2)
        for transfer_ms in (0.15, 0.4, 1.0)
        for seed in range(arguments.seeds)
    ]
    print("prefetch  cases  configurations  iterate: mean, worst gap   refined: mean, worst gap   within 0.5 %")
    for depth in (0, 1, 2):
        own = [case for case in cases if case["prefetch_depth"] == depth]
        first, last = [c["iterate_gap"] for c in own], [c["refined_gap"] for c in own]
        print(
            f"{depth:>8}  {len(own):>5}  {own[0]['configurations']:>14}  {np.mean(first):>14.3%} {max(first):>10.3%}  "
            f"{np.mean(last):>16.3%} {max(last):>10.3%}  {sum(g <= 0.005 for g in last):>5} of {len(own)}"
        )
    timings = [large(depth, repeats=3) for depth in (0, 1, 2, 3)]
    print("\n48 layers x 128 experts x 64 quanta: prefetch, seconds (median of 3), uniform ms, found ms")
    for t in timings:
        print(f"{t['prefetch_depth']:>8}  {t['seconds']:>8.2f}  {t['uniform_ms']:>10.2f}  {t['found_ms']:>8.2f}")
    environment = current_environment()
    print(f"\n{environment.details['hardware']['cpu']['model']}, Python {platform.python_version()}")
    if arguments.json:
        document = {"environment": environment.to_dict(), "exhaustive": cases, "large": timings}
        arguments.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
