"""The compiled loops: cache bookkeeping, replay, stack distances and the timeline.

They lie in one file on purpose: numba's on-disk cache of a function is renewed when its own file changes, not when a
function that it calls changes in another file. Plain arrays go in and out; the typed doors to them are `replay.py` and
`timeline.py`. Letters: L layers, N experts per layer, P forward passes, G caches, M objects per cache.
"""

# Compiled functions take flat arguments and spell their loops out; splitting them further costs speed, not clarity.
# ruff: noqa: PLR0912, PLR0915

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

LRU, LFU, FIFO, LIFO, LCP, STATIC, BELADY = range(7)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class CacheState(NamedTuple):
    """G caches over M objects each; everything but the objects held is kept for objects that are not cached too.

    held ``(G, M)`` ids of the cached objects in no order; n_held ``(G,)``; used ``(G,)`` their summed size; place
    ``(G, M)`` index into held or -1; key ``(G, M)`` the policy's rank, low is evicted first; stamp ``(G, M)`` the entry
    of the last look-up; routed ``(G, M)`` tokens sent to the object so far.
    """

    held: npt.NDArray[np.int32]
    n_held: Ints
    used: Ints
    place: npt.NDArray[np.int32]
    key: Floats
    stamp: Ints
    routed: Ints


class Rows(NamedTuple):
    """What the kernels need of `Batches`, and what the policies rank by.

    offsets, experts, tokens, pass_tokens as in `Batches`; next_use ``(entries,)`` the pass of an entry's next look-up,
    or empty where the policy does not look ahead; decay ``-ln(rho) / omega`` of LCP.
    """

    offsets: Ints
    experts: npt.NDArray[np.int16]
    tokens: npt.NDArray[np.int32]
    pass_tokens: npt.NDArray[np.int32]
    next_use: Ints
    decay: float


def empty_state(n_caches: int, n_objects: int) -> CacheState:
    """G caches that hold nothing."""
    shape = (n_caches, n_objects)
    return CacheState(
        held=np.zeros(shape, dtype=np.int32),
        n_held=np.zeros(n_caches, dtype=np.int64),
        used=np.zeros(n_caches, dtype=np.int64),
        place=np.full(shape, -1, dtype=np.int32),
        key=np.zeros(shape),
        stamp=np.full(shape, -1, dtype=np.int64),
        routed=np.zeros(shape, dtype=np.int64),
    )


# Cache bookkeeping -------------------------------------------------------------------------------------------------


# The arrays of the state are handed over one by one: as one tuple, every call would count references to all of them, which
# takes longer than the look-up itself.


@njit(cache=True, nogil=True)
def touch(
    policy: int, key: Floats, stamp: Ints, routed: Ints, obj: int, entry: int, tokens: int, rank: float, next_use: int
) -> None:
    """Count one look-up, of a cached object or not, in the rows of one cache. FIFO and LIFO rank at insertion instead.

    For LCP, ``ln P = ln mu + (nu / omega) ln rho`` with nu the time since. What passes from now on lowers all ranks alike,
    so it is left out: `rank` is the present time's part, ``clock * decay``, and needs no renewal.
    """
    stamp[obj] = entry
    routed[obj] += tokens
    if policy == LRU:
        key[obj] = entry
    elif policy == LFU:
        key[obj] = routed[obj]
    elif policy == LCP:
        key[obj] = math.log(routed[obj]) + rank
    elif policy == BELADY:
        key[obj] = -next_use


@njit(cache=True, nogil=True)
def insert(
    policy: int,
    held: npt.NDArray[np.int32],
    place: npt.NDArray[np.int32],
    key: Floats,
    n_held: int,
    obj: int,
    entry: int,
) -> int:
    """Put an object into one cache; the number that it now holds."""
    held[n_held] = obj
    place[obj] = n_held
    if policy == FIFO:
        key[obj] = entry
    elif policy == LIFO:
        key[obj] = -entry
    return n_held + 1


@njit(cache=True, nogil=True)
def worst_place(
    policy: int, held: npt.NDArray[np.int32], key: Floats, stamp: Ints, n_held: int, first_entry: int
) -> int:
    """Which place of one cache to free: the lowest rank, among equals the least recent look-up.

    The objects of the batch that began at `first_entry` go last. Belady's rule alone spares nothing: having to keep an
    object that is needed late would make it no bound.
    """
    worst = -1
    worst_spared = True
    worst_key = 0.0
    worst_stamp = 0
    for i in range(n_held):
        obj = held[i]
        spared = policy != BELADY and stamp[obj] >= first_entry
        lower = key[obj] < worst_key or (key[obj] == worst_key and stamp[obj] < worst_stamp)
        if worst < 0 or (worst_spared and not spared) or (worst_spared == spared and lower):
            worst, worst_spared, worst_key, worst_stamp = i, spared, key[obj], stamp[obj]
    return worst


@njit(cache=True, nogil=True)
def remove(held: npt.NDArray[np.int32], place: npt.NDArray[np.int32], n_held: int, hole: int) -> int:
    """Take out the object at a place, which the last one fills; the number that the cache now holds."""
    last = held[n_held - 1]
    place[held[hole]] = -1
    if hole != n_held - 1:
        held[hole] = last
        place[last] = hole
    return n_held - 1


@njit(cache=True, nogil=True)
def preload(state: CacheState, g: int, order: Ints, sizes: Ints, capacity: int) -> None:
    """Fill an empty cache in the given order, passing over what does not fit."""
    for obj in order:
        if state.used[g] + sizes[obj] <= capacity:
            state.n_held[g] = insert(STATIC, state.held[g], state.place[g], state.key[g], state.n_held[g], obj, 0)
            state.used[g] += sizes[obj]


# Replay ------------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def replay(
    policy: int, rows: Rows, cache_of: Ints, base_of: Ints, sizes: Ints, capacity: Ints, state: CacheState
) -> npt.NDArray[np.uint8]:
    """Hit flag of every look-up. Layer l uses cache ``cache_of[l]``, where its expert e is ``base_of[l] + e``."""
    held, n_held, used, place, key, stamp, routed = state
    offsets, experts, tokens, pass_tokens, next_use, decay = rows
    hits = np.zeros(len(experts), dtype=np.uint8)
    n_layers = len(cache_of)
    clock = 0
    for p in range(len(pass_tokens)):
        clock += pass_tokens[p]
        for layer in range(n_layers):
            first, stop = offsets[p * n_layers + layer], offsets[p * n_layers + layer + 1]
            g, base = cache_of[layer], base_of[layer]
            for i in range(first, stop):
                hits[i] = place[g, base + experts[i]] >= 0
            if policy == STATIC:
                continue
            for i in range(first, stop):
                obj = base + experts[i]
                needed = next_use[i] if policy == BELADY else 0
                touch(policy, key[g], stamp[g], routed[g], obj, i, tokens[i], clock * decay, needed)
                if not hits[i]:
                    n_held[g] = insert(policy, held[g], place[g], key[g], n_held[g], obj, i)
                    used[g] += sizes[obj]
            while used[g] > capacity[g]:
                hole = worst_place(policy, held[g], key[g], stamp[g], n_held[g], first)
                used[g] -= sizes[held[g, hole]]
                n_held[g] = remove(held[g], place[g], n_held[g], hole)
    return hits


@njit(cache=True, nogil=True)
def stack_hits(
    policy: int,
    rows: Rows,
    n_layers: int,
    state: CacheState,
    stack: npt.NDArray[np.int32],
    keep_pass: Ints,
    out: Any,
    ahead_offsets: Ints,
    ahead_experts: npt.NDArray[np.int16],
    need: npt.NDArray[np.int16],
    ahead_need: npt.NDArray[np.int16],
) -> None:
    """Hits of every capacity at once, for policies whose rank does not depend on what is cached.

    Mattson et al. (IBM Systems Journal 9, 1970): the caches of all capacities are prefixes of one stack. After a batch
    the cache of capacity c holds the best c of what it held and the batch, so one walk down the stack with a pool of
    the objects displaced so far rebuilds it.

    Args:
        stack: ``(L, N)``; row l begins with the preloaded order, -1 where there is none.
        keep_pass: ``(P,)`` row of `out` to fill, or -1.
        out: int16 ``(rows, L, N + 1)`` hits by capacity.
        ahead_offsets, ahead_experts: predictions, batched as `rows`; ignored where `need` is empty.
        need: ``(entries,)``, or empty; the least capacity at which the look-up hits, N + 1 for none.
        ahead_need: ``(predicted entries,)``, or empty; the same of predicted experts, before the look-ups of the pass.
    """
    _, _, _, _, all_keys, all_stamps, all_routed = state
    offsets, experts, tokens, pass_tokens, next_use, decay = rows
    n_experts = stack.shape[1]
    depth_of = np.empty(n_experts, dtype=np.int64)
    pool = np.empty(n_experts + 1, dtype=np.int32)
    rebuilt = np.empty(n_experts, dtype=np.int32)
    for layer in range(n_layers):
        key, stamp = all_keys[layer], all_stamps[layer]
        height = 0
        depth_of[:] = -1
        while height < n_experts and stack[layer, height] >= 0:
            depth_of[stack[layer, height]] = height
            height += 1
        clock = 0
        for p in range(len(pass_tokens)):
            clock += pass_tokens[p]
            first, stop = offsets[p * n_layers + layer], offsets[p * n_layers + layer + 1]
            if keep_pass[p] >= 0:
                hits = out[keep_pass[p], layer]
                for i in range(first, stop):
                    if depth_of[experts[i]] >= 0:
                        hits[depth_of[experts[i]] + 1] += 1
                for c in range(1, n_experts + 1):
                    hits[c] += hits[c - 1]
            if len(need) > 0:
                row = p * n_layers + layer
                for i in range(first, stop):
                    depth = depth_of[experts[i]]
                    need[i] = depth + 1 if depth >= 0 else n_experts + 1
                for i in range(ahead_offsets[row], ahead_offsets[row + 1]):
                    depth = depth_of[ahead_experts[i]]
                    ahead_need[i] = depth + 1 if depth >= 0 else n_experts + 1
            if policy == STATIC or first == stop:
                continue
            n_pool = 0
            new = 0
            for i in range(first, stop):
                expert = experts[i]
                needed = next_use[i] if policy == BELADY else 0
                touch(policy, key, stamp, all_routed[layer], expert, i, tokens[i], clock * decay, needed)
                pool[n_pool] = expert
                n_pool += 1
                if depth_of[expert] < 0:
                    new += 1
            for c in range(height + new):
                if c < height and stamp[stack[layer, c]] < first:
                    pool[n_pool] = stack[layer, c]
                    n_pool += 1
                best = 0
                for j in range(1, n_pool):
                    a, b = pool[j], pool[best]
                    if policy != BELADY:
                        spared_a, spared_b = stamp[a] >= first, stamp[b] >= first
                        if spared_a != spared_b:
                            if spared_a:
                                best = j
                            continue
                    difference = key[a] - key[b]
                    if difference > 0 or (difference == 0 and stamp[a] > stamp[b]):
                        best = j
                rebuilt[c] = pool[best]
                n_pool -= 1
                pool[best] = pool[n_pool]
            height += new
            for c in range(height):
                stack[layer, c] = rebuilt[c]
                depth_of[rebuilt[c]] = c


# Timeline ----------------------------------------------------------------------------------------------------------


class Tiers(NamedTuple):
    """The plan and the machine, per layer; times in ms, tables ``(L, M + 1)`` are indexed by tokens.

    capacity ``(L,)`` slots; theta ``(L,)`` share of an expert that a slot holds; whole_ms, rest_ms, whole_bytes,
    rest_bytes ``(L,)`` transfers of an expert and of its part outside the slot; cpu_threshold: tokens up to which a
    miss runs on the slow tier; depth: layers ahead that prefetching looks, 0 for none; layer_ms, load_ms and
    rest_load_ms: beside compute, for each layer, and for each expert and each rest of one that was brought; part_ms: of
    compute, for each expert that is computed in two parts; dense_busy and expert_busy: how many times as long computation
    takes that begins while the link is busy.
    """

    capacity: Ints
    theta: Floats
    whole_ms: Floats
    rest_ms: Floats
    whole_bytes: Floats
    rest_bytes: Floats
    dense_ms: Floats
    expert_ms: Floats
    cpu_ms: Floats
    cpu_threshold: int
    depth: int
    layer_ms: float
    load_ms: float
    rest_load_ms: float
    part_ms: float
    dense_busy: float
    expert_busy: float


class Record(NamedTuple):
    """What the timeline writes.

    By pass ``(P,)``: latency, dense, computed (experts on the fast tier), idle (compute waits for the link), late (of it, for
    experts that had been predicted), cpu_wait (compute waits for the slow tier) and overhead (layer_ms and loads) in ms;
    moved and wasted bytes. By phase and layer ``(2, L)``: lookups, hits, cpu_runs; window, backlog and layer_idle as sums
    in ms. By phase ``(2,)``: prefetches started and used.
    """

    latency: Floats
    dense: Floats
    computed: Floats
    idle: Floats
    late: Floats
    cpu_wait: Floats
    overhead: Floats
    moved: Floats
    wasted: Floats
    lookups: Ints
    hits: Ints
    cpu_runs: Ints
    window: Floats
    backlog: Floats
    layer_idle: Floats
    started: Ints
    used: Ints


DENSE, EXPERTS, WAIT, DEMAND, PREFETCH, CPU = range(6)  # what a span is of


class Spans(NamedTuple):
    """What compute, link and slow tier do in one watched pass, written by `timeline`.

    watched: the pass, -1 for none; began ``(1,)`` when it did, in ms of the turn's clock; rows ``(S, 4)`` kind, layer, begin
    and end on that clock; written ``(1,)`` how many there are.
    """

    watched: int
    began: Floats
    rows: Floats
    written: Ints


def no_spans() -> Spans:
    """Of a timeline that watches no pass."""
    return room_for_spans(-1, 0)


def room_for_spans(watched: int, most: int) -> Spans:
    return Spans(watched, np.zeros(1), np.empty((most, 4)), np.zeros(1, dtype=np.int64))


@njit(cache=True, nogil=True)
def note_span(rows: Floats, written: Ints, kind: int, layer: int, begin: float, end: float) -> None:
    """Write one span, unless it took no time."""
    if end > begin:
        row = rows[written[0]]
        row[0], row[1], row[2], row[3] = kind, layer, begin, end
        written[0] += 1


def empty_record(n_passes: int, n_layers: int) -> Record:
    def sums(*shape: int) -> Floats:
        return np.zeros(shape)

    def counts(*shape: int) -> Ints:
        return np.zeros(shape, dtype=np.int64)

    return Record(
        latency=sums(n_passes),
        dense=sums(n_passes),
        computed=sums(n_passes),
        idle=sums(n_passes),
        late=sums(n_passes),
        cpu_wait=sums(n_passes),
        overhead=sums(n_passes),
        moved=sums(n_passes),
        wasted=sums(n_passes),
        lookups=counts(2, n_layers),
        hits=counts(2, n_layers),
        cpu_runs=counts(2, n_layers),
        window=sums(2, n_layers),
        backlog=sums(2, n_layers),
        layer_idle=sums(2, n_layers),
        started=counts(2),
        used=counts(2),
    )


@njit(cache=True, nogil=True)
def timeline(
    policy: int,
    rows: Rows,
    pass_phase: npt.NDArray[np.int8],
    pass_turn: npt.NDArray[np.int32],
    ahead_offsets: Ints,
    ahead_experts: npt.NDArray[np.int16],
    tiers: Tiers,
    state: CacheState,
    record: Record,
    spans: Spans,
) -> None:
    """Run every pass through the caches, one link and one compute stream. The event model is in `timeline.py`."""
    held, n_held, _, place, key, stamp, routed = state
    offsets, experts, tokens, pass_tokens, next_use, decay = rows
    n_layers, n_experts = place.shape
    n_passes = len(pass_phase)
    arrival = np.zeros((n_layers, n_experts))  # when an expert's prefetch ends ...
    arrival_pass = np.full((n_layers, n_experts), -1, dtype=np.int64)  # ... in which pass it was started
    dropped_pass = np.full(
        (n_layers, n_experts), -1, dtype=np.int64
    )  # in which pass its prefetch came too late to begin
    started_bytes = np.zeros(n_layers)
    late_ready = np.empty(n_experts + 1)
    late_ms = np.empty(n_experts + 1)
    late_overhead = np.empty(n_experts + 1)
    late_foreseen = np.empty(n_experts + 1, dtype=np.bool_)
    longest = 0
    if tiers.depth > 0:
        for p in range(n_passes):
            longest = max(longest, ahead_offsets[(p + 1) * n_layers] - ahead_offsets[p * n_layers])
    queue_layer = np.empty(longest, dtype=np.int64)
    queue_expert = np.empty(longest, dtype=np.int64)
    queue_time = np.empty(longest)
    now = link_free = cpu_free = 0.0
    clock = 0
    for p in range(n_passes):
        if p > 0 and pass_turn[p] != pass_turn[p - 1]:
            now = link_free = cpu_free = 0.0
        phase = pass_phase[p]
        n_tokens = pass_tokens[p]
        clock += n_tokens
        began = known_before = now
        head = tail = 0
        started_bytes[:] = 0.0
        watched = p == spans.watched
        if watched:
            spans.began[0] = now
        for layer in range(n_layers):
            first, stop = offsets[p * n_layers + layer], offsets[p * n_layers + layer + 1]
            # What is queued has begun by now, or is about to.
            dense = tiers.dense_ms[layer, n_tokens] * (tiers.dense_busy if link_free > now or head < tail else 1.0)
            record.dense[p] += dense
            record.overhead[p] += tiers.layer_ms
            known = now + dense + tiers.layer_ms
            if watched:
                note_span(spans.rows, spans.written, DENSE, layer, now, now + dense)
            # The link works through its queue until the router is known; whatever of this layer has not begun by then
            # is dropped: demand, below, orders anew what is needed.
            while head < tail:
                begin = max(link_free, queue_time[head])
                if begin >= known:
                    break
                target, expert = queue_layer[head], queue_expert[head]
                if place[target, expert] >= 0:
                    link_free = begin + tiers.rest_ms[target]
                    started_bytes[target] += tiers.rest_bytes[target]
                else:
                    link_free = begin + tiers.whole_ms[target]
                    started_bytes[target] += tiers.whole_bytes[target]
                if watched:
                    note_span(spans.rows, spans.written, PREFETCH, target, begin, link_free)
                arrival[target, expert] = link_free
                arrival_pass[target, expert] = p
                record.started[phase] += 1
                head += 1
            while head < tail and queue_layer[head] == layer:
                dropped_pass[layer, queue_expert[head]] = p
                head += 1
            if layer > 0:
                record.window[phase, layer] += known - known_before
            known_before = known
            record.backlog[phase, layer] += max(0.0, link_free - known)
            record.moved[p] += started_bytes[layer]
            unused = started_bytes[layer]

            ready = ready_overhead = 0.0  # of what is whole, and of tops
            n_late = 1  # place 0 is for the one prefetch that may still be on its way; it ends before any demand
            late_ready[0] = -1.0
            for i in range(first, stop):
                expert = experts[i]
                work = tiers.expert_ms[layer, tokens[i]]
                hit = place[layer, expert] >= 0
                rest_bytes = tiers.rest_bytes[layer] if hit else tiers.whole_bytes[layer]
                prefetched = arrival_pass[layer, expert] == p
                record.lookups[phase, layer] += 1
                needed = next_use[i] if policy == BELADY else 0
                touch(policy, key[layer], stamp[layer], routed[layer], expert, i, tokens[i], clock * decay, needed)
                if hit:
                    record.hits[phase, layer] += 1
                if prefetched:
                    record.used[phase] += 1
                    unused -= rest_bytes
                elif not hit and tokens[i] <= tiers.cpu_threshold:
                    cpu_begin = max(cpu_free, known)
                    cpu_free = cpu_begin + tiers.cpu_ms[layer, tokens[i]]
                    if watched:
                        note_span(spans.rows, spans.written, CPU, layer, cpu_begin, cpu_free)
                    record.cpu_runs[phase, layer] += 1
                    continue
                if not hit and policy != STATIC:
                    n_held[layer] = insert(policy, held[layer], place[layer], key[layer], n_held[layer], expert, i)
                if rest_bytes == 0.0:
                    ready += work
                    continue
                overhead = tiers.rest_load_ms if hit else tiers.load_ms
                record.overhead[p] += overhead
                part = tiers.part_ms if hit else 0.0
                if prefetched and arrival[layer, expert] <= known:
                    ready += work + part
                    ready_overhead += overhead
                    continue
                if hit:
                    ready += tiers.theta[layer] * work
                    work *= 1.0 - tiers.theta[layer]
                if prefetched:
                    late_ready[0], late_ms[0], late_foreseen[0] = arrival[layer, expert], work + part, True
                    late_overhead[0] = overhead
                    continue
                begin = max(link_free, known)
                link_free = begin + (tiers.rest_ms[layer] if hit else tiers.whole_ms[layer])
                if watched:
                    note_span(spans.rows, spans.written, DEMAND, layer, begin, link_free)
                record.moved[p] += rest_bytes
                late_ready[n_late], late_ms[n_late], late_overhead[n_late] = link_free, work + part, overhead
                late_foreseen[n_late] = dropped_pass[layer, expert] == p
                n_late += 1
            while n_held[layer] > tiers.capacity[layer]:
                hole = worst_place(policy, held[layer], key[layer], stamp[layer], n_held[layer], first)
                n_held[layer] = remove(held[layer], place[layer], n_held[layer], hole)
            record.wasted[p] += unused

            if tiers.depth > 0:
                nearest = layer + (1 if layer == 0 else tiers.depth)
                for target in range(nearest, min(layer + tiers.depth, n_layers - 1) + 1):
                    row = p * n_layers + target
                    for j in range(ahead_offsets[row], ahead_offsets[row + 1]):
                        expert = ahead_experts[j]
                        if place[target, expert] >= 0 and tiers.rest_bytes[target] == 0.0:
                            continue
                        queue_layer[tail], queue_expert[tail], queue_time[tail] = target, expert, known
                        tail += 1

            queued = head < tail
            ready *= tiers.expert_busy if link_free > known or queued else 1.0
            computed = ready
            compute = known + ready + ready_overhead
            if watched:
                note_span(spans.rows, spans.written, EXPERTS, layer, known, known + ready)
            for j in range(0 if late_ready[0] >= 0.0 else 1, n_late):
                if late_ready[j] > compute:
                    if watched:
                        note_span(spans.rows, spans.written, WAIT, layer, compute, late_ready[j])
                    record.idle[p] += late_ready[j] - compute
                    record.layer_idle[phase, layer] += late_ready[j] - compute
                    if late_foreseen[j]:
                        record.late[p] += late_ready[j] - compute
                    compute = late_ready[j]
                work = late_ms[j] * (tiers.expert_busy if link_free > compute or queued else 1.0)
                computed += work
                if watched:
                    note_span(spans.rows, spans.written, EXPERTS, layer, compute, compute + work)
                compute += work + late_overhead[j]
            record.computed[p] += computed
            if cpu_free > compute:
                record.cpu_wait[p] += cpu_free - compute
                compute = cpu_free
            now = compute
        record.latency[p] = now - began


@njit(cache=True, nogil=True)
def latencies(
    rows: Rows,
    need: npt.NDArray[np.int16],
    pass_turn: npt.NDArray[np.int32],
    ahead_offsets: Ints,
    ahead_experts: npt.NDArray[np.int16],
    ahead_need: npt.NDArray[np.int16],
    tiers: Tiers,
    out: Floats,
) -> None:
    """What `timeline` records as latency, ``(P,)``, from the capacities at which look-ups hit; see `stack_hits`.

    For stack policies without the slow tier's processor, where what is cached does not depend on the clock. The same
    events in the same order, without the caches: the solver asks for thousands of plans of one policy.
    """
    offsets, experts, tokens, pass_tokens, _, _ = rows
    capacity, theta, whole_ms, rest_ms = tiers.capacity, tiers.theta, tiers.whole_ms, tiers.rest_ms
    rest_bytes, dense_ms, expert_ms, n_ahead = tiers.rest_bytes, tiers.dense_ms, tiers.expert_ms, tiers.depth
    n_layers = len(capacity)
    n_experts = 0
    longest = 0
    for p in range(len(pass_turn)):
        for i in range(offsets[p * n_layers], offsets[(p + 1) * n_layers]):
            n_experts = max(n_experts, experts[i] + 1)
        if n_ahead > 0:
            longest = max(longest, ahead_offsets[(p + 1) * n_layers] - ahead_offsets[p * n_layers])
            for i in range(ahead_offsets[p * n_layers], ahead_offsets[(p + 1) * n_layers]):
                n_experts = max(n_experts, ahead_experts[i] + 1)
    arrival = np.zeros((n_layers, n_experts))
    arrival_pass = np.full((n_layers, n_experts), -1, dtype=np.int64)
    late_ready = np.empty(n_experts + 1)
    late_ms = np.empty(n_experts + 1)
    late_overhead = np.empty(n_experts + 1)
    queue_layer = np.empty(longest, dtype=np.int64)
    queue_entry = np.empty(longest, dtype=np.int64)
    queue_time = np.empty(longest)
    now = link_free = 0.0
    for p in range(len(pass_turn)):
        if p > 0 and pass_turn[p] != pass_turn[p - 1]:
            now = link_free = 0.0
        n_tokens = pass_tokens[p]
        began = now
        head = tail = 0
        for layer in range(n_layers):
            first, stop = offsets[p * n_layers + layer], offsets[p * n_layers + layer + 1]
            dense = dense_ms[layer, n_tokens] * (tiers.dense_busy if link_free > now or head < tail else 1.0)
            known = now + dense + tiers.layer_ms
            while head < tail:
                begin = max(link_free, queue_time[head])
                if begin >= known:
                    break
                target, entry = queue_layer[head], queue_entry[head]
                cached = ahead_need[entry] <= capacity[target]
                link_free = begin + (rest_ms[target] if cached else whole_ms[target])
                arrival[target, ahead_experts[entry]] = link_free
                arrival_pass[target, ahead_experts[entry]] = p
                head += 1
            while head < tail and queue_layer[head] == layer:
                head += 1

            ready = ready_overhead = 0.0
            n_late = 1
            late_ready[0] = -1.0
            for i in range(first, stop):
                expert = experts[i]
                work = expert_ms[layer, tokens[i]]
                hit = need[i] <= capacity[layer]
                prefetched = arrival_pass[layer, expert] == p
                if hit and rest_bytes[layer] == 0.0:
                    ready += work
                    continue
                overhead = tiers.rest_load_ms if hit else tiers.load_ms
                part = tiers.part_ms if hit else 0.0
                if prefetched and arrival[layer, expert] <= known:
                    ready += work + part
                    ready_overhead += overhead
                    continue
                if hit:
                    ready += theta[layer] * work
                    work *= 1.0 - theta[layer]
                if prefetched:
                    late_ready[0], late_ms[0], late_overhead[0] = arrival[layer, expert], work + part, overhead
                    continue
                link_free = max(link_free, known) + (rest_ms[layer] if hit else whole_ms[layer])
                late_ready[n_late], late_ms[n_late], late_overhead[n_late] = link_free, work + part, overhead
                n_late += 1

            if n_ahead > 0:
                nearest = layer + (1 if layer == 0 else n_ahead)
                for target in range(nearest, min(layer + n_ahead, n_layers - 1) + 1):
                    row = p * n_layers + target
                    for j in range(ahead_offsets[row], ahead_offsets[row + 1]):
                        if rest_bytes[target] == 0.0 and ahead_need[j] <= capacity[target]:
                            continue
                        queue_layer[tail], queue_entry[tail], queue_time[tail] = target, j, known
                        tail += 1

            queued = head < tail
            compute = known + ready * (tiers.expert_busy if link_free > known or queued else 1.0) + ready_overhead
            for j in range(0 if late_ready[0] >= 0.0 else 1, n_late):
                compute = max(compute, late_ready[j])
                work = late_ms[j] * (tiers.expert_busy if link_free > compute or queued else 1.0)
                compute += work + late_overhead[j]
            now = compute
        out[p] = now - began


# Look-ups of a real run ----------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def look_up(
    policy: int,
    experts: npt.NDArray[np.int16],
    tokens: npt.NDArray[np.int32],
    next_use: Ints,
    first: int,
    rank: float,
    on_its_way: npt.NDArray[np.bool_],
    cpu_threshold: int,
    capacity: int,
    held: npt.NDArray[np.int32],
    n_held: int,
    place: npt.NDArray[np.int32],
    key: Floats,
    stamp: Ints,
    routed: Ints,
    hit: npt.NDArray[np.bool_],
    on_cpu: npt.NDArray[np.bool_],
    evicted: npt.NDArray[np.int32],
) -> tuple[int, int]:
    """One batch of one layer, as `timeline` does it, for who moves the experts himself.

    Args:
        next_use: ``(n,)`` where the policy looks ahead, else empty.
        first: number of the batch's first look-up since the run began.
        on_its_way: ``(n,)`` experts that a prefetch has begun to bring.
        hit, on_cpu, evicted: written: ``(n,)``, ``(n,)``, and as many experts as are returned.

    Returns:
        experts held now, experts evicted.
    """
    for i in range(len(experts)):
        expert = experts[i]
        hit[i] = place[expert] >= 0
        needed = next_use[i] if policy == BELADY else 0
        touch(policy, key, stamp, routed, expert, first + i, tokens[i], rank, needed)
        on_cpu[i] = not hit[i] and not on_its_way[i] and tokens[i] <= cpu_threshold
        if not hit[i] and not on_cpu[i] and policy != STATIC:
            n_held = insert(policy, held, place, key, n_held, expert, first + i)
    n_evicted = 0
    while n_held > capacity:
        hole = worst_place(policy, held, key, stamp, n_held, first)
        evicted[n_evicted] = held[hole]
        n_evicted += 1
        n_held = remove(held, place, n_held, hole)
    return n_held, n_evicted
