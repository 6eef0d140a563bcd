"""Latencies without caches against the timeline with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import UsageError
from evaluators.moe_cache.latency import latency_like
from evaluators.moe_cache.plan import CachePlan, Costs
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.predict import Predictor
from evaluators.moe_cache.replay import least_capacities, replay
from evaluators.moe_cache.timeline import simulate
from evaluators.moe_cache.trace import DECODE, RoutingTrace

from .traces import decode_trace, random_traces

U = 1000


def machine(n_layers: int, link_ms: float, cpu: bool) -> Costs:
    table = np.arange(40) * 0.5 + 1.0
    return Costs(
        expert_bytes=np.full(n_layers, U),
        link_bytes=np.array([1.0, U]),
        link_ms=np.array([0.1, link_ms]),
        expert_ms=table,
        dense_ms=table,
        cpu_expert_ms=3 * table if cpu else None,
        layer_ms=0.2,
        load_ms=0.3,
        rest_load_ms=0.6,
        part_ms=0.4,
        dense_busy=1.5,
        expert_busy=2.0,
    )


@st.composite
def plans(draw: st.DrawFn, n_layers: int) -> CachePlan:
    return CachePlan(
        budget_bytes=tuple(draw(st.lists(st.integers(0, 8 * U), min_size=n_layers, max_size=n_layers))),
        theta=tuple(draw(st.lists(st.sampled_from([0.0, 0.3, 0.75, 1.0]), min_size=n_layers, max_size=n_layers))),
        policy=draw(st.sampled_from(list(Policy))),
        prefetch_depth=draw(st.integers(0, 3)),
        cpu_threshold_tokens=draw(st.sampled_from([0, 0, 0, 2])),
        predictor=draw(st.sampled_from(list(Predictor))),
    )


@given(st.data(), random_traces(), st.sampled_from([0.7, 4.0]))
@settings(max_examples=150, deadline=None)
def test_latencies_are_those_of_the_timeline(data: st.DataObject, trace: RoutingTrace, link_ms: float) -> None:
    if trace.decode_tokens == 0:
        return
    costs = machine(trace.n_layers, link_ms, cpu=True)
    first = data.draw(plans(trace.n_layers))
    latency = latency_like(trace, costs, first)
    second = data.draw(plans(trace.n_layers))
    for plan in (first, replace(first, budget_bytes=second.budget_bytes, theta=second.theta)):
        assert latency(plan) == pytest.approx(float(simulate(trace, plan, costs).latency_ms.mean()), rel=1e-12)


@given(random_traces(), st.sampled_from([p for p in Policy if p.is_stack]))
@settings(max_examples=40, deadline=None)
def test_a_look_up_hits_from_its_least_capacity_on(trace: RoutingTrace, policy: Policy) -> None:
    batches = trace.passes()
    need = least_capacities(batches, batches, policy).need
    for capacity in range(trace.n_experts + 1):
        assert ((need <= capacity) == replay(batches, policy, capacity).hits).all()


def test_policies_whose_hits_may_fall_are_refused() -> None:
    batches = decode_trace([[[0, 1]]], 3).passes()
    with pytest.raises(UsageError, match=r"'fifo'.*stack policy"):
        least_capacities(batches, batches, "fifo")


def test_a_trace_without_generated_tokens_is_refused() -> None:
    trace = decode_trace([[[0, 1]]], 3)
    prompt = replace(trace, phase=np.zeros(1, dtype=np.int8))
    assert prompt.phase[0] != DECODE
    with pytest.raises(UsageError, match="no decode token"):
        latency_like(prompt, machine(1, 1.0, cpu=False), CachePlan((U,), (1.0,)))
