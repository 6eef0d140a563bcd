"""The fixed-point solver against exhaustive search, and the invariants of what it proposes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autotune import UsageError
from autotune.strategies.fixed_point import FixedPointMap, iterate, refine
from evaluators.moe_cache.plan import CachePlan, Costs
from evaluators.moe_cache.profiled import plan_of
from evaluators.moe_cache.solver import CacheSolver, Memory, Outer
from evaluators.moe_cache.timeline import simulate
from evaluators.moe_cache.trace import DECODE, RoutingTrace

EXPERT_BYTES = 1_000_000


def skewed_trace(layers: int, experts: int, top_k: int, tokens: int, seed: int) -> RoutingTrace:
    """Decode tokens whose layers differ in skew, with some repetition from token to token."""
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
    return RoutingTrace(
        model="made",
        n_experts=experts,
        top_k=top_k,
        experts=picks,
        turn=np.zeros(tokens, dtype=np.int32),
        phase=np.full(tokens, DECODE, dtype=np.int8),
    )


def costs(layers: int, *, transfer_ms: float, expert_ms: float = 0.1, dense_ms: float = 0.2) -> Costs:
    return Costs(
        expert_bytes=np.full(layers, EXPERT_BYTES),
        link_bytes=np.array([1_000.0, EXPERT_BYTES]),
        link_ms=np.array([transfer_ms / 1000, transfer_ms]),
        expert_ms=np.array([0.0, expert_ms, 2 * expert_ms]),
        dense_ms=np.array([0.0, dense_ms, 2 * dense_ms]),
    )


def test_the_solver_is_a_fixed_point_map() -> None:
    trace = skewed_trace(3, 8, 2, 40, seed=0)
    solver = CacheSolver(trace, costs(3, transfer_ms=0.5), Memory(12 * EXPERT_BYTES, 2 * EXPERT_BYTES))
    assert isinstance(solver, FixedPointMap)
    assert len(solver.starts()) == 6 * 4


@pytest.mark.parametrize("prefetch_depth", [0, 1])
@pytest.mark.parametrize("transfer_ms", [0.15, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_within_half_a_percent_of_exhaustive_search(seed: int, transfer_ms: float, prefetch_depth: int) -> None:
    """Four layers of eight experts: every split of the budget and every choice of thetas, each on the timeline."""
    thetas = (1.0, 0.6, 0.3)
    trace = skewed_trace(4, 8, 2, 60, seed)
    machine = costs(4, transfer_ms=transfer_ms)
    memory = Memory((12 + 2 * (1 + prefetch_depth)) * EXPERT_BYTES, 2 * EXPERT_BYTES)
    solver = CacheSolver(
        trace, machine, memory, thetas=thetas, quanta=4, policies=["lru"], max_prefetch_depth=prefetch_depth
    )
    found = refine(solver, iterate(solver, Outer("lru", prefetch_depth).name)).best.loss

    quantum = 2 * EXPERT_BYTES
    best = min(
        float(simulate(trace, plan, machine).latency_ms.mean())
        for shares in itertools.product(range(5), repeat=4)
        if sum(shares) == 6
        for theta in itertools.product(thetas, repeat=4)
        for plan in [CachePlan(tuple(q * quantum for q in shares), theta, "lru", prefetch_depth=prefetch_depth)]
    )
    assert best * (1 - 1e-9) <= found <= best * 1.005


def test_what_it_proposes_fits_the_memory_and_predicts_its_own_latency() -> None:
    trace = skewed_trace(4, 16, 2, 50, seed=3)
    machine = costs(4, transfer_ms=0.4)
    memory = Memory(20 * EXPERT_BYTES, 2 * EXPERT_BYTES)
    solver = CacheSolver(trace, machine, memory)
    for start in solver.starts():
        run = iterate(solver, start)
        plan = plan_of(run.best.config)
        staging = memory.staging_bytes * (1 + plan.prefetch_depth)
        assert sum(plan.budget_bytes) + staging <= memory.total_bytes
        result = simulate(trace, plan, machine)
        assert result.fast_memory_bytes <= memory.total_bytes
        assert run.best.loss == pytest.approx(float(result.latency_ms.mean()))


def test_layers_that_repeat_get_less_than_layers_that_roam() -> None:
    """Layer 0 always uses the same two experts, layer 1 walks through all: what is left belongs to layer 1."""
    tokens = 60
    picks = np.zeros((tokens, 2, 2), dtype=np.int16)
    picks[:, 0] = [0, 1]
    picks[:, 1, 0] = np.arange(tokens) % 8
    picks[:, 1, 1] = (np.arange(tokens) + 1) % 8
    trace = RoutingTrace(
        model="made",
        n_experts=8,
        top_k=2,
        experts=picks,
        turn=np.zeros(tokens, dtype=np.int32),
        phase=np.full(tokens, DECODE, dtype=np.int8),
    )
    solver = CacheSolver(
        trace,
        costs(2, transfer_ms=1.0),
        Memory(12 * EXPERT_BYTES, 2 * EXPERT_BYTES),
        thetas=(1.0,),
        quanta=8,
        policies=["lru"],
        max_prefetch_depth=0,
    )
    plan = solver.solve(Outer("lru", 0), np.zeros(2 * 2))[0]
    assert plan.budget_bytes == (2 * EXPERT_BYTES, 8 * EXPERT_BYTES)


def test_whole_experts_win_where_splitting_cannot_pay() -> None:
    """Everything fits, so nothing is gained by caching parts; ties go to whole experts."""
    trace = skewed_trace(3, 8, 2, 40, seed=5)
    solver = CacheSolver(
        trace, costs(3, transfer_ms=1.0), Memory(40 * EXPERT_BYTES, 2 * EXPERT_BYTES), policies=["lru"]
    )
    plan = solver.solve(Outer("lru", 0), np.zeros(2 * 3))[0]
    assert plan.theta == (1.0, 1.0, 1.0)


def test_memory_below_the_staging_buffers_is_refused() -> None:
    trace = skewed_trace(2, 8, 2, 20, seed=0)
    with pytest.raises(UsageError, match="staging buffers"):
        CacheSolver(trace, costs(2, transfer_ms=1.0), Memory(EXPERT_BYTES, 2 * EXPERT_BYTES))
