"""Routed experts computed from limited fast memory: the layer step that a model or a layer stack calls.

The order of events is that of `evaluators.moe_cache.timeline`: look-ups when the router has chosen, demands on the link
before any prefetch, computation of what is there while the rest arrives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.runtime.caches import Buffer, Caches, LookUp, Segments
from evaluators.moe_cache.runtime.layout import ExpertLayout, feed_forward
from evaluators.moe_cache.runtime.link import Link, Transfer
from evaluators.moe_cache.runtime.tiers import FastMemory, SlowTier

Int16 = npt.NDArray[np.int16]
Ahead = Sequence[tuple[int, int]]


@dataclass(eq=False)
class Batch:
    """The distinct experts of one layer and pass.

    Attributes:
        experts: ``(n,)`` in the order of first appearance.
        tokens: ``(n,)`` tokens that go to each.
        rows, weights: for each expert the ``(t,)`` rows of the hidden states and their ``(t, 1)`` router weights; `rows`
            is None where the pass has one token.
        next_use: ``(n,)`` for Belady's rule, else empty.
    """

    experts: Int16
    tokens: npt.NDArray[np.int32]
    rows: Sequence[Tensor | None]
    weights: Sequence[Tensor]
    next_use: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))


@dataclass
class Counters:
    """What a run counted, by phase and layer ``(2, L)`` or by phase ``(2,)``; seconds, bytes and numbers of experts.

    `late_s` is the part of `idle_s` in which experts were waited for that had been predicted. `expert_s` holds ``(phase,
    tokens, rows, whether the link was at work, seconds)`` of every segment; on CUDA the seconds are NaN, as timing each
    would serialise them, and `expert_total_s`, their sum, is 0. `loads` is how many experts, or rests of experts, were
    brought and used, `rests` how many of them were rests.
    """

    lookups: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    cpu_runs: npt.NDArray[np.int64]
    idle_s: npt.NDArray[np.float64]
    late_s: npt.NDArray[np.float64]
    cpu_wait_s: npt.NDArray[np.float64]
    moved: npt.NDArray[np.int64]
    wasted: npt.NDArray[np.int64]
    started: npt.NDArray[np.int64]
    used: npt.NDArray[np.int64]
    expert_s: list[tuple[int, int, int, bool, float]]
    expert_total_s: float = 0.0
    loads: int = 0
    rests: int = 0

    @property
    def segments(self) -> npt.NDArray[np.float64]:
        """``(n, 5)``: `expert_s`."""
        return np.array(self.expert_s, dtype=np.float64).reshape(-1, 5)

    def totals(self) -> npt.NDArray[np.float64]:
        """``(5,)`` of all phases and layers: bytes moved, bytes wasted, loads, rests, seconds that a clock saw."""
        clocked = self.idle_s.sum() + self.cpu_wait_s.sum() + self.expert_total_s
        return np.array([self.moved.sum(), self.wasted.sum(), self.loads, self.rests, clocked], dtype=np.float64)

    @classmethod
    def empty(cls, n_layers: int) -> Counters:
        def numbers(*shape: int) -> npt.NDArray[np.int64]:
            return np.zeros(shape, dtype=np.int64)

        return cls(
            lookups=numbers(2, n_layers),
            hits=numbers(2, n_layers),
            cpu_runs=numbers(2, n_layers),
            idle_s=np.zeros((2, n_layers)),
            late_s=np.zeros(2),
            cpu_wait_s=np.zeros((2, n_layers)),
            moved=numbers(2),
            wasted=numbers(2),
            started=numbers(2),
            used=numbers(2),
            expert_s=[],
        )


@dataclass(eq=False)
class _Load:
    """An expert, or the bottom of one, that compute waits for. Ordered when there is room for it.

    Attributes:
        first: row from which on it is missing.
        slot: cached top that is filled at once, for an expert that stays.
    """

    index: int
    expert: int
    first: int
    keep: bool
    transfer: Transfer | None = None
    slot: Buffer | None = None


def needed(layout: ExpertLayout, plan: CachePlan, top_k: int) -> tuple[tuple[int, ...], int]:
    """Rows of each layer's top segments, and the staging buffers: a token's experts for each layer in flight."""
    return tuple(layout.top_rows(theta) for theta in plan.theta), (1 + plan.prefetch_depth) * top_k


def bytes_needed(layout: ExpertLayout, plan: CachePlan, n_experts: int, top_k: int) -> int:
    """Fast memory that a run of the plan takes."""
    sizes = np.full(len(plan.theta), layout.nbytes, dtype=np.int64)
    return Segments.bytes_of(layout, plan.slots(sizes, n_experts).tolist(), *needed(layout, plan, top_k))


class OffloadedExperts:
    """All routed experts of a model, under a plan.

    Args:
        tier: where they lie.
        memory: fast memory, `bytes_needed` of it.
        plan: budgets, splits, policy and prefetching.
        caches: bookkeeping with what is cached at first; that is loaded here, before anything is timed.
        top_k: experts of a token, which the staging buffers are made for.
        link_bytes_s: bytes per second that the link is held to; None lets it be as fast as it is.
    """

    def __init__(
        self,
        tier: SlowTier,
        memory: FastMemory,
        plan: CachePlan,
        caches: Caches,
        top_k: int,
        link_bytes_s: float | None = None,
    ) -> None:
        self._tier = tier
        self._layout = tier.layout
        self.nbytes = bytes_needed(tier.layout, plan, caches.state.place.shape[1], top_k)
        self._threshold = plan.cpu_threshold_tokens
        self._caches = caches
        top_rows, staging = needed(tier.layout, plan, top_k)
        self._segments = Segments(memory, tier.layout, caches.slots.tolist(), top_rows, staging)
        # Staging buffers that prefetches may still take. They leave a token's experts to the layer at work, to which those that
        # it uses belong from the moment that its router is known: the link goes on with the next layer's while it computes.
        self._prefetchable = plan.prefetch_depth * top_k
        self.phase = 0
        self._foreseen: set[tuple[int, int]] = set()  # layers and experts that prefetches were queued for in this pass
        self.counters = Counters.empty(len(caches.slots))
        self._cuda = tier.device == "cuda"
        self._cpu = ThreadPoolExecutor(1, thread_name_prefix="autotune-cpu-experts") if self._cuda else None
        for layer in range(len(caches.slots)):
            for expert in caches.held(layer):
                slot = self._segments.claim(layer, expert)
                assert slot is not None
                if slot.nbytes.numel():
                    tier.read(layer, expert, 0, [slot.nbytes])
        self.link = Link(tier, self._can_prefetch, self._begin_prefetch, self._take_back, link_bytes_s)

    def close(self) -> None:
        """End the threads."""
        self.link.close()
        if self._cpu is not None:
            self._cpu.shutdown(wait=True)

    # ----------------------------------------------------------------------------------------------------- the link

    def prefetch(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Queue layers and experts that are expected to be needed; what is wholly cached is passed over."""
        segments, caches = self._segments, self._caches
        queue = [(at, e) for at, e in wanted if not (segments.whole(at) and caches.holds(at, e))]
        self._foreseen.update(queue)
        if queue:
            self.link.prefetch(queue)

    def _can_prefetch(self) -> bool:
        """Called by the link, under its lock: whether there is room for a prefetch."""
        return self._prefetchable > 0 and bool(self._segments.staging)

    def _begin_prefetch(self, layer: int, expert: int) -> Transfer | None:
        """Called by the link, under its lock, when a prefetch's turn comes; None where there is nothing to fetch."""
        first = self._segments.top_rows[layer] if self._caches.holds(layer, expert) else 0
        if first == self._layout.inter:
            return None
        self._prefetchable -= 1
        transfer = self._transfer(layer, expert, first, None, self._segments.staging.pop())
        self.counters.started[self.phase] += 1
        self.counters.moved[self.phase] += transfer.nbytes
        return transfer

    def _transfer(self, layer: int, expert: int, first: int, slot: Buffer | None, staging: Buffer | None) -> Transfer:
        """Rows from `first` on: the top into `slot` where one is given, the rest to its own place in a staging buffer."""
        targets, at = [], first
        if slot is not None:
            at = self._segments.top_rows[layer]
            targets.append(slot.nbytes)
        if staging is not None:
            low = at * self._layout.row_bytes
            targets.append(staging.nbytes[low : low + self._layout.segment_bytes(at, self._layout.inter)])
        after = [b.free_after for b in (slot, staging) if b is not None and b.free_after is not None]
        filled = tuple(target for target in targets if target.numel())
        return Transfer(layer, expert, first, filled, staging, tuple(after))

    def _order(self, layer: int, late: Sequence[_Load]) -> None:
        """Put what there is room for on the link, in its order."""
        segments, ordered = self._segments, []
        with self.link.lock:
            for item in late:
                if item.transfer is not None:
                    continue
                if item.first == 0 and item.keep and item.slot is None:
                    item.slot = segments.claim(layer, item.expert)
                staging = None
                if item.slot is None or not segments.whole(layer):
                    # What is left to prefetches stays theirs.
                    if len(segments.staging) <= self._prefetchable:
                        break
                    staging = segments.staging.pop()
                item.transfer = self._transfer(layer, item.expert, item.first, item.slot, staging)
                self.counters.moved[self.phase] += item.transfer.nbytes
                ordered.append(item.transfer)
        if ordered:
            self.link.demand(ordered)

    def _adopt(self, batch: Batch, brought: dict[int, Transfer]) -> dict[int, Transfer]:
        """Of what was prefetched for a layer, what it uses; that is no prefetch any more, and the rest is let go."""
        present = {int(e) for e in batch.experts}
        with self.link.lock:
            used = {expert: transfer for expert, transfer in brought.items() if expert in present}
            self._prefetchable += len(used)
            for expert in brought.keys() - used.keys():
                self.link.discard(brought[expert])
            self.link.lock.notify()
        return used

    def _give_back(self, transfer: Transfer) -> None:
        """A transfer's staging buffer, to whoever needs it next."""
        if transfer.buffer is None:
            return
        with self.link.lock:
            self._mark(transfer.buffer)
            self._segments.staging.append(transfer.buffer)
            self.link.lock.notify()

    def _take_back(self, transfer: Transfer) -> None:
        """Called by the link, under its lock: the buffer of a prefetch that nothing used."""
        self._prefetchable += 1
        self._give_back(transfer)

    def _mark(self, buffer: Buffer) -> None:
        if self._cuda:
            buffer.free_after = torch.cuda.current_stream().record_event()

    # ---------------------------------------------------------------------------------------------------- the layer

    def begin_pass(self, phase: int, n_tokens: int) -> None:
        """Say that a forward pass of so many tokens begins."""
        self.phase = phase
        self._foreseen.clear()
        self._caches.clock += n_tokens

    def layer(self, layer: int, hidden: Tensor, batch: Batch, ahead: Ahead | Callable[[], Ahead] = ()) -> Tensor:
        """The routed experts' output for ``tokens x hidden``.

        Args:
            ahead: layers and experts to prefetch, or what tells them; asked when this layer's own demand is on the link.
        """
        brought = self.link.router_known(layer)
        used = self._adopt(batch, brought)
        on_its_way = np.fromiter((int(e) in used for e in batch.experts), np.bool_, len(batch.experts))
        found = self._caches.look_up(layer, batch.experts, batch.tokens, on_its_way, self._threshold, batch.next_use)
        self._count(layer, found, brought, used)
        present = {int(e) for e in batch.experts}
        for expert in found.evicted:
            if expert not in present:
                self._segments.release(layer, expert)
        arrived, late = self._loads(layer, batch, found, used)
        self._order(layer, late)
        self.prefetch(ahead() if callable(ahead) else ahead)

        out = torch.zeros_like(hidden)
        on_cpu = self._start_on_cpu(layer, hidden, batch, found)
        self._compute_cached(layer, out, hidden, batch, found)
        for load in arrived:
            self._finish(layer, out, hidden, batch, load)
        for number, load in enumerate(late):
            if late[-1].transfer is None:  # there was no room for all
                self._order(layer, late[number:])
            self._wait(layer, load)
            self._finish(layer, out, hidden, batch, load)
        self._add_from_cpu(layer, out, on_cpu)
        return out

    def _count(self, layer: int, found: LookUp, brought: dict[int, Transfer], used: dict[int, Transfer]) -> None:
        counters, phase = self.counters, self.phase
        counters.lookups[phase, layer] += len(found.hit)
        counters.hits[phase, layer] += int(found.hit.sum())
        counters.cpu_runs[phase, layer] += int(found.on_cpu.sum())
        if brought:
            counters.used[phase] += len(used)
            counters.wasted[phase] += sum(t.nbytes for e, t in brought.items() if e not in used)

    def _loads(
        self, layer: int, batch: Batch, found: LookUp, used: dict[int, Transfer]
    ) -> tuple[list[_Load], list[_Load]]:
        """What was fetched ahead, and what has not arrived: the prefetch that may be under way, then demands in order."""
        arrived: list[_Load] = []
        under_way: list[_Load] = []
        demanded: list[_Load] = []
        top = self._segments.top_rows[layer]
        for index, expert in enumerate(map(int, batch.experts)):
            first = top if found.hit[index] else 0
            if found.on_cpu[index] or first == self._layout.inter:
                continue
            load = _Load(index, expert, first, bool(found.kept[index] and not found.hit[index]), used.get(expert))
            if load.transfer is None:
                demanded.append(load)
            else:
                (arrived if load.transfer.arrived else under_way).append(load)
        return arrived, under_way + demanded

    def _compute_cached(self, layer: int, out: Tensor, hidden: Tensor, batch: Batch, found: LookUp) -> None:
        """The cached part of every hit; slots of those that do not stay are free after it."""
        segments = self._segments
        for index in map(int, np.flatnonzero(found.hit)):
            expert = int(batch.experts[index])
            cached = segments.cached[layer][expert]
            if len(cached.rows):
                self._add(out, hidden, batch, index, cached.rows)
            if not found.kept[index]:
                self._mark(cached)
                segments.release(layer, expert)

    def _wait(self, layer: int, load: _Load) -> None:
        assert load.transfer is not None
        if not load.transfer.arrived:
            began = time.perf_counter()
            load.transfer.wait()
            waited = time.perf_counter() - began
            self.counters.idle_s[self.phase, layer] += waited
            if (layer, load.expert) in self._foreseen:
                self.counters.late_s[self.phase] += waited

    def _finish(self, layer: int, out: Tensor, hidden: Tensor, batch: Batch, load: _Load) -> None:
        """Compute what has arrived; keep what stays; give its staging buffer back."""
        transfer = load.transfer
        assert transfer is not None
        transfer.wait()  # it has arrived, or broke
        self.counters.loads += 1
        self.counters.rests += load.first > 0
        at = load.first
        if load.slot is not None:
            at = len(load.slot.rows)
            self._add(out, hidden, batch, load.index, load.slot.rows)
        if transfer.buffer is not None:
            self._add(out, hidden, batch, load.index, transfer.buffer.rows[at:])
            if load.keep and load.slot is None:
                with self.link.lock:
                    transfer.buffer = self._segments.promote(layer, load.expert, transfer.buffer)
        self._give_back(transfer)

    def _add(self, out: Tensor, hidden: Tensor, batch: Batch, index: int, rows: Tensor) -> None:
        """Add what these rows of an expert make of its tokens."""
        if not len(rows):
            return
        busy = self.link.at_work
        began = time.perf_counter()
        chosen = batch.rows[index]
        if chosen is None:
            out += feed_forward(rows, hidden) * batch.weights[index]
        else:
            # Router weights may be wider than the model's numbers.
            out.index_add_(0, chosen, (feed_forward(rows, hidden[chosen]) * batch.weights[index]).to(out.dtype))
        seconds = math.nan if self._cuda else time.perf_counter() - began
        self.counters.expert_total_s += 0.0 if self._cuda else seconds
        self.counters.expert_s.append((self.phase, int(batch.tokens[index]), len(rows), busy, seconds))

    # ------------------------------------------------------------------------------ experts left in the slow tier

    def _start_on_cpu(self, layer: int, hidden: Tensor, batch: Batch, found: LookUp) -> Future[Tensor] | None:
        """Begin to compute the experts that are not worth moving where they lie; None where there are none."""
        if self._cpu is None or not found.on_cpu.any():
            return None
        inputs = hidden.to("cpu")
        chosen = [(int(i), int(batch.experts[i])) for i in np.flatnonzero(found.on_cpu)]
        rows = [None if r is None else r.to("cpu") for r in batch.rows]
        weights = [w.to("cpu") for w in batch.weights]

        def compute() -> Tensor:
            part = torch.zeros_like(inputs)
            with torch.inference_mode():
                for index, expert in chosen:
                    r, matrix = rows[index], self._tier.host_rows(layer, expert)
                    if r is None:
                        part += feed_forward(matrix, inputs) * weights[index]
                    else:
                        part.index_add_(0, r, (feed_forward(matrix, inputs[r]) * weights[index]).to(part.dtype))
            return part

        return self._cpu.submit(compute)

    def _add_from_cpu(self, layer: int, out: Tensor, pending: Future[Tensor] | None) -> None:
        if pending is None:
            return
        if self._cuda:
            torch.cuda.current_stream().synchronize()  # so that only the wait for the slow tier is counted as one
        began = time.perf_counter()
        part = pending.result()
        self.counters.cpu_wait_s[self.phase, layer] += time.perf_counter() - began
        out += part.to(out.device)
