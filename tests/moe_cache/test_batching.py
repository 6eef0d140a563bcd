"""Batched decode: what a pass then holds, and that replay, timeline and solver count it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import UsageError
from autotune.strategies.fixed_point import iterate, refine
from evaluators.moe_cache.batching import batched, gating_cost, waste_factor
from evaluators.moe_cache.formats import load_trace, save_trace
from evaluators.moe_cache.layer_tables import Outer
from evaluators.moe_cache.plan import CachePlan, Costs
from evaluators.moe_cache.predict import lookahead, with_accuracy
from evaluators.moe_cache.replay import replay, token_counts
from evaluators.moe_cache.solver import CacheSolver, Memory
from evaluators.moe_cache.synthetic import SyntheticRouting
from evaluators.moe_cache.timeline import simulate, simulate_many
from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace

from .traces import decode_trace, random_traces

SIZE = 1000


def costs(layers: int, tokens: int, *, cpu: bool = False) -> Costs:
    """1 ms to move an expert, 0.1 ms and 0.01 ms per token to compute it, 0.2 ms per token on the slow tier."""
    each = np.arange(tokens + 1, dtype=np.float64)
    return Costs(
        expert_bytes=np.full(layers, SIZE),
        link_bytes=np.array([1.0, SIZE]),
        link_ms=np.array([0.001, 1.0]),
        expert_ms=np.where(each > 0, 0.1 + 0.01 * each, 0.0),
        dense_ms=np.where(each > 0, 0.3, 0.0),
        cpu_expert_ms=0.2 * each if cpu else None,
    )


def test_a_pass_holds_the_same_step_of_every_sequence() -> None:
    trace = decode_trace([[[e]] for e in (9, 0, 1, 2, 3, 4)], 10, turn=[0, 0, 0, 0, 1, 1], prefill=1)
    served = batched(trace, 2)
    # Five generated tokens: sequences 0 1 2 (of turn 0) and 3 4 (turn 1); the prompt stays a pass of its own.
    assert served.experts[:, 0, 0].tolist() == [9, 0, 3, 1, 4, 2]
    batches = served.passes()
    assert batches.pass_tokens.tolist() == [1, 2, 2, 1]
    assert batches.pass_phase.tolist() == [PREFILL, DECODE, DECODE, DECODE]
    assert served.turn_names == ("turn 0", "batches of 2")
    assert served.provenance["batch"] == 2


def test_experts_that_sequences_share_are_looked_up_once() -> None:
    trace = decode_trace([[[0, 1]], [[0, 2]], [[1, 2]], [[1, 0]]], 4)
    batches = batched(trace, 4).passes()
    assert batches.offsets.tolist() == [0, 3]
    assert batches.experts.tolist() == [0, 1, 2] and batches.tokens.tolist() == [3, 3, 2]
    assert batched(trace, 4).widest_decode == 3 and trace.widest_decode == 2


@given(random_traces(), st.integers(1, 5))
@settings(max_examples=40)
def test_no_token_is_lost_and_passes_are_as_wide_as_they_can_be(trace: RoutingTrace, batch: int) -> None:
    if batch > trace.decode_tokens:
        with pytest.raises(UsageError, match=f"batch={batch} does not fit"):
            batched(trace, batch)
        return
    predicted = with_accuracy(trace, 0.5, 0, depths=1)
    served = batched(predicted, batch)
    batches = served.passes()
    np.testing.assert_array_equal(token_counts(batches), token_counts(trace.passes()))
    sizes = batches.pass_tokens[batches.pass_phase == DECODE]
    assert sizes.sum() == trace.decode_tokens
    assert (sizes[:-1] == batch).all() and 1 <= sizes[-1] <= batch
    assert np.count_nonzero(batches.pass_phase == PREFILL) == np.count_nonzero(trace.passes().pass_phase == PREFILL)
    # Predictions stay with their tokens, so that each is right or wrong as before.
    assert served.predicted is not None and predicted.predicted is not None
    assert (served.predicted == served.experts).sum() == (predicted.predicted == predicted.experts).sum()
    assert lookahead(served, 1).batches.n_passes == batches.n_passes


def test_one_sequence_is_the_trace_itself() -> None:
    trace = SyntheticRouting(8, 2, 2, 10).trace()
    assert batched(trace, 1) is trace


def test_batches_of_batches_are_refused() -> None:
    trace = batched(SyntheticRouting(8, 2, 2, 10).trace(), 2)
    with pytest.raises(UsageError, match="already has passes of several decode tokens"):
        batched(trace, 2)


def test_a_batched_trace_survives_saving_and_selecting(tmp_path: Path) -> None:
    trace = batched(SyntheticRouting(8, 2, 2, 10, prompt_tokens=3, sequences=2).trace(), 4)
    save_trace(trace, tmp_path / "b.moetrace.npz")
    again = load_trace(tmp_path / "b.moetrace.npz")
    np.testing.assert_array_equal(again.token_pass, trace.token_pass)
    generated = trace.select(phases=["decode"])
    assert generated.passes().pass_tokens.tolist() == [4] * 5


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ([1, 1, 2], "begins at 1"),
        ([0, 2, 3], "steps of 0 to 2"),
        ([0, 0, 1], "puts tokens 0 and 1 in pass 0"),
        ([0, 1], "has shape (2,)"),
    ],
)
def test_passes_that_cannot_be_are_refused(index: list[int], words: str) -> None:
    trace = decode_trace([[[0]], [[1]], [[2]]], 4, prefill=1)
    with pytest.raises(UsageError) as caught:
        replace(trace, pass_index=np.array(index))
    assert words in str(caught.value)


def test_the_timeline_of_one_batched_pass_by_hand() -> None:
    """Two tokens, experts 0 1 and 0 2, nothing cached: 0.3 dense, three loads of 1 ms, the last computed alone."""
    trace = batched(decode_trace([[[0, 1]], [[0, 2]]], 4), 2)
    result = simulate(trace, CachePlan((3 * SIZE,), (1.0,)), costs(1, 2))
    assert result.latency_ms.tolist() == pytest.approx([0.3 + 3 * 1.0 + 0.11])
    assert result.batch.tolist() == [2]
    assert result.metrics()["tokens_per_s"] == pytest.approx(2 * 1000 / 3.41)
    assert result.moved_bytes.tolist() == [3 * SIZE]


def test_the_threshold_looks_at_the_tokens_of_each_expert() -> None:
    """Expert 0 has two tokens and is loaded; 1 and 2 have one and run on the slow tier meanwhile."""
    trace = batched(decode_trace([[[0, 1]], [[0, 2]]], 4), 2)
    plan = CachePlan((3 * SIZE,), (1.0,), cpu_threshold_tokens=1)
    result = simulate(trace, plan, costs(1, 2, cpu=True))
    assert result.latency_ms.tolist() == pytest.approx([0.3 + 1.0 + 0.12])
    assert result.cpu_expert_share == pytest.approx(2 / 3)


def test_the_cache_is_warm_from_one_pass_to_the_next() -> None:
    trace = batched(decode_trace([[[0]], [[1]], [[2]], [[0]]], 4), 2)
    # Sequences 0 1 and 2 0: passes {0, 2} and {1, 0}.
    assert replay(trace.passes(), "lru", 2).hits.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("depth", [0, 1])
def test_the_solver_counts_the_look_ups_of_a_batch(depth: int) -> None:
    trace = batched(SyntheticRouting(16, 2, 3, 25, sequences=4, skew=0.8, accuracy=0.9).trace(), 4)
    machine = costs(3, 4)
    memory = Memory((24 + 8 * (1 + depth)) * SIZE, 8 * SIZE)
    solver = CacheSolver(trace, machine, memory, policies=["lru"], max_prefetch_depth=depth)
    passes = solver.tables.passes(Outer("lru", depth), 0)
    batches = trace.passes()
    width = np.diff(batches.offsets)[0::3]
    assert passes.lookups.tolist() == width.tolist() and width.max() > 2
    assert (passes.mean_ms * width).tolist() == pytest.approx((0.1 * width + 0.01 * 8).tolist())
    assert (passes.hits[:, -1] <= passes.lookups).all()
    plan, _ = solver.solve(Outer("lru", depth), np.zeros(6))
    uniform = simulate(trace, solver.uniform(Outer("lru", depth)), machine)
    assert simulate(trace, plan, machine).latency_ms.mean() <= uniform.latency_ms.mean() * 1.02
    assert sum(plan.budget_bytes) <= memory.for_caches(depth)


def test_what_is_found_for_a_batch_is_no_worse_than_a_hundred_random_plans() -> None:
    trace = batched(SyntheticRouting(8, 2, 3, 20, sequences=3, skew=(0.0, 0.6, 1.2)).trace(), 3)
    machine = costs(3, 3)
    solver = CacheSolver(trace, machine, Memory(18 * SIZE, 6 * SIZE), policies=["lru"], max_prefetch_depth=0)
    found = refine(solver, iterate(solver, Outer("lru", 0).name)).best.loss
    rng = np.random.default_rng(0)
    shares = rng.multinomial(12, [1 / 3] * 3, size=100) * SIZE
    plans = [CachePlan(tuple(share), tuple(rng.choice([1.0, 0.8, 0.6, 0.4], 3))) for share in shares.tolist()]
    assert found <= min(float(r.latency_ms.mean()) for r in simulate_many(trace, plans, machine)) * (1 + 1e-9)


def test_the_solver_tries_the_threshold_where_loading_becomes_cheaper() -> None:
    trace = batched(SyntheticRouting(16, 2, 3, 25, sequences=8, skew=1.2).trace(), 8)
    # Loading and computing s tokens takes 1.1 + 0.01 s, the slow tier 0.2 s: up to five tokens.
    solver = CacheSolver(
        trace, costs(3, 8, cpu=True), Memory(60 * SIZE, 16 * SIZE), policies=["lru"], max_prefetch_depth=0
    )
    assert set(solver.outer) == {"lru prefetch=0", "lru prefetch=0 cpu<=1", "lru prefetch=0 cpu<=5"}
    passes = solver.tables.passes(Outer("lru", 0, 1), 1)
    batches = trace.passes()
    alone = [
        int((batches.tokens[a:b] == 1).sum()) for a, b in zip(batches.offsets[1::3], batches.offsets[2::3], strict=True)
    ]
    np.testing.assert_allclose(passes.slow_share * passes.lookups, alone)
    np.testing.assert_allclose(passes.slow_ms, 0.2 * (np.array(alone) > 0))


def test_waste_factors_of_the_paper() -> None:
    assert waste_factor(512, 0.05, 2) == pytest.approx(12.8)
    assert waste_factor(128, 1.0, 2) == 64.0
    with pytest.raises(UsageError, match=r"capacity_factor=1\.5"):
        waste_factor(8, 1.5, 2)


def test_gating_by_hand() -> None:
    """Four tokens, eight routed rows over experts 0, 1, 2 of 4 with 3, 3 and 2 tokens."""
    trace = batched(decode_trace([[[0, 1]], [[0, 2]], [[1, 2]], [[1, 0]]], 4), 4)
    full = gating_cost(trace)
    assert (full.batch, full.padding, full.dropped) == (4.0, 4 * 4 / 8, 0.0)
    assert (full.dropless_capacity_factor, full.dropless_padding) == (0.75, 4 * 3 / 8)
    assert full.experts_touched == 0.75
    half = gating_cost(trace, 0.5)
    assert (half.padding, half.dropped) == (4 * 2 / 8, 2 / 8)


@given(st.integers(1, 6), st.floats(0.01, 1.0))
@settings(max_examples=20)
def test_without_drops_static_gating_computes_at_least_every_row(batch: int, capacity_factor: float) -> None:
    trace = batched(SyntheticRouting(12, 3, 2, 20, skew=0.7).trace(), batch)
    cost = gating_cost(trace, capacity_factor)
    assert cost.dropless_padding >= 1.0
    assert gating_cost(trace, cost.dropless_capacity_factor).dropped == 0.0
    assert cost.padding >= waste_factor(12, capacity_factor, 3) - 1e-9
    assert 0.0 <= cost.dropped < 1.0


def test_gating_needs_generated_tokens() -> None:
    prompt = SyntheticRouting(8, 2, 2, 4, prompt_tokens=4).trace().select(phases=["prefill"])
    with pytest.raises(UsageError, match="no decode token"):
        gating_cost(prompt)
