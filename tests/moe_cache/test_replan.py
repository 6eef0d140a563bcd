"""A configuration under other routing: what it costs there, what is found, what changes, and when to keep it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from autotune.errors import UsageError
from evaluators.moe_cache.correction import Correction, Line
from evaluators.moe_cache.drift import drift
from evaluators.moe_cache.replan import Replan, replan
from evaluators.moe_cache.timeline import simulate
from evaluators.moe_cache.trace import RoutingTrace
from evaluators.moe_cache.workload import Workload
from search_spaces.moe_cache import DOMAIN, Options
from tests.machine import made_profile

TOKENS = 48


@cache
def workload() -> Workload:
    """48 generated tokens of a turn of the shipped trace, on the machine made for tests."""
    whole = DOMAIN.workload(Options(), made_profile().to_dict())
    return whole.on(whole.trace.select([1], decode=slice(0, TOKENS)))


def routing(turn: int) -> RoutingTrace:
    return DOMAIN.workload(Options(), made_profile().to_dict()).trace.select([turn], decode=slice(0, TOKENS))


def uniform(policy: str, theta: float = 1.0) -> dict[str, Any]:
    one = workload()
    layers = one.trace.n_layers
    share = one.memory.for_caches(0) // layers / 2**20
    return {"budget_mib": [share] * layers, "theta": [theta] * layers, "policy": policy, "prefetch_depth": 0}


def asked(after: RoutingTrace, present: dict[str, Any], **how: Any) -> Replan:
    return replan(workload(), workload().on(after), present, **{"starts": 2, **how})


def test_what_the_configurations_cost_is_what_the_profiled_evaluator_says() -> None:
    found = asked(routing(2), uniform("lru"))
    for config, value, trace in (
        (found.present, found.tuned_ms, workload().trace),
        (found.present, found.present_ms, routing(2)),
        (found.found, found.found_ms, routing(2)),
    ):
        assert workload().on(trace).latency_ms(config).mean() == pytest.approx(value)
    assert found.found_ms < found.present_ms
    assert found.drift.drifted


def test_static_experts_stay_where_the_old_routing_had_put_them() -> None:
    found = asked(routing(2), uniform("static"))
    new = workload().on(routing(2))
    stays = simulate(new.trace, _plan(found), new.costs, popularity=workload().popularity).latency_ms.mean()
    anew = simulate(new.trace, _plan(found), new.costs).latency_ms.mean()
    assert found.present_ms == pytest.approx(stays)
    assert anew < 0.95 * stays  # the shipped tables are routed to other experts than the documents
    if found.found["policy"] == "static":
        assert any(layer.placed_anew for layer in found.layers)


def _plan(found: Replan) -> Any:
    from evaluators.moe_cache.profiled import plan_of

    return plan_of(found.present)


def test_a_configuration_planned_for_the_routing_is_kept() -> None:
    before = asked(routing(2), uniform("lru"))
    tuned = workload().on(routing(2))
    again = replan(tuned, tuned, before.found, starts=2)
    assert again.gain == pytest.approx(0.0, abs=0.005)
    assert again.found_ms <= again.present_ms
    assert not again.drift.drifted
    assert not again.changed


def test_the_threshold_decides_not_the_drift() -> None:
    found = asked(routing(2), uniform("lru"), threshold=0.0001)
    assert found.drift.drifted
    assert found.held_out_gain is not None
    assert 0.0 < found.held_out_gain < found.gain  # what a plan saw flatters it
    assert found.changed
    assert not replace(found, threshold=found.held_out_gain + 1e-6).changed
    assert replace(found, threshold=found.held_out_gain).to_dict()["recommendation"] == "replan"


def test_few_tokens_hold_nothing_out() -> None:
    found = asked(routing(2).select(decode=slice(0, 12)), uniform("lru"), starts=1)
    assert found.held_out_gain is None
    assert found.changed == (found.gain >= found.threshold)


def test_changes_tell_slots_as_the_plan_holds_them() -> None:
    found = asked(routing(0), uniform("lru", theta=0.5), starts=1)
    size = workload().expert_bytes / 2**20
    for layer in found.layers:
        for budget, theta, slots in (
            (layer.budget_mib_before, layer.theta_before, layer.slots_before),
            (layer.budget_mib_after, layer.theta_after, layer.slots_after),
        ):
            fitting = 0 if theta == 0.0 else int(budget / (theta * size[layer.layer]) + 1e-6)
            assert slots == min(fitting, workload().trace.n_experts)
    assert {name: pair for name, pair in found.settings.items() if pair[0] == pair[1]} == {}
    assert sum(layer.budget_mib_after for layer in found.layers) <= workload().memory.for_caches(
        found.found["prefetch_depth"]
    ) / 2**20 * (1 + 1e-9)


def test_what_cannot_be_planned_for_is_refused() -> None:
    for how, words in (({"threshold": 1.0}, "threshold is 1.0"), ({"starts": 0}, "starts is 0")):
        with pytest.raises(UsageError, match=words):
            asked(routing(2), uniform("lru"), **how)
    with pytest.raises(UsageError, match="has no decode token"):
        workload().on(routing(2).select(phases=["prefill"]))
    fewer = routing(2)
    with pytest.raises(UsageError, match=r"7 layers .* but that of .* 8 layers"):
        workload().on(
            replace(
                fewer, experts=fewer.experts[:, 1:], weights=None, predicted=None, expert_bytes=None, dense_bytes=None
            )
        )
    halved = replace(fewer, expert_bytes=np.full(8, 1000))
    with pytest.raises(UsageError, match="have 1000 bytes at most"):
        workload().on(halved)


def test_batches_are_planned_for_as_they_are_served() -> None:
    options = Options(batch=3, budget_fraction=0.6)
    whole = DOMAIN.workload(options, made_profile().to_dict())
    before, after = (whole.on(routing(turn)) for turn in (1, 2))
    present = {**uniform("lru"), "budget_mib": [before.memory.for_caches(0) // 8 / 2**20] * 8}
    found = replan(before, after, present, starts=1)
    assert len(after.latency_ms(present)) == TOKENS / 3
    assert found.held_out_gain is not None
    assert found.drift.tokens == (TOKENS, TOKENS)  # drift is told from sequences, whose tokens follow each other
    assert found.found_ms == pytest.approx(after.latency_ms(found.found).mean())
    with pytest.raises(UsageError, match="is batched; drift is told from traces as they were recorded"):
        drift(before.trace, after.trace)


def test_a_stored_correction_is_used() -> None:
    plain = workload()
    correction = Correction(link=Line(scale=2.0), runs=5).to_dict()
    stored = {**made_profile().to_dict(), "correction": {"correction": correction, "made_at": "2026-01-01"}}
    slower = DOMAIN.workload(Options(), stored).on(plain.trace)
    assert slower.costs.link_ms == pytest.approx(2.0 * plain.costs.link_ms)
    assert slower.latency_ms(uniform("lru")).mean() > plain.latency_ms(uniform("lru")).mean()
