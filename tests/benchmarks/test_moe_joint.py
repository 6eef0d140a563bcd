"""The adversary and the ablation of moe-cache: what their numbers mean."""

from __future__ import annotations

import pytest

from autotune.strategies.fixed_point import solve
from benchmarks.fixed_point import EXPERT_BYTES, made_costs, made_trace
from benchmarks.moe_adversary import attack
from benchmarks.moe_cases import all_resident, belady_with_perfect_prefetch, case, uniform_lru
from benchmarks.moe_joint import best_so_far, closed
from benchmarks.moe_mechanisms import OFF, solved
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.profiled import plan_of
from evaluators.moe_cache.solver import CacheSolver, Memory
from evaluators.moe_cache.timeline import simulate


def small() -> CacheSolver:
    return CacheSolver(made_trace(3, 8, 2, 40, seed=2), made_costs(3, 0.5), Memory(14 * EXPERT_BYTES, 2 * EXPERT_BYTES))


def test_the_adversary_keeps_to_the_memory_and_to_its_evaluations_and_forgets_nothing() -> None:
    solver = small()
    answers = [plan_of(run.best.config) for run in solve(solver)]
    found = attack(solver, answers, 4000, seed=0)
    assert found.evaluations <= 4000
    assert sum(found.plan.budget_bytes) <= solver.memory.for_caches(found.plan.prefetch_depth)
    assert found.latency_ms == pytest.approx(float(simulate(solver.trace, found.plan, solver.costs).latency_ms.mean()))
    least = min(float(simulate(solver.trace, plan, solver.costs).latency_ms.mean()) for plan in answers)
    assert found.latency_ms <= least + 1e-12


def test_from_a_bad_answer_it_finds_a_good_one() -> None:
    """So that finding nothing beside a good answer says something."""
    solver = small()
    bad = CachePlan((0, 0, 10 * EXPERT_BYTES), (0.3, 0.3, 0.3), "fifo", prefetch_depth=1)
    best = solve(solver)[0].best.loss
    before = float(simulate(solver.trace, bad, solver.costs).latency_ms.mean())
    assert attack(solver, [bad], 6000, seed=1).latency_ms < min(before, 1.02 * best)


def test_the_shipped_trace_lies_between_its_limits() -> None:
    of = case("tiny-moe", "tiny-moe", 0.25)
    lru, limit, resident = uniform_lru(of), belady_with_perfect_prefetch(of), all_resident(of)
    best = best_so_far(of, "fixed-point", {}, 3, seed=0)
    assert resident < limit < best[-1] < lru
    assert best == sorted(best, reverse=True) and len(best) == 3
    assert closed({"uniform_lru_ms": lru, "belady_ms": limit}, limit) == 1.0
    assert closed({"uniform_lru_ms": lru, "belady_ms": limit}, lru) == 0.0
    without = solved(of, **OFF["prefetching"])
    assert without["prefetch_depth"] == 0 and without["ms"] >= best[-1] * (1 - 1e-9)
