"""Evaluator `profiled`: a configuration's token latency from a routing trace and a hardware profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autotune.measurement import Measurement, Metric
from evaluators.moe_cache.plan import CachePlan, Costs
from evaluators.moe_cache.policies import LCP_OMEGA, LCP_RHO
from evaluators.moe_cache.predict import Predictor
from evaluators.moe_cache.spans import NOTE, noted
from evaluators.moe_cache.timeline import TimelineResult, simulate
from evaluators.moe_cache.trace import DECODE, RoutingTrace

MIB = 2**20

METRICS = (
    "token_latency_ms",
    "token_latency_p50_ms",
    "token_latency_p99_ms",
    "tokens_per_s",
    "hit_rate",
    "hit_rate_all",
    "dense_ms",
    "expert_compute_ms",
    "exposed_transfer_ms",
    "exposed_late_ms",
    "cpu_wait_ms",
    "overhead_ms",
    "moved_mib",
    "wasted_mib",
    "fast_memory_gib",
    "cpu_expert_share",
    "prefill_ms",
    "prefetch_precision",
)


def plan_of(config: Mapping[str, Any]) -> CachePlan:
    """The cache plan that a configuration of the domain `moe-cache` means. Budgets are MiB there."""
    return CachePlan(
        budget_bytes=tuple(round(mib * MIB) for mib in config["budget_mib"]),
        theta=tuple(config["theta"]),
        policy=config["policy"],
        lcp_rho=config.get("lcp_rho", LCP_RHO),
        lcp_omega=config.get("lcp_omega", LCP_OMEGA),
        prefetch_depth=config["prefetch_depth"],
        cpu_threshold_tokens=config.get("cpu_threshold_tokens", 0),
        predictor=config.get("predictor", Predictor.RECORDED),
    )


class Profiled:
    """Replays a trace through the configured caches on a timeline of one link and one compute stream.

    Deterministic: the same trace, costs and configuration always give the same metrics, so they carry no half-widths.
    """

    def __init__(self, trace: RoutingTrace, costs: Costs) -> None:
        self.trace = trace
        self.costs = costs

    def __call__(self, config: Mapping[str, Any]) -> Measurement:
        # The same pass in every trial, so that pictures of two of them show the same token.
        passes = int(np.count_nonzero(self.trace.passes().pass_phase == DECODE))
        watched = passes // 2
        result = simulate(self.trace, plan_of(config), self.costs, watched=watched)
        layers = {
            "layer_hit_rate": [round(float(v), 4) for v in result.layer_hit_rate],
            "layer_exposed_ms": [round(float(v), 4) for v in result.layer_exposed_ms],
            "slots": [int(v) for v in result.slots],
            "experts_per_layer": self.trace.n_experts,
            "sequences": self.trace.sequences,
            NOTE: noted(result.spans, watched, passes, float(result.latency_ms[watched])),
        }
        metrics = {name: Metric(value) for name, value in result.metrics().items()}
        return Measurement(metrics, {**layers, **result.notes})

    def predict(self, config: Mapping[str, Any]) -> dict[str, float]:
        """The metrics alone, for a search that measures real runs."""
        return self.timeline(config).metrics()

    def timeline(self, config: Mapping[str, Any]) -> TimelineResult:
        """The whole timeline behind the metrics."""
        return simulate(self.trace, plan_of(config), self.costs)
