"""The latency of every token under a cache plan: caches, one link and one compute stream, event by event.

The model, per turn (clocks start at 0, caches stay warm), pass and layer. A pass is the whole prefill of a turn, or one
decode token of every sequence in the batch (one sequence, unless the trace says otherwise); all times are ms.

1. The layer's dense part (attention, router) runs on the compute stream. Then the router's choice is known.
2. Each distinct expert of the batch is looked up once. A hit has its top segment (theta of its bytes) in fast memory and
   needs the rest; a miss needs all. A miss with at most `cpu_threshold_tokens` tokens that no prefetch has begun to bring
   runs on the slow tier's own stream instead, and is not loaded.
3. What is needed and not already on its way is enqueued on the link in look-up order, before any queued prefetch. The link
   serves one transfer at a time and finishes what it began.
4. Prefetches are enqueued for the layer `prefetch_depth` ahead (from layer 0, for all nearer ones too): the rest of an
   expert that is cached at that moment, else all of it. A prefetch that has not begun when the router of its layer is
   known is dropped; if its expert is needed, point 3 demands it.
5. Compute takes what is whole in fast memory, then the tops of hits whose rest is on its way (theta of the expert's
   time), then the segments as they arrive. The layer ends when its last expert is done, on either stream.
   Where the costs say so (`Costs.dense_busy`, `expert_busy`), a dense part, all that is ready at the router's choice, or
   an arrived segment takes longer if the link is at work, or has something queued, when its computation begins.
6. What was loaded and used enters the cache (its top segment, by the policy); prefetched and unused experts are discarded.

Every token is simulated: the gain of splitting an expert lies in the ``max(0, .)`` of what the window hides, so an
expectation taken inside it would always say theta = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from evaluators.moe_cache import kernels
from evaluators.moe_cache.plan import CachePlan, Costs, Floats, Ints
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.predict import lookahead
from evaluators.moe_cache.replay import prepare
from evaluators.moe_cache.trace import DECODE, PREFILL, Batches, RoutingTrace

_MIB = 2.0**20
_GIB = 2.0**30


@dataclass(frozen=True, eq=False)
class TimelineResult:
    """One plan's timeline. ``T`` decode passes (without batching: decode tokens), ``L`` layers; times in ms.

    Attributes:
        latency_ms: ``(T,)`` latency of each decode pass, the sum of the next four and of `overhead_ms`.
        dense_ms, expert_ms: ``(T,)`` computation of the dense parts, and of the experts on the fast tier.
        exposed_ms, cpu_wait_ms: ``(T,)`` time that compute waited for the link, and that it waited for the slow tier alone.
        late_ms: ``(T,)`` of the exposed time, what it waited for experts that had been predicted, whose prefetch had not
            ended or not begun; the rest is for experts that nothing had predicted.
        moved_bytes, wasted_bytes: ``(T,)`` bytes over the link during the pass, and those prefetched for nothing.
        overhead_ms: ``(T,)`` what deciding and handing over took, where the costs know it.
        batch: ``(T,)`` tokens of each decode pass: one of every sequence.
        prefill_ms: latency of each turn's prefill, in turn order.
        layer_hit_rate: ``(L,)`` of the decode look-ups.
        layer_window_ms: ``(L,)`` mean over decode passes from the router of the layer before being known to that of this
            layer: what a prefetch of depth 1 can use. 0 for layer 0.
        layer_backlog_ms: ``(L,)`` mean time that the link is still busy when the layer's router is known.
        layer_exposed_ms: ``(L,)`` mean of the exposed time by layer.
        slots: ``(L,)`` experts that each layer's cache can hold.
        notes: facts that are not metrics; ``predictors`` says where each depth's predictions came from.
        spans: ``(S, 4)`` what was done in the watched pass: kind (`kernels.DENSE` to `kernels.CPU`), layer, begin and end in ms
            since the pass began; empty where none was watched.
    """

    latency_ms: Floats
    dense_ms: Floats
    expert_ms: Floats
    exposed_ms: Floats
    late_ms: Floats
    cpu_wait_ms: Floats
    moved_bytes: Floats
    wasted_bytes: Floats
    overhead_ms: Floats
    batch: Ints
    prefill_ms: Floats
    layer_hit_rate: Floats
    layer_window_ms: Floats
    layer_backlog_ms: Floats
    layer_exposed_ms: Floats
    slots: Ints
    fast_memory_bytes: float
    hit_rate: float
    hit_rate_all: float
    prefetch_precision: float | None
    cpu_expert_share: float
    notes: Mapping[str, Any]
    spans: Floats

    def metrics(self) -> dict[str, float]:
        """The metrics by name, per decode pass unless the name says otherwise; `tokens_per_s` counts every sequence.

        A pass gives each sequence of the batch one token, so its latency is the latency of a token.
        `prefill_ms` (mean over turns) is absent where the trace has no prefill, and `prefetch_precision` (share of the
        prefetches begun for decode tokens whose expert was used) where nothing was prefetched.
        """
        latency = float(self.latency_ms.mean())
        values = {
            "token_latency_ms": latency,
            "token_latency_p50_ms": float(np.percentile(self.latency_ms, 50)),
            "token_latency_p99_ms": float(np.percentile(self.latency_ms, 99)),
            "tokens_per_s": 1000.0 * float(self.batch.mean()) / latency,
            "hit_rate": self.hit_rate,
            "hit_rate_all": self.hit_rate_all,
            "dense_ms": float(self.dense_ms.mean()),
            "expert_compute_ms": float(self.expert_ms.mean()),
            "exposed_transfer_ms": float(self.exposed_ms.mean()),
            "exposed_late_ms": float(self.late_ms.mean()),
            "cpu_wait_ms": float(self.cpu_wait_ms.mean()),
            "overhead_ms": float(self.overhead_ms.mean()),
            "moved_mib": float(self.moved_bytes.mean()) / _MIB,
            "wasted_mib": float(self.wasted_bytes.mean()) / _MIB,
            "fast_memory_gib": self.fast_memory_bytes / _GIB,
            "cpu_expert_share": self.cpu_expert_share,
        }
        if self.prefill_ms.size:
            values["prefill_ms"] = float(self.prefill_ms.mean())
        if self.prefetch_precision is not None:
            values["prefetch_precision"] = self.prefetch_precision
        return values


def simulate(
    trace: RoutingTrace,
    plan: CachePlan,
    costs: Costs,
    *,
    popularity: npt.ArrayLike | None = None,
    watched: int | None = None,
) -> TimelineResult:
    """Simulate every token of a trace under a plan.

    Args:
        trace: the routing.
        plan: budgets, splits, policy, prefetching and its predictor.
        costs: the tier pair.
        popularity: ``(L, N)`` counts that place the `static` policy's experts; None takes the trace's own, in hindsight.
        watched: the decode pass whose spans are kept.

    Raises:
        UsageError: when trace, plan and costs do not fit each other.
    """
    check(trace, plan, costs)
    batches = trace.passes()
    policy = Policy.parse(plan.policy)
    slots = plan.slots(costs.expert_bytes, trace.n_experts)
    state, rows = prepare(batches, policy, slots, popularity, plan.lcp)
    ahead = lookahead(trace, plan.prefetch_depth, plan.predictor) if plan.prefetch_depth else None
    ahead_batches = batches if ahead is None else ahead.batches
    record = kernels.empty_record(batches.n_passes, trace.n_layers)
    tiers = tiers_of(plan, costs, slots)
    spans = kernels.no_spans() if watched is None else _room(batches, ahead_batches, watched)
    kernels.timeline(
        policy.code,
        rows,
        batches.pass_phase,
        batches.pass_turn,
        ahead_batches.offsets,
        ahead_batches.experts,
        tiers,
        state,
        record,
        spans,
    )
    staging = (1 + plan.prefetch_depth) * trace.widest_decode * int(costs.expert_bytes.max())
    cached = float((slots * np.asarray(plan.theta) * costs.expert_bytes).sum())
    notes = {} if ahead is None else {"predictors": ahead.predictors}
    return _result(record, batches, costs, slots, cached + staging, notes, spans)


def simulate_many(
    trace: RoutingTrace,
    plans: Sequence[CachePlan],
    costs: Costs,
    *,
    popularity: npt.ArrayLike | None = None,
    threads: int = 1,
) -> list[TimelineResult]:
    """`simulate` for several plans, in their order. The compiled loop holds no lock, so threads run side by side."""
    one = partial(simulate, trace, costs=costs, popularity=popularity)
    # What the plans share is computed once, before threads could compute it twice.
    trace.passes()
    for depth, predictor in sorted({(plan.prefetch_depth, plan.predictor) for plan in plans if plan.prefetch_depth}):
        lookahead(trace, depth, predictor)
    if threads <= 1:
        return [one(plan) for plan in plans]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, plans))


def check(trace: RoutingTrace, plan: CachePlan, costs: Costs) -> None:
    """Refuse a trace, plan and costs that do not fit each other, in one sentence."""
    if trace.decode_tokens == 0:
        raise UsageError(f"trace {trace.model!r} has no decode token to time; record some generation after the prompt")
    for name, length in (("budget_bytes", len(plan.budget_bytes)), ("costs.expert_bytes", len(costs.expert_bytes))):
        if length != trace.n_layers:
            raise UsageError(f"{name} has {length} layers and the trace has {trace.n_layers}; give one value per layer")
    largest = int(trace.passes().pass_tokens.max())
    if largest > costs.max_tokens:
        raise UsageError(
            f"the cost tables end at {costs.max_tokens} tokens and the trace has a pass of {largest}; "
            "extend them (by_tokens) or leave that turn out"
        )
    if plan.cpu_threshold_tokens > 0 and costs.cpu_expert_ms is None:
        raise UsageError(
            f"cpu_threshold_tokens={plan.cpu_threshold_tokens}, but the costs have no cpu_expert_ms; "
            "measure the slow tier's compute or set it to 0"
        )


def tiers_of(plan: CachePlan, costs: Costs, slots: Ints) -> kernels.Tiers:
    """Plan and machine as the compiled loops take them; `slots` from `CachePlan.slots`."""
    theta = np.asarray(plan.theta, dtype=np.float64)
    whole = costs.expert_bytes.astype(np.float64)
    rest = (1.0 - theta) * whole
    return kernels.Tiers(
        capacity=slots,
        theta=theta,
        whole_ms=costs.transfer_ms(whole),
        rest_ms=np.where(rest > 0, costs.transfer_ms(rest), 0.0),
        whole_bytes=whole,
        rest_bytes=rest,
        dense_ms=costs.dense_ms,
        expert_ms=costs.expert_ms,
        cpu_ms=costs.expert_ms if costs.cpu_expert_ms is None else costs.cpu_expert_ms,
        cpu_threshold=plan.cpu_threshold_tokens,
        depth=plan.prefetch_depth,
        layer_ms=costs.layer_ms,
        load_ms=costs.load_ms,
        rest_load_ms=costs.rest_load_ms,
        part_ms=costs.part_ms,
        dense_busy=costs.dense_busy,
        expert_busy=costs.expert_busy,
    )


def _result(
    record: kernels.Record,
    batches: Batches,
    costs: Costs,
    slots: Ints,
    fast_memory_bytes: float,
    notes: Mapping[str, Any],
    spans: kernels.Spans,
) -> TimelineResult:
    decode = batches.pass_phase == DECODE
    n_decode = np.count_nonzero(decode)
    lookups, hits = record.lookups[DECODE], record.hits[DECODE]
    started = int(record.started[DECODE])
    return TimelineResult(
        latency_ms=record.latency[decode],
        dense_ms=record.dense[decode],
        expert_ms=record.computed[decode],
        late_ms=record.late[decode],
        exposed_ms=record.idle[decode],
        cpu_wait_ms=record.cpu_wait[decode],
        moved_bytes=record.moved[decode],
        wasted_bytes=record.wasted[decode],
        overhead_ms=record.overhead[decode],
        batch=batches.pass_tokens[decode].astype(np.int64),
        prefill_ms=record.latency[batches.pass_phase == PREFILL],
        layer_hit_rate=hits / lookups,
        layer_window_ms=record.window[DECODE] / n_decode,
        layer_backlog_ms=record.backlog[DECODE] / n_decode,
        layer_exposed_ms=record.layer_idle[DECODE] / n_decode,
        slots=slots,
        fast_memory_bytes=fast_memory_bytes,
        hit_rate=float(hits.sum() / lookups.sum()),
        hit_rate_all=float(record.hits.sum() / record.lookups.sum()),
        prefetch_precision=int(record.used[DECODE]) / started if started else None,
        cpu_expert_share=float(record.cpu_runs[DECODE].sum() / lookups.sum()),
        notes=notes,
        spans=_since_begin(spans),
    )


def _room(batches: Batches, ahead: Batches, watched: int) -> kernels.Spans:
    """For all spans that a decode pass can have."""
    of = int(np.flatnonzero(batches.pass_phase == DECODE)[watched])
    layers = batches.n_layers
    looked_up, predicted = (int(one.offsets[(of + 1) * layers] - one.offsets[of * layers]) for one in (batches, ahead))
    # Of a layer the dense part and what is ready; of a look-up a transfer, waiting for it and its computation.
    return kernels.room_for_spans(of, 2 * layers + 3 * looked_up + predicted)


def _since_begin(spans: kernels.Spans) -> Floats:
    """The written rows, on the clock of the pass."""
    rows = spans.rows[: int(spans.written[0])].copy()
    rows[:, 2:] -= spans.began[0]
    return rows
