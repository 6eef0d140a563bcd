"""The fixed-point solver against exhaustive search, and the invariants of what it proposes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autotune import UsageError
from autotune.strategies.fixed_point import FixedPointMap, iterate
from benchmarks.fixed_point import EXPERT_BYTES, against_exhaustive, made_costs, made_trace
from evaluators.moe_cache.profiled import plan_of
from evaluators.moe_cache.solver import CacheSolver, Memory, Outer
from evaluators.moe_cache.timeline import simulate
from evaluators.moe_cache.trace import DECODE, RoutingTrace


def test_the_solver_is_a_fixed_point_map() -> None:
    trace = made_trace(3, 8, 2, 40, seed=0)
    solver = CacheSolver(trace, made_costs(3, 0.5), Memory(12 * EXPERT_BYTES, 2 * EXPERT_BYTES))
    assert isinstance(solver, FixedPointMap)
    assert len(solver.starts()) == 6 * 4


@pytest.mark.parametrize("prefetch_depth", [0, 1])
@pytest.mark.parametrize("transfer_ms", [0.15, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_within_half_a_percent_of_exhaustive_search(seed: int, transfer_ms: float, prefetch_depth: int) -> None:
    """Four layers of eight experts: every split of the budget and every choice of thetas, each on the timeline."""
    case = against_exhaustive(seed, transfer_ms, prefetch_depth)
    assert -1e-9 <= case["refined_gap"] <= 0.005


def test_what_it_proposes_fits_the_memory_and_predicts_its_own_latency() -> None:
    trace = made_trace(4, 16, 2, 50, seed=3)
    machine = made_costs(4, 0.4)
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


def test_the_better_predictor_is_chosen() -> None:
    """Successors that popularity does not foresee, and popularity that the last successor misleads about."""
    tokens, experts = 120, 40
    source = np.arange(tokens) % experts
    rng = np.random.default_rng(0)
    often = np.where(rng.random(tokens) < 0.6, 5, rng.integers(0, experts, tokens))
    for layer_1, expected in (((source + 3) % experts, "affinity"), (often, "popularity")):
        picks = np.stack([source, layer_1], axis=1)[:, :, None].astype(np.int16)
        trace = RoutingTrace("made", experts, 1, picks, np.zeros(tokens, np.int32), np.full(tokens, DECODE, np.int8))
        recorded = replace(trace, predicted=np.full((1, *picks.shape), experts - 1, dtype=np.int16))  # never right
        solver = CacheSolver(recorded, made_costs(2, 0.4), Memory(4 * EXPERT_BYTES, EXPERT_BYTES), max_prefetch_depth=1)
        starts = solver.starts()
        assert len(starts) == 6 * 2
        config = iterate(solver, next(s for s in starts if "prefetch=1" in s)).best.config
        assert config["predictor"] == expected
        assert "predictor" not in iterate(solver, next(s for s in starts if "prefetch=0" in s)).best.config


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
        made_costs(2, 1.0),
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
    trace = made_trace(3, 8, 2, 40, seed=5)
    solver = CacheSolver(trace, made_costs(3, 1.0), Memory(40 * EXPERT_BYTES, 2 * EXPERT_BYTES), policies=["lru"])
    plan = solver.solve(Outer("lru", 0), np.zeros(2 * 3))[0]
    assert plan.theta == (1.0, 1.0, 1.0)


def test_memory_below_the_staging_buffers_is_refused() -> None:
    trace = made_trace(2, 8, 2, 20, seed=0)
    with pytest.raises(UsageError, match="staging buffers"):
        CacheSolver(trace, made_costs(2, 1.0), Memory(EXPERT_BYTES, 2 * EXPERT_BYTES))
