"""Mean token latency of thousands of plans that differ in budgets and splits alone: what the solver descends on.

Under a stack policy, and as long as nothing runs on the slow tier's processor, what is cached does not depend on the clock.
So a look-up hits from some capacity on (`replay.least_capacities`), and the timeline needs no caches. The latencies are
those of `timeline.simulate`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evaluators.moe_cache import kernels
from evaluators.moe_cache.plan import CachePlan, Costs
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.predict import lookahead
from evaluators.moe_cache.replay import least_capacities, make_rows
from evaluators.moe_cache.timeline import check, simulate, tiers_of
from evaluators.moe_cache.trace import DECODE, RoutingTrace

Latency = Callable[[CachePlan], float]


def latency_like(trace: RoutingTrace, costs: Costs, plan: CachePlan) -> Latency:
    """Mean ms of a decode pass, for plans that have this one's policy, prefetching and CPU threshold.

    Fast where what is cached does not depend on the clock; elsewhere every plan is simulated with its caches.

    Raises:
        UsageError: when trace, plan and costs do not fit each other.
    """
    check(trace, plan, costs)
    policy = Policy.parse(plan.policy)
    if not policy.is_stack or plan.cpu_threshold_tokens > 0:
        return lambda other: float(simulate(trace, other, costs).latency_ms.mean())
    batches = trace.passes()
    ahead = lookahead(trace, plan.prefetch_depth, plan.predictor).batches if plan.prefetch_depth else batches
    needs = least_capacities(batches, ahead, policy, lcp=plan.lcp)
    rows = make_rows(batches, Policy.STATIC, plan.lcp)  # no ranks are needed any more
    decode = batches.pass_phase == DECODE
    out = np.empty(batches.n_passes)

    def latency(other: CachePlan) -> float:
        slots = other.slots(costs.expert_bytes, trace.n_experts)
        kernels.latencies(
            rows,
            needs.need,
            batches.pass_turn,
            ahead.offsets,
            ahead.experts,
            needs.ahead,
            tiers_of(other, costs, slots),
            out,
        )
        return float(out[decode].mean())

    return latency
