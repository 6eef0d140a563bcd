"""Cells of the map: their machine, their plans, and answers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import UsageError
from evaluators.moe_cache.cells import (
    THETAS,
    build_cell,
    ratio_costs,
    ratios_of,
    synthetic_cell,
    theta_sweep,
    threshold_sweep,
)
from evaluators.moe_cache.plan import fiddler_threshold
from evaluators.moe_cache.synthetic import SyntheticRouting
from evaluators.moe_cache.timeline import simulate
from evaluators.moe_cache.trace import RoutingTrace

from .traces import decode_trace

FLAT = SyntheticRouting(60, 4, 6, 64, prompt_tokens=64, accuracy=1.0)


def test_a_token_takes_one_unit_of_computing_and_the_ratio_of_loading() -> None:
    trace = FLAT.trace().select(phases=["decode"])
    cell = build_cell(trace, 2.5, 1.0, dense_share=0.3)
    # Nothing is cached: a layer is its dense part, the loads, and the last expert alone.
    result = simulate(trace, cell.plan(0.0, prefetch_depth=0), cell.costs)
    expert = 0.7 / 6 / 4
    np.testing.assert_allclose(result.latency_ms, 0.3 + 2.5 + 6 * expert)
    resident = simulate(trace, build_cell(trace, 2.5, 1.5).on_demand(), cell.costs)
    assert resident.latency_ms[-1] == pytest.approx(1.0)
    assert ratios_of(cell.costs, trace.top_k) == (pytest.approx(2.5), pytest.approx(0.3))


@given(
    theta=st.sampled_from(THETAS),
    budget=st.floats(0.25, 1.2),
    depth=st.integers(0, 1),
    sizes=st.lists(st.integers(500, 2000), min_size=4, max_size=4),
)
@settings(max_examples=40)
def test_plans_fit_the_memory_and_leave_little_of_it(theta: float, budget: float, depth: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    picks = np.stack([[rng.permutation(10)[:2] for _ in range(4)] for _ in range(5)]).astype(np.int16)
    plain = decode_trace(picks.tolist(), 10)
    trace = RoutingTrace(
        plain.model, 10, 2, plain.experts, plain.turn, plain.phase, expert_bytes=np.array(sizes, dtype=np.int64)
    )
    cell = build_cell(trace, 2.0, budget)
    plan = cell.plan(theta, prefetch_depth=depth)
    slots = plan.slots(cell.costs.expert_bytes, 10)
    used = float((slots * theta * cell.costs.expert_bytes).sum())
    available = cell.memory.for_caches(depth)
    assert used <= available * (1 + 1e-9)
    assert theta > 0 or slots.sum() == 0
    if theta > 0 and slots.max() < 10:
        # Layers differ in size, so that a slot of each of two may be lost to rounding.
        assert available - used < 2 * theta * max(sizes)


def test_a_whole_budget_needs_no_link_and_every_large_split_is_alike() -> None:
    sweep = theta_sweep(synthetic_cell(FLAT, 3.0, 1.3))
    assert sweep.best_theta == 1.0
    assert sweep.at(1.0) == pytest.approx(1.0, abs=0.02)
    assert sweep.gain_over(0.0) > 0.5


def test_flat_routing_and_most_of_the_memory_is_where_splits_pay() -> None:
    """All tops resident leave nothing to chance: MoEpic's idea, where no locality is to be had."""
    flat = theta_sweep(synthetic_cell(SyntheticRouting(60, 4, 12, 128, 64, accuracy=0.9), 2.89, 0.75))
    assert 0.0 < flat.best_theta < 1.0
    assert flat.interior_gain > 0.05
    local = SyntheticRouting(60, 4, 12, 128, 64, locality=0.8, accuracy=0.9)
    assert theta_sweep(synthetic_cell(local, 2.89, 0.25)).best_theta == 1.0


def test_prefetching_never_saves_more_than_half_of_on_demand() -> None:
    for ratio in (0.5, 1.0, 2.0, 4.0):
        for budget in (0.2, 0.5, 0.8):
            assert theta_sweep(synthetic_cell(FLAT, ratio, budget, dense_share=0.9)).reduction < 0.5


def test_the_numbers_of_a_sweep_agree_with_each_other() -> None:
    sweep = theta_sweep(synthetic_cell(FLAT, 2.0, 0.4))
    best = sweep.at(sweep.best_theta)
    assert best == pytest.approx(min(sweep.latency))
    assert sweep.gain_over(1.0) == pytest.approx(1 - best / sweep.latency[-1])
    assert sweep.reduction >= sweep.whole_reduction
    assert sweep.reduction == pytest.approx(1 - best / sweep.on_demand)


def test_thresholds_at_both_ends() -> None:
    routing = SyntheticRouting(16, 2, 4, 24, sequences=4)
    fast = threshold_sweep(synthetic_cell(routing, 8.0, 0.5, batch=4, cpu_ratio=0.5))
    assert fast.best_threshold == fast.crossover == fast.thresholds[-1]
    assert fast.gain_over_loading > 0.5 and fast.gain_over_computing == 0.0
    slow = threshold_sweep(synthetic_cell(routing, 1.0, 0.5, batch=4, cpu_ratio=1000.0))
    assert (slow.best_threshold, slow.crossover, slow.crossover_loss) == (0, 0, 0.0)


def test_the_crossover_is_where_loading_becomes_cheaper() -> None:
    """Loading and computing take 2 + 0.25 units of an expert's load, the slow tier 0.25 * cpu_ratio per token."""
    trace = SyntheticRouting(16, 2, 4, 24).trace()
    costs = ratio_costs(trace, 2.0, dense_share=0.5, cpu_ratio=1.25)
    # One expert: loading 2 / 8, computing 0.5 / 8, slow tier 0.0625 * 1.25 per token; only one token is asked for.
    assert fiddler_threshold(costs, 1) == 1
    wide = SyntheticRouting(16, 2, 4, 4, prompt_tokens=20).trace()
    assert fiddler_threshold(ratio_costs(wide, 2.0, cpu_ratio=1.25), 20) == 4  # 0.3125 >= 4 * 0.078125


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: build_cell(t, 0.0, 0.5), "loading_ratio=0.0"),
        (lambda t: build_cell(t, 1.0, 0.5, dense_share=1.0), "dense_share=1.0"),
        (lambda t: build_cell(t, 1.0, 0.5, cpu_ratio=-1.0), "cpu_ratio=-1.0"),
        (lambda t: build_cell(t, 1.0, 3.0), "budget_fraction=3.0"),
        (lambda t: build_cell(t, 1.0, 0.01).plan(), "staging buffers"),
        (lambda t: threshold_sweep(build_cell(t, 1.0, 0.5)), "cpu_ratio is None"),
    ],
)
def test_cells_that_cannot_be_are_named(call: object, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(FLAT.trace())  # type: ignore[operator]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
