"""The timeline against charts drawn by hand, and what must hold for every trace and plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import UsageError
from evaluators.moe_cache.plan import CachePlan, Costs
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.predict import with_accuracy
from evaluators.moe_cache.replay import replay
from evaluators.moe_cache.timeline import TimelineResult, simulate, simulate_many
from evaluators.moe_cache.trace import DECODE, RoutingTrace

from .traces import decode_trace, one_layer, random_traces

U = 1000  # bytes of an expert


def costs(n_layers: int, *, link: float = 10.0, cpu: float | None = 7.0, expert: float = 2.0) -> Costs:
    """Dense 1 ms, an expert 2 ms, the link `link` ms per expert and in proportion for less; the same for any batch."""
    table = np.array([0.0] + [1.0] * 20)
    return Costs(
        expert_bytes=np.full(n_layers, U),
        link_bytes=np.array([U / 1000, U]),
        link_ms=np.array([link / 1000, link]),
        expert_ms=expert * table,
        dense_ms=table,
        cpu_expert_ms=None if cpu is None else cpu * table,
    )


def plan(n_layers: int, slots: float, theta: float = 1.0, **changes: Any) -> CachePlan:
    """`slots` whole experts' worth of bytes in every layer."""
    return CachePlan(budget_bytes=(int(slots * U),) * n_layers, theta=(theta,) * n_layers, **changes)


def predicting(trace: RoutingTrace, *depths: list[list[list[int]]]) -> RoutingTrace:
    """The trace with recorded predictions ``depths[d - 1][token][layer][slot]``."""
    return replace(trace, predicted=np.array(depths, dtype=np.int16))


def test_whole_experts() -> None:
    # token 1  dense 0-1 | link 0: 1-11, 1: 11-21 | compute 0: 11-13, 1: 21-23          23 ms, waits 10 + 8
    # token 2  dense 0-1 | both resident: 1-3, 3-5                                       5 ms, waits 0
    # token 3  dense 0-1 | 0 resident: 1-3 | link 2: 1-11 | compute 2: 11-13            13 ms, waits 8
    trace = decode_trace([[[0, 1]], [[0, 1]], [[0, 2]]], 3)
    result = simulate(trace, plan(1, 2), costs(1))
    assert result.latency_ms.tolist() == [23, 5, 13]
    assert result.exposed_ms.tolist() == [18, 0, 8]
    assert result.moved_bytes.tolist() == [2 * U, 0, U]
    metrics = result.metrics()
    assert metrics["hit_rate"] == 0.5
    assert metrics["token_latency_ms"] == pytest.approx(41 / 3)
    assert metrics["tokens_per_s"] == pytest.approx(3000 / 41)
    assert metrics["token_latency_p50_ms"] == 13
    # two slots, and staging for the two experts of one layer
    assert metrics["fast_memory_gib"] == 4 * U / 2**30
    assert "prefill_ms" not in metrics and "prefetch_precision" not in metrics


def test_split_experts_compute_their_tops_while_the_rest_streams() -> None:
    # theta 1/2: both tops fit into the bytes of one expert.
    # token 1  as before                                                                23 ms
    # token 2  dense 0-1 | link rest of 0: 1-6, of 1: 6-11 | tops 1-2, 2-3 | rests 6-7, 11-12    12 ms, waits 3 + 4
    trace = decode_trace([[[0, 1]], [[0, 1]]], 3)
    result = simulate(trace, plan(1, 1, theta=0.5), costs(1))
    assert result.slots.tolist() == [2]
    assert result.latency_ms.tolist() == [23, 12]
    assert result.exposed_ms.tolist() == [18, 7]
    assert result.moved_bytes.tolist() == [2 * U, U]


def test_prefetch_hides_part_of_a_transfer() -> None:
    # layer 0  dense 0-1 | link 0: 1-11, then the prefetch for layer 1: 11-21 | compute 11-13
    # layer 1  dense 13-14 | its expert arrives at 21: 21-23                            23 ms, waits 10 + 7
    # Without prefetching layer 1 demands at 14: 14-24, compute 24-26.
    trace = predicting(decode_trace([[[0], [1]]], 3), [[[-1], [1]]])
    result = simulate(trace, plan(2, 0, prefetch_depth=1), costs(2))
    assert (result.latency_ms.tolist(), result.exposed_ms.tolist()) == ([23], [17])
    assert result.late_ms.tolist() == [7]  # layer 0 could not be predicted
    assert (result.dense_ms.tolist(), result.expert_ms.tolist()) == ([2], [4])
    assert result.moved_bytes.tolist() == [2 * U] and result.wasted_bytes.tolist() == [0]
    assert result.prefetch_precision == 1.0
    assert result.notes["predictors"] == ("recorded",)
    assert result.layer_window_ms.tolist() == [0, 13] and result.layer_backlog_ms.tolist() == [0, 7]
    assert simulate(trace, plan(2, 0), costs(2)).latency_ms.tolist() == [26]


def test_prefetch_that_ends_in_time_hides_all() -> None:
    # 20 ms per expert: layer 0 dense 0-1, link 1-11, compute 11-31 | prefetch 11-21 | layer 1 dense 31-32, compute 32-52
    trace = predicting(decode_trace([[[0], [1]]], 3), [[[-1], [1]]])
    result = simulate(trace, plan(2, 0, prefetch_depth=1), costs(2, expert=20.0))
    assert (result.latency_ms.tolist(), result.exposed_ms.tolist()) == ([52], [10])
    assert result.layer_exposed_ms.tolist() == [10, 0]


def test_computation_is_slower_while_the_link_is_at_work() -> None:
    # layer 0  dense 0-1 | link 0: 1-11, then the prefetch for layer 1: 11-21 | compute beside it: 11-17
    # layer 1  dense beside it: 17-19 | its expert arrives at 21, and the link rests: 21-23
    trace = predicting(decode_trace([[[0], [1]]], 3), [[[-1], [1]]])
    result = simulate(trace, plan(2, 0, prefetch_depth=1), replace(costs(2), dense_busy=2.0, expert_busy=3.0))
    assert (result.latency_ms.tolist(), result.exposed_ms.tolist()) == ([23], [12])
    assert (result.dense_ms.tolist(), result.expert_ms.tolist()) == ([3], [8])

    # token 1  dense 0-1 | link 0: 1-11, 1: 11-21 | compute 0 beside it: 11-17, 1: 21-23
    # token 2  dense 23-24 | 0 is resident | link 2: 24-34 | compute 0 beside it: 24-30, 2: 34-36
    trace = decode_trace([[[0, 1]], [[0, 2]]], 3)
    result = simulate(trace, plan(1, 2), replace(costs(1), dense_busy=2.0, expert_busy=3.0))
    assert (result.latency_ms.tolist(), result.exposed_ms.tolist()) == ([23, 13], [14, 4])
    assert (result.dense_ms.tolist(), result.expert_ms.tolist()) == ([1, 1], [8, 8])


def test_wrong_prefetch_holds_up_demand() -> None:
    # layer 0  as above | link brings 2 for nothing: 11-21 | layer 1 known at 14, demand of 1: 21-31, compute 31-33
    trace = predicting(decode_trace([[[0], [1]]], 3), [[[-1], [2]]])
    result = simulate(trace, plan(2, 0, prefetch_depth=1), costs(2))
    assert result.latency_ms.tolist() == [33]
    assert result.late_ms.tolist() == [0] and result.exposed_ms.tolist() == [27]
    assert result.moved_bytes.tolist() == [3 * U] and result.wasted_bytes.tolist() == [U]
    assert result.prefetch_precision == 0.0


def test_prefetch_not_begun_in_time_is_dropped() -> None:
    # layer 0  dense 0-1 | link 0: 1-11, 1: 11-21 | compute 11-13, 21-23
    # layer 1  dense 23-24 | prefetch of 2: 21-31 is on its way, that of 3 is dropped | link 0: 31-41, 1: 41-51 | 51-53
    trace = predicting(decode_trace([[[0, 1], [0, 1]]], 4), [[[-1, -1], [2, 3]]])
    result = simulate(trace, plan(2, 0, prefetch_depth=1), costs(2))
    assert result.latency_ms.tolist() == [53]
    assert result.moved_bytes.tolist() == [5 * U] and result.wasted_bytes.tolist() == [U]


def test_an_expert_whose_prefetch_was_dropped_was_foreseen_all_the_same() -> None:
    # layer 0  dense 0-1 | link 0: 1-11, 1: 11-21 | compute 11-13, 21-23
    # layer 1  dense 23-24 | prefetch of 2: 21-31, that of 3 is dropped | 3 demanded: 31-41 | 2 at 31-33, 3 at 41-43
    trace = predicting(decode_trace([[[0, 1], [2, 3]]], 4), [[[-1, -1], [2, 3]]])
    result = simulate(trace, plan(2, 0, prefetch_depth=1), costs(2))
    assert result.latency_ms.tolist() == [43]
    assert result.exposed_ms.tolist() == [18 + 7 + 8] and result.late_ms.tolist() == [7 + 8]


def test_demand_goes_before_a_prefetch_that_could_begin_at_the_same_moment() -> None:
    # 9 ms per expert: layer 0 dense 0-1 | link 0: 1-11, 1: 11-21, prefetch of 2: 21-31 | compute 11-20, 21-30
    # layer 1  dense 30-31 | the link is free at 31, where the prefetch of 3 could begin: dropped | link 31-41, 41-51 | 51-60
    trace = predicting(decode_trace([[[0, 1], [0, 1]]], 4), [[[-1, -1], [2, 3]]])
    result = simulate(trace, plan(2, 0, prefetch_depth=1), costs(2, expert=9.0))
    assert result.latency_ms.tolist() == [60] and result.moved_bytes.tolist() == [5 * U]


def test_depth_two_reaches_over_a_layer() -> None:
    # layer 0  dense 0-1 | link 0: 1-11, for layer 1: 11-21, for layer 2: 21-31 | compute 11-13
    # layer 1  dense 13-14 | compute 21-23    layer 2  dense 23-24 | compute 31-33
    trace = predicting(decode_trace([[[0], [1], [2]]], 3), [[[-1], [1], [0]]], [[[-1], [-1], [2]]])
    result = simulate(trace, plan(3, 0, prefetch_depth=2), costs(3))
    assert (result.latency_ms.tolist(), result.exposed_ms.tolist()) == ([33], [24])
    assert result.prefetch_precision == 1.0
    assert result.metrics()["fast_memory_gib"] == 3 * U / 2**30


def test_only_the_rest_of_a_cached_expert_is_prefetched() -> None:
    # theta 1/2, second token: layer 0 dense 0-1 | rest of 0: 1-6 | top 1-2, rest 6-7 | prefetch of the rest of 1: 6-11
    # layer 1 dense 7-8 | top 8-9, rest 11-12
    trace = predicting(decode_trace([[[0], [1]]] * 2, 3), [[[-1], [1]]] * 2)
    result = simulate(trace, plan(2, 0.5, theta=0.5, prefetch_depth=1), costs(2))
    assert result.latency_ms.tolist() == [23, 12]
    assert result.moved_bytes.tolist() == [2 * U, U]
    # A wholly cached expert needs no prefetch: the second token moves nothing.
    whole = simulate(trace, plan(2, 1, prefetch_depth=1), costs(2))
    assert whole.latency_ms.tolist() == [23, 6] and whole.moved_bytes.tolist() == [2 * U, 0]


def test_missing_experts_run_on_the_slow_tier() -> None:
    # known at 1 | slow tier 0: 1-8, 1: 8-15                                            15 ms, nothing is moved or cached
    trace = decode_trace([[[0, 1]], [[0, 1]]], 3)
    result = simulate(trace, plan(1, 2, cpu_threshold_tokens=1), costs(1))
    assert result.latency_ms.tolist() == [15, 15] and result.cpu_wait_ms.tolist() == [14, 14]
    assert result.exposed_ms.tolist() == [0, 0] and result.moved_bytes.tolist() == [0, 0]
    assert result.metrics()["cpu_expert_share"] == 1.0
    # A prompt gives expert 0 two tokens, above the threshold, so it is fetched (1-11, 11-13) beside the slow tier's 1-8.
    prompt = decode_trace([[[0]], [[0]], [[1]], [[0]]], 3, prefill=3)
    mixed = simulate(prompt, plan(1, 2, cpu_threshold_tokens=1), costs(1))
    assert mixed.prefill_ms.tolist() == [13] and mixed.latency_ms.tolist() == [3]


def test_backlog_of_the_link_reaches_the_next_token_but_not_the_next_turn() -> None:
    # All of layer 0's and 1's experts of token 1 are resident: dense 0-1, 1-3, dense 3-4, 4-6. The wrong prefetch of
    # expert 2 began at 1 and ends at 11. Token 2 begins at 6, knows at 7 that it needs expert 1: link 11-21, then
    # 21-23, layer 1: dense 23-24, compute 24-26: 20 ms. In a turn of its own the link is free at once: 1-11 and 16 ms.
    popularity = [[1, 0, 0], [1, 0, 0]]
    for turns, latency in (([0, 0], 20), ([0, 1], 16)):
        trace = decode_trace([[[0], [0]], [[1], [0]]], 3, turn=turns)
        trace = predicting(trace, [[[-1], [2]], [[-1], [0]]])
        warm = plan(2, 1, policy="static", prefetch_depth=1)
        assert simulate(trace, warm, costs(2), popularity=popularity).latency_ms.tolist() == [6, latency]


def test_lcp_ages_by_the_tokens_of_a_prompt() -> None:
    # Expert 0 six times, then a prompt of four tokens for expert 1, then expert 2 into two slots: the ranks are
    # ln 6 - 5 d and ln 4 - 1 d with d = 0.2, so that 0 leaves and 1 hits. Were the prompt one step, 1 would leave.
    trace = decode_trace([[[e]] for e in [0] * 6 + [1] * 4 + [2, 1]], 3, turn=[0] * 6 + [1] * 6)
    trace = replace(trace, phase=np.array([1] * 6 + [0] * 4 + [1, 1], dtype=np.int8))
    lcp = plan(1, 2, policy="lcp", lcp_rho=float(np.exp(-0.2)), lcp_omega=1.0)
    assert simulate(trace, lcp, costs(1)).hit_rate == 6 / 8


def test_transfer_times_beyond_the_measured_sizes() -> None:
    curve = replace(costs(1), link_bytes=np.array([100.0, 300.0]), link_ms=np.array([2.0, 3.0]))
    assert curve.transfer_ms([10, 100, 200, 300, 600]).tolist() == [2, 2, 2.5, 3, 6]


PLANS = st.builds(
    plan,
    n_layers=st.just(3),
    slots=st.sampled_from([0, 0.5, 1, 2, 3.7, 6]),
    theta=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    policy=st.sampled_from(list(Policy)),
    prefetch_depth=st.integers(0, 3),
    cpu_threshold_tokens=st.sampled_from([0, 1]),
)


def fit(one: CachePlan, trace: RoutingTrace, **changes: Any) -> CachePlan:
    """The plan with as many layers as the trace."""
    length = trace.n_layers
    return replace(one, budget_bytes=one.budget_bytes[:length], theta=one.theta[:length], **changes)


def compute_only(trace: RoutingTrace) -> np.ndarray:
    """Latency of every decode token where all experts are resident: 1 ms per layer, 2 ms per expert."""
    return np.full(trace.decode_tokens, trace.n_layers * (1.0 + 2.0 * trace.top_k))


@given(random_traces(), PLANS, st.sampled_from([None, 0.0, 0.6, 1.0]))
@settings(deadline=None, max_examples=200)
def test_every_millisecond_is_accounted_for(trace: RoutingTrace, one: CachePlan, accuracy: float | None) -> None:
    used = trace if accuracy is None else with_accuracy(trace, accuracy, seed=3)
    result = simulate(used, fit(one, trace), costs(trace.n_layers))
    assert (result.exposed_ms >= 0).all() and (result.cpu_wait_ms >= 0).all()
    parts = result.dense_ms + result.expert_ms + result.exposed_ms + result.cpu_wait_ms
    np.testing.assert_allclose(parts, result.latency_ms)
    np.testing.assert_allclose(result.dense_ms, trace.n_layers)
    assert (result.late_ms >= 0).all() and (result.late_ms <= result.exposed_ms + 1e-9).all()
    if not one.prefetch_depth:
        assert (result.late_ms == 0).all()
    computed = result.latency_ms - result.exposed_ms - result.cpu_wait_ms
    if one.cpu_threshold_tokens == 0:
        np.testing.assert_allclose(computed, compute_only(trace))
    else:
        assert (computed <= compute_only(trace) + 1e-9).all()
    assert (result.wasted_bytes >= -1e-6).all() and (result.wasted_bytes <= result.moved_bytes + 1e-6).all()
    assert result.layer_exposed_ms.sum() == pytest.approx(result.exposed_ms.mean())
    if accuracy == 1.0 and one.prefetch_depth:
        assert result.prefetch_precision in (None, 1.0)
        np.testing.assert_allclose(result.wasted_bytes, 0, atol=1e-6)


def plain_caching(trace: RoutingTrace, one: CachePlan, link: float) -> np.ndarray:
    """Whole-expert caching without the timeline: hits compute while misses arrive one after another."""
    batches = trace.passes()
    hits = replay(batches, one.policy, one.slots(np.full(trace.n_layers, U), trace.n_experts), lcp=one.lcp).hits
    latencies = []
    for p in np.flatnonzero(batches.pass_phase == DECODE):
        total = 0.0
        for layer in range(trace.n_layers):
            row = p * trace.n_layers + layer
            flags = hits[batches.offsets[row] : batches.offsets[row + 1]]
            end = 2.0 * flags.sum()
            for i in range(int((1 - flags).sum())):
                end = max(end, link * (i + 1)) + 2.0
            total += 1.0 + end
        latencies.append(total)
    return np.array(latencies)


@given(random_traces(), PLANS, st.sampled_from([0.7, 3.0, 10.0]))
@settings(deadline=None)
def test_theta_one_without_prefetch_is_plain_caching(trace: RoutingTrace, one: CachePlan, link: float) -> None:
    # A short memory, so that the clock of LCP matters on short traces.
    whole = fit(one, trace, prefetch_depth=0, cpu_threshold_tokens=0, lcp_rho=0.07, lcp_omega=3.7)
    whole = replace(whole, theta=(1.0,) * trace.n_layers)
    result = simulate(trace, whole, costs(trace.n_layers, link=link))
    np.testing.assert_allclose(result.latency_ms, plain_caching(trace, whole, link))
    slots = whole.slots(np.full(trace.n_layers, U), trace.n_experts)
    replayed = replay(trace.passes(), whole.policy, slots, lcp=whole.lcp)
    assert result.hit_rate == pytest.approx(replayed.decode_hit_rate)


@given(random_traces(), PLANS, st.floats(0.1, 20), st.floats(0.1, 20))
@settings(deadline=None)
def test_a_faster_link_is_never_slower_without_prefetch(
    trace: RoutingTrace, one: CachePlan, first: float, second: float
) -> None:
    fixed = fit(one, trace, prefetch_depth=0)
    fast, slow = (simulate(trace, fixed, costs(trace.n_layers, link=x)) for x in sorted((first, second)))
    assert (fast.latency_ms <= slow.latency_ms + 1e-9).all()


@given(random_traces(), st.sampled_from(["lru", "lfu", "fifo", "lifo", "lcp", "belady"]), st.integers(0, 2))
@settings(deadline=None)
def test_what_fits_is_moved_once(trace: RoutingTrace, policy: str, depth: int) -> None:
    everything = plan(trace.n_layers, trace.n_experts, policy=policy, prefetch_depth=depth)
    result = simulate(with_accuracy(trace, 1.0, seed=0), everything, costs(trace.n_layers))
    seen: set[tuple[int, int]] = set()
    decode = 0
    for token in range(trace.n_tokens):
        needed = {(layer, int(e)) for layer in range(trace.n_layers) for e in trace.experts[token, layer] if e >= 0}
        if trace.phase[token] == DECODE:
            if needed <= seen:
                assert result.exposed_ms[decode] == 0 and result.moved_bytes[decode] == 0
            decode += 1
        seen |= needed


@given(random_traces())
@settings(deadline=None, max_examples=20)
def test_preloaded_and_fitting_is_compute_alone(trace: RoutingTrace) -> None:
    result = simulate(trace, plan(trace.n_layers, trace.n_experts, policy="static"), costs(trace.n_layers))
    np.testing.assert_array_equal(result.latency_ms, compute_only(trace))
    assert result.hit_rate_all == 1.0


def test_many_plans_on_threads_equal_one_at_a_time() -> None:
    rng = np.random.default_rng(0)
    picks = np.argsort(rng.random((40, 3, 6)), axis=2)[:, :, :2]
    trace = decode_trace(picks.tolist(), 6)
    plans = [plan(3, s, theta=t, prefetch_depth=d) for s in (1, 2, 3) for t in (0.5, 1.0) for d in (0, 1, 2)]
    together = simulate_many(trace, plans, costs(3), threads=4)
    for one, result in zip(plans, together, strict=True):
        assert result.metrics() == simulate(trace, one, costs(3)).metrics()


def test_bad_input() -> None:
    trace = one_layer([0, 1], 2)
    prompt_only = replace(trace, phase=np.zeros(2, dtype=np.int8))
    long = decode_trace([[[0]]] * 30 + [[[1]]], 2, prefill=30)
    table = np.ones(5)
    calls: list[tuple[Any, str]] = [
        (lambda: simulate(prompt_only, plan(1, 1), costs(1)), "has no decode token"),
        (lambda: simulate(trace, plan(2, 1), costs(1)), "budget_bytes has 2 layers and the trace has 1"),
        (lambda: simulate(trace, plan(1, 1), costs(2)), "costs.expert_bytes has 2 layers"),
        (lambda: simulate(long, plan(1, 1), costs(1)), "cost tables end at 20 tokens and the trace has a pass of 30"),
        (lambda: simulate(trace, plan(1, 1, cpu_threshold_tokens=1), costs(1, cpu=None)), "no cpu_expert_ms"),
        (lambda: plan(1, 1, theta=1.1), "theta of layer 0 is 1.1"),
        (lambda: plan(1, -1), "budget_bytes of layer 0 is -1000"),
        (lambda: plan(1, 1, policy="mru"), "policy 'mru' is unknown"),
        (lambda: plan(1, 1, prefetch_depth=4), "prefetch_depth=4"),
        (lambda: plan(1, 1, cpu_threshold_tokens=-1), "cpu_threshold_tokens=-1"),
        (lambda: plan(1, 1, policy="lcp", lcp_rho=2.0), "lcp_rho=2.0"),
        (lambda: CachePlan((1, 2), (1.0,)), "2 budget_bytes and 1 theta"),
        (lambda: replace(costs(1), expert_bytes=np.array([0])), "expert_bytes"),
        (lambda: replace(costs(1), link_bytes=np.array([2.0, 1.0])), "link_bytes must ascend"),
        (lambda: replace(costs(1), link_ms=np.array([0.0, 1.0])), "link_ms must be positive"),
        (lambda: replace(costs(1), link_ms=np.array([1.0])), "link_bytes has shape (2,) and link_ms (1,)"),
        (lambda: replace(costs(1), dense_ms=table), "different token counts"),
        (lambda: replace(costs(1), expert_ms=-table), "expert_ms must hold times of 0 ms or more"),
        (lambda: replace(costs(1), expert_ms=np.ones((2, 5))), "expert_ms has shape (2, 5)"),
    ]
    for call, message in calls:
        with pytest.raises(UsageError) as caught:
            call()
        assert message in str(caught.value)


def test_result_is_a_plain_mapping_of_numbers() -> None:
    result: TimelineResult = simulate(one_layer([0, 1, 0], 2), plan(1, 1), costs(1))
    assert all(type(value) is float for value in result.metrics().values())
