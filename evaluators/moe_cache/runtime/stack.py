"""A stack of layers of a model's shape with random weights, driven by a recorded trace: what one configuration really takes.

The dense part of every layer is computed as the hardware profile times it, on cold weights; the experts are those of the
trace, token by token, moved and computed by `OffloadedExperts`. What the activations are does not matter for the time.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autotune.hardware.compute import Work, work_of
from autotune.hardware.threads import leaving_a_core
from evaluators.moe_cache.machine import LayerWork
from evaluators.moe_cache.plan import CachePlan, Floats
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.predict import lookahead
from evaluators.moe_cache.replay import prepare
from evaluators.moe_cache.runtime.caches import Caches
from evaluators.moe_cache.runtime.experts import Batch, Counters, OffloadedExperts
from evaluators.moe_cache.runtime.tiers import FastMemory, SlowTier
from evaluators.moe_cache.trace import Batches, RoutingTrace

# Two threads hand over to each other many times a token; the interpreter's usual 5 ms would be waited for each time.
_SWITCH_S = 1e-4


@dataclass(frozen=True, eq=False)
class StackRun:
    """What a run measured. ``P`` passes; times in ms.

    Attributes:
        latency_ms: ``(P,)`` wall time of every pass.
        dense_ms: ``(P, L)`` of it in the dense parts.
        dense_busy: ``(P, L)`` whether the link was at work when they began.
        beyond_ms: ``(P,)`` of it that no clock saw: neither dense parts, nor experts (on CUDA: with them), nor waiting.
        loads, rests: ``(P,)`` experts, or rests of experts, that were brought and used, and how many of them were rests.
        moved_bytes, wasted_bytes: ``(P,)``.
        counters: see `Counters`.
        slots: ``(L,)`` experts that each layer's cache holds.
        fast_bytes: fast memory in use.
        link_log: bytes and seconds of every transfer.
    """

    latency_ms: Floats
    dense_ms: Floats
    dense_busy: npt.NDArray[np.bool_]
    beyond_ms: Floats
    loads: Floats
    rests: Floats
    moved_bytes: Floats
    wasted_bytes: Floats
    counters: Counters
    link_log: list[tuple[int, float]]
    slots: npt.NDArray[np.int64]
    fast_bytes: int


class LayerStack:
    """Everything of a run that does not depend on the configuration: weights, the trace's batches, fast memory.

    Args:
        trace: the routing.
        work: shapes of a layer's parts.
        tier: where the experts lie.
        memory: fast memory for the largest plan that will be run.
        link_bytes_s: as of `OffloadedExperts`.
    """

    def __init__(
        self,
        trace: RoutingTrace,
        work: LayerWork,
        tier: SlowTier,
        memory: FastMemory,
        link_bytes_s: float | None = None,
    ) -> None:
        self._trace = trace
        self._tier = tier
        self._memory = memory
        self._link_bytes_s = link_bytes_s
        self._device = tier.device
        dtype = tier.layout.dtype
        self._dense: list[Work] = [work_of(work.dense, tier.device)]
        if work.shared is not None:
            self._dense.append(work_of(work.shared, tier.device))
        self._dense_dtype = getattr(torch, work.dense.dtype)
        self._passes = trace.passes()
        self._batches = _batches(trace, self._passes, tier.device, dtype)
        largest = int(self._passes.pass_tokens.max())
        generator = torch.Generator().manual_seed(0)
        self._inputs = torch.randn(largest, work.dense.hidden, generator=generator).to(tier.device, self._dense_dtype)

    def run(self, plan: CachePlan, *, popularity: npt.ArrayLike | None = None) -> StackRun:
        """Run the whole trace under a plan, from the caches that the policy begins with.

        Raises:
            OSError, RuntimeError: when a tier breaks in the middle.
        """
        passes = self._passes
        policy = Policy.parse(plan.policy)
        layout = self._tier.layout
        sizes = np.full(passes.n_layers, layout.nbytes, dtype=np.int64)
        slots = plan.slots(sizes, passes.n_experts)
        state, rows = prepare(passes, policy, slots, popularity, plan.lcp)
        caches = Caches(policy, rows.decay, slots.tolist(), state)
        ahead = (
            _ahead(lookahead(self._trace, plan.prefetch_depth, plan.predictor).batches, plan.prefetch_depth)
            if plan.prefetch_depth
            else {}
        )
        experts = OffloadedExperts(
            self._tier, self._memory, plan, caches, self._trace.widest_decode, self._link_bytes_s
        )
        latency = np.empty(passes.n_passes)
        dense = np.empty((passes.n_passes, passes.n_layers))
        busy = np.empty((passes.n_passes, passes.n_layers), dtype=np.bool_)
        counted = np.empty((passes.n_passes, len(experts.counters.totals())))
        next_use = rows.next_use
        try:
            with torch.inference_mode(), undisturbed():
                for p in range(passes.n_passes):
                    phase, n_tokens = int(passes.pass_phase[p]), int(passes.pass_tokens[p])
                    if p > 0 and passes.pass_turn[p] != passes.pass_turn[p - 1]:
                        experts.link.drain()
                    before = experts.counters.totals()
                    began = time.perf_counter()
                    experts.begin_pass(phase, n_tokens)
                    self._pass(p, n_tokens, experts, ahead, next_use, dense[p], busy[p])
                    self._synchronize()
                    latency[p] = time.perf_counter() - began
                    counted[p] = experts.counters.totals() - before
        finally:
            experts.close()
        moved, wasted, loads, rests, clocked = counted.T
        return StackRun(
            latency_ms=latency * 1e3,
            dense_ms=dense * 1e3,
            dense_busy=busy,
            beyond_ms=(latency - dense.sum(axis=1) - clocked) * 1e3,
            loads=loads,
            rests=rests,
            moved_bytes=moved,
            wasted_bytes=wasted,
            counters=experts.counters,
            link_log=experts.link.log,
            slots=slots,
            fast_bytes=experts.nbytes,
        )

    def _pass(
        self,
        p: int,
        n_tokens: int,
        experts: OffloadedExperts,
        ahead: dict[tuple[int, int], list[tuple[int, int]]],
        next_use: npt.NDArray[np.int64],
        dense_s: Floats,
        dense_busy: npt.NDArray[np.bool_],
    ) -> None:
        """One forward pass; writes of every layer the seconds in the dense part, and whether the link was at work before."""
        x = self._inputs[:n_tokens]
        layout = self._tier.layout
        for layer in range(self._passes.n_layers):
            dense_busy[layer] = experts.link.at_work
            began = time.perf_counter()
            for part in self._dense:
                x = part(x)
            self._synchronize()  # a model needs the router's choice on the host before experts can be looked up
            dense_s[layer] = time.perf_counter() - began
            batch, first = self._batches[p][layer]
            if next_use.size:
                batch.next_use = next_use[first : first + len(batch.experts)]
            hidden = x.to(layout.dtype)
            out = experts.layer(layer, hidden, batch, ahead.get((p, layer), ()))
            # Back to order one, so that a deep stack neither overflows nor fades.
            x = torch.nn.functional.rms_norm(x + out.to(x.dtype), (x.shape[1],))

    def _synchronize(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def _batches(trace: RoutingTrace, passes: Batches, device: str, dtype: torch.dtype) -> list[list[tuple[Batch, int]]]:
    """For every pass and layer its batch, and the number of its first look-up."""
    found: list[list[tuple[Batch, int]]] = []
    n_layers = passes.n_layers
    weight = torch.full((1, 1), 1.0 / trace.top_k, dtype=dtype, device=device)
    for p in range(passes.n_passes):
        tokens_of_pass = np.flatnonzero(trace.token_pass == p)
        layers = []
        for layer in range(n_layers):
            first, stop = (int(v) for v in passes.offsets[p * n_layers + layer : p * n_layers + layer + 2])
            experts = passes.experts[first:stop]
            chosen: list[Tensor | None] = [None] * len(experts)
            if len(tokens_of_pass) > 1:
                picks = trace.experts[tokens_of_pass, layer]
                chosen = [torch.from_numpy(np.flatnonzero((picks == e).any(axis=1))).to(device) for e in experts]
            weights = [weight] * len(experts)
            layers.append((Batch(experts, passes.tokens[first:stop], chosen, weights), first))
        found.append(layers)
    return found


def _ahead(predicted: Batches, depth: int) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """What each pass and layer queues: the layer `depth` ahead, and from layer 0 all nearer ones too."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    n_layers = predicted.n_layers
    for p in range(predicted.n_passes):
        for layer in range(n_layers):
            nearest = layer + (1 if layer == 0 else depth)
            wanted = []
            for target in range(nearest, min(layer + depth, n_layers - 1) + 1):
                first, stop = predicted.offsets[p * n_layers + target : p * n_layers + target + 2]
                wanted += [(target, int(e)) for e in predicted.experts[first:stop]]
            found[p, layer] = wanted
    return found


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection in the middle, quick hand-overs between the two threads, and a core for each of them."""
    before, collected = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(_SWITCH_S)
    gc.disable()
    try:
        with leaving_a_core():
            yield
    finally:
        sys.setswitchinterval(before)
        if collected:
            gc.enable()
