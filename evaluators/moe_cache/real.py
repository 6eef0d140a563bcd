"""Evaluator `real`: a configuration's token latency from experts that are really moved and computed.

A layer stack of the model's shape with random weights replays the trace (`runtime.stack`); on `ram<-disk` the experts lie in
a file that is read with direct I/O, on `gpu<-host` in pinned host memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.hardware import TierPair
from autotune.measurement import Failure, FailureKind, Measurement, Metric
from evaluators.moe_cache.correction import CLOCKS, Clocks, means
from evaluators.moe_cache.machine import LayerWork
from evaluators.moe_cache.plan import CachePlan, Ints
from evaluators.moe_cache.profiled import MIB, plan_of
from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace

if TYPE_CHECKING:  # torch is imported when something runs
    from evaluators.moe_cache.runtime.session import Session
    from evaluators.moe_cache.runtime.stack import StackRun

GIB = 2**30


class Real:
    """Runs a trace's layer stack under a configuration, on this machine.

    Experts and fast memory are prepared at the first call and kept for the next ones; `close`, or the end of the process,
    frees them.

    Args:
        trace: the routing.
        work: shapes of a layer's parts.
        bits: of an expert's weights, 16 or 32.
        expert_bytes: ``(L,)`` of one expert of each layer, as the search's budgets count them.
        pair: the tiers.
        depth: parallel reads of one transfer.
        scratch: folder on the disk of `ram<-disk`; the cache folder if None.
        link_mib_s: that the link is held to; None lets it be as fast as it is.
    """

    def __init__(
        self,
        trace: RoutingTrace,
        work: LayerWork,
        bits: float,
        expert_bytes: Ints,
        pair: TierPair,
        depth: int = 1,
        scratch: Path | None = None,
        link_mib_s: float | None = None,
    ) -> None:
        self.trace = trace
        self.work = work
        self.bits = bits
        self.expert_bytes = expert_bytes
        self.pair = pair
        self.depth = depth
        self.scratch = scratch
        self.link_mib_s = link_mib_s
        self._session: Session | None = None

    def __call__(self, config: Mapping[str, Any]) -> Measurement:
        return measurement(self.run(plan_of(config)), self.trace, self.work.expert.inter)

    def run(self, plan: CachePlan) -> StackRun:
        """One run of the whole trace.

        Raises:
            UsageError: for what this machine cannot hold or run.
            Failure: `infra` where the slow tier broke in the middle. Whatever breaks, all is prepared anew for the next run.
        """
        from evaluators.moe_cache.runtime.session import Session  # noqa: PLC0415

        try:
            if self._session is None:
                self._session = Session.open(self)
            return self._session.run(plan)
        except OSError as error:
            self.close()
            raise Failure(FailureKind.INFRA, f"the slow tier broke: {error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the experts' file or memory, and the fast memory."""
        if self._session is not None:
            self._session.close()
            self._session = None


def measurement(run: StackRun, trace: RoutingTrace, inter: int) -> Measurement:
    """The metrics of a run, under the names of the profiled evaluator's: per decode pass, `tokens_per_s` over all sequences.

    Its note `clocks` is for corrections.

    Args:
        inter: rows of an expert.
    """
    passes = trace.passes()
    decode = passes.pass_phase == DECODE
    n_decode = np.count_nonzero(decode)
    counters, latency = run.counters, run.latency_ms[decode]
    lookups = counters.lookups[DECODE]
    mean = float(latency.mean())
    parts = {
        "dense_ms": float(run.dense_ms[decode].sum(axis=1).mean()),
        "exposed_transfer_ms": float(counters.idle_s[DECODE].sum() * 1e3 / n_decode),
        "cpu_wait_ms": float(counters.cpu_wait_s[DECODE].sum() * 1e3 / n_decode),
    }
    timed = counters.segments
    compute_ms = float(timed[timed[:, 0] == DECODE, 4].sum() * 1e3 / n_decode)
    if np.isfinite(compute_ms):
        parts["expert_compute_ms"] = compute_ms
        parts["overhead_ms"] = max(0.0, mean - sum(parts.values()))
    values = {
        "token_latency_ms": mean,
        "token_latency_p50_ms": float(np.percentile(latency, 50)),
        "token_latency_p99_ms": float(np.percentile(latency, 99)),
        "tokens_per_s": 1e3 * float(passes.pass_tokens[decode].mean()) / mean,
        "hit_rate": float(counters.hits[DECODE].sum() / lookups.sum()),
        "hit_rate_all": float(counters.hits.sum() / counters.lookups.sum()),
        **parts,
        "exposed_late_ms": float(counters.late_s[DECODE] * 1e3 / n_decode),
        "moved_mib": float(run.moved_bytes[decode].mean() / MIB),
        "wasted_mib": float(run.wasted_bytes[decode].mean() / MIB),
        "fast_memory_gib": run.fast_bytes / GIB,
        "cpu_expert_share": float(counters.cpu_runs[DECODE].sum() / lookups.sum()),
    }
    prefill = run.latency_ms[passes.pass_phase == PREFILL]
    if prefill.size:
        values["prefill_ms"] = float(prefill.mean())
    if counters.started[DECODE]:
        values["prefetch_precision"] = float(counters.used[DECODE] / counters.started[DECODE])
    layers = {
        "layer_hit_rate": [round(float(v), 4) for v in counters.hits[DECODE] / lookups],
        "layer_exposed_ms": [round(float(v), 4) for v in counters.idle_s[DECODE] * 1e3 / n_decode],
        "slots": [int(v) for v in run.slots],
    }
    of_trace = {"experts_per_layer": trace.n_experts, "sequences": trace.sequences}
    told = {CLOCKS: clocks_of(run, trace, inter).to_dict()}
    return Measurement({name: Metric(value) for name, value in values.items()}, {**layers, **of_trace, **told})


def clocks_of(run: StackRun, trace: RoutingTrace, inter: int) -> Clocks:
    """What the run's clocks say of transfers, experts and dense parts, all phases together.

    Args:
        inter: rows of an expert.
    """
    passes = trace.passes()
    link = np.array(run.link_log, dtype=np.float64).reshape(-1, 2)
    timed = run.counters.segments
    keys = np.column_stack((timed[:, 1], timed[:, 2] / inter, timed[:, 3]))
    handled = np.column_stack((np.full(passes.n_passes, passes.n_layers), run.loads, run.rests))
    dense = np.column_stack((np.repeat(passes.pass_tokens, passes.n_layers), run.dense_busy.ravel()))
    return Clocks(
        link=means(link[:, :1], link[:, 1] * 1e3),
        expert=means(keys, timed[:, 4] * 1e3),
        dense=means(dense, run.dense_ms.ravel()),
        handling=means(handled, run.beyond_ms),
    )
