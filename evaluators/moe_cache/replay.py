"""Cache replay: which look-ups of a routing trace hit, for one capacity or for all.

Letters: L layers, N experts per layer, P forward passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from evaluators.moe_cache import kernels
from evaluators.moe_cache.policies import Lcp, Policy
from evaluators.moe_cache.trace import DECODE, Batches, Int16, Int64

_DEFAULT_LCP = Lcp()


@dataclass(frozen=True, eq=False)
class ReplayResult:
    """Hit flags ``(entries,)`` in the order of `batches`, and rates over them."""

    batches: Batches
    hits: npt.NDArray[np.uint8]

    @property
    def hit_rate(self) -> float:
        """Share of all look-ups that hit, prefill included."""
        return float(self.hits.mean())

    @property
    def decode_hit_rate(self) -> float:
        """Share of the decode look-ups that hit; NaN without decode passes."""
        decode = self.hits[self.batches.decode_entries]
        return float(decode.mean()) if decode.size else float("nan")


def replay(
    batches: Batches,
    policy: str,
    capacity: int | Sequence[int] | npt.NDArray[np.integer],
    *,
    popularity: npt.ArrayLike | None = None,
    lcp: Lcp = _DEFAULT_LCP,
) -> ReplayResult:
    """Replay one cache per layer, counted in experts.

    Args:
        batches: from `RoutingTrace.passes`.
        policy: one of `Policy`.
        capacity: slots per layer, one number or L numbers.
        popularity: ``(L, N)`` counts that place the `static` policy's experts; None takes the trace's own counts, which
            is hindsight.
        lcp: constants of the `lcp` policy.

    Raises:
        UsageError: for an unknown policy, or capacities or counts that do not fit.
    """
    n_layers, n_experts = batches.n_layers, batches.n_experts
    chosen = Policy.parse(policy)
    slots = layer_capacities(capacity, n_layers, n_experts)
    sizes = np.ones(n_experts, dtype=np.int64)
    state, rows = prepare(batches, chosen, slots, popularity, lcp)
    layers = np.arange(n_layers, dtype=np.int64)
    base = np.zeros(n_layers, dtype=np.int64)
    return ReplayResult(batches, kernels.replay(chosen.code, rows, layers, base, sizes, slots, state))


def replay_global(
    batches: Batches,
    policy: str,
    capacity_bytes: int,
    expert_bytes: npt.ArrayLike,
    *,
    popularity: npt.ArrayLike | None = None,
    lcp: Lcp = _DEFAULT_LCP,
) -> ReplayResult:
    """Replay one cache that all layers share, counted in bytes. `expert_bytes` has shape ``(L,)``.

    With unequal sizes no simple rule is optimal, so `belady` is a bound here only where all experts are equal.

    Raises:
        UsageError: as `replay`, and for sizes or a capacity that cannot be.
    """
    n_layers, n_experts = batches.n_layers, batches.n_experts
    chosen = Policy.parse(policy)
    per_layer = np.asarray(expert_bytes, dtype=np.int64)
    if per_layer.shape != (n_layers,) or per_layer.min() < 1:
        raise UsageError(f"expert_bytes has shape {per_layer.shape}; give {n_layers} sizes of at least one byte")
    if capacity_bytes < 0:
        raise UsageError(f"capacity_bytes={capacity_bytes} is negative; give 0 or more")
    sizes = np.repeat(per_layer, n_experts)
    capacity = np.array([capacity_bytes], dtype=np.int64)
    state = kernels.empty_state(1, n_layers * n_experts)
    if chosen is Policy.STATIC:
        counts = _counts(batches, popularity).reshape(-1)
        kernels.preload(state, 0, np.argsort(-counts, kind="stable"), sizes, capacity_bytes)
    elif chosen is Policy.BELADY:
        first = first_uses(batches).reshape(-1)
        state.key[0] = -first
        kernels.preload(state, 0, np.argsort(first, kind="stable"), sizes, capacity_bytes)
    cache_of = np.zeros(n_layers, dtype=np.int64)
    base = np.arange(n_layers, dtype=np.int64) * n_experts
    rows = make_rows(batches, chosen, lcp)
    return ReplayResult(batches, kernels.replay(chosen.code, rows, cache_of, base, sizes, capacity, state))


def hit_curves(
    batches: Batches,
    policy: str,
    *,
    popularity: npt.ArrayLike | None = None,
    lcp: Lcp = _DEFAULT_LCP,
    phase: int = DECODE,
) -> Int16:
    """Hits of every capacity, ``(passes of that phase, L, N + 1)``: ``[p, l, c]`` is pass p in layer l with c slots.

    The caches start empty (`static` and `belady`: filled) and see every pass, of either phase. Stack policies cost one
    replay, the others one per capacity.
    """
    chosen = Policy.parse(policy)
    n_layers, n_experts = batches.n_layers, batches.n_experts
    kept = np.flatnonzero(batches.pass_phase == phase)
    curves = np.zeros((len(kept), n_layers, n_experts + 1), dtype=np.int16)
    if not chosen.is_stack:
        row_starts = batches.offsets[:-1]
        for c in range(1, n_experts + 1):
            hits = replay(batches, policy, c, lcp=lcp).hits.astype(np.int64)
            sums = np.concatenate(([0], np.cumsum(hits)))
            by_row = sums[batches.offsets[1:]] - sums[row_starts]
            curves[:, :, c] = by_row.reshape(-1, n_layers)[kept]
        return curves
    keep_pass = np.full(batches.n_passes, -1, dtype=np.int64)
    keep_pass[kept] = np.arange(len(kept))
    none = np.zeros(0, dtype=np.int16)
    _stack(batches, chosen, popularity, lcp, (keep_pass, curves, batches.offsets, none, none, none))
    return curves


@dataclass(frozen=True, eq=False)
class Needs:
    """The least capacity at which every look-up hits, N + 1 where none is enough.

    need ``(entries,)`` of the look-ups, ahead ``(predicted entries,)`` whether a predicted expert is cached before its
    pass comes to the layer.
    """

    need: Int16
    ahead: Int16


def least_capacities(batches: Batches, ahead: Batches, policy: str, *, lcp: Lcp = _DEFAULT_LCP) -> Needs:
    """`Needs` of a stack policy (Mattson et al. 1970), from one replay.

    Args:
        batches: from `RoutingTrace.passes`.
        ahead: predicted experts, as batches of the same passes and layers.

    Raises:
        UsageError: for a policy that is not a stack policy: its hits may fall when capacity grows.
    """
    chosen = Policy.parse(policy)
    if not chosen.is_stack:
        raise UsageError(f"policy {policy!r} has no least capacity at which a look-up hits; use a stack policy")
    found = Needs(np.zeros(len(batches.experts), dtype=np.int16), np.zeros(len(ahead.experts), dtype=np.int16))
    keep_pass = np.full(batches.n_passes, -1, dtype=np.int64)
    curves = np.zeros((0, batches.n_layers, batches.n_experts + 1), dtype=np.int16)
    _stack(batches, chosen, None, lcp, (keep_pass, curves, ahead.offsets, ahead.experts, found.need, found.ahead))
    return found


def _stack(
    batches: Batches,
    policy: Policy,
    popularity: npt.ArrayLike | None,
    lcp: Lcp,
    rest: tuple[Int64, Int16, Int64, Int16, Int16, Int16],
) -> None:
    """Run `kernels.stack_hits` from the caches' start; `rest` are its last arguments."""
    n_layers, n_experts = batches.n_layers, batches.n_experts
    stack = np.full((n_layers, n_experts), -1, dtype=np.int32)
    state = kernels.empty_state(n_layers, n_experts)
    if policy is Policy.STATIC:
        stack[:] = np.argsort(-_counts(batches, popularity), axis=1, kind="stable")
    elif policy is Policy.BELADY:
        first = first_uses(batches)
        state.key[:] = -first
        stack[:] = np.argsort(first, axis=1, kind="stable")
    kernels.stack_hits(policy.code, make_rows(batches, policy, lcp), n_layers, state, stack, *rest)


def layer_capacities(capacity: int | Sequence[int] | npt.NDArray[np.integer], n_layers: int, n_experts: int) -> Int64:
    """``(L,)`` slots per layer from one number or L; never more than there are experts."""
    given = np.asarray(capacity)
    if given.dtype.kind not in "iu" or given.shape not in ((), (n_layers,)) or given.min() < 0:
        raise UsageError(f"capacity={capacity!r} does not fit; give slots of 0 or more, one number or {n_layers}")
    slots = np.minimum(given.astype(np.int64), n_experts)
    # A copy of its own: of one layer the broadcast would stay read-only, for which every loop is compiled once more.
    return np.array(np.broadcast_to(slots, (n_layers,)), order="C")


def prepare(
    batches: Batches, policy: Policy, slots: Int64, popularity: npt.ArrayLike | None, lcp: Lcp
) -> tuple[kernels.CacheState, kernels.Rows]:
    """One cache per layer at its start, and the look-ups in the form that the compiled loops take."""
    n_layers, n_experts = batches.n_layers, batches.n_experts
    state = kernels.empty_state(n_layers, n_experts)
    if policy in (Policy.STATIC, Policy.BELADY):
        if policy is Policy.STATIC:
            rank = -_counts(batches, popularity)
        else:
            rank = first_uses(batches)
            state.key[:] = -rank
        sizes = np.ones(n_experts, dtype=np.int64)
        for layer, order in enumerate(np.argsort(rank, axis=1, kind="stable")):
            kernels.preload(state, layer, order, sizes, slots[layer])
    return state, make_rows(batches, policy, lcp)


def make_rows(batches: Batches, policy: Policy, lcp: Lcp) -> kernels.Rows:
    next_use = _next_uses(batches) if policy is Policy.BELADY else np.zeros(0, dtype=np.int64)
    return kernels.Rows(batches.offsets, batches.experts, batches.tokens, batches.pass_tokens, next_use, lcp.decay)


def token_counts(batches: Batches) -> Int64:
    """``(L, N)`` tokens routed to every expert."""
    n_objects = batches.n_layers * batches.n_experts
    counts = np.bincount(_objects(batches), weights=batches.tokens, minlength=n_objects)
    return counts.astype(np.int64).reshape(batches.n_layers, batches.n_experts)


def first_uses(batches: Batches) -> Int64:
    """``(L, N)`` pass of the first look-up, P where there is none."""
    first = np.full(batches.n_layers * batches.n_experts, batches.n_passes, dtype=np.int64)
    np.minimum.at(first, _objects(batches), batches.row_of_entry // batches.n_layers)
    return first.reshape(batches.n_layers, batches.n_experts)


def _next_uses(batches: Batches) -> Int64:
    """``(entries,)`` pass of the next look-up of the same expert and layer, P where there is none."""
    objects = _objects(batches)
    passes = batches.row_of_entry // batches.n_layers
    order = np.argsort(objects, kind="stable")  # entries are in pass order already
    following = np.full(len(order), batches.n_passes, dtype=np.int64)
    same = objects[order[1:]] == objects[order[:-1]]
    following[order[:-1][same]] = passes[order[1:][same]]
    return following


def _objects(batches: Batches) -> Int64:
    return np.asarray((batches.row_of_entry % batches.n_layers) * batches.n_experts + batches.experts, dtype=np.int64)


def _counts(batches: Batches, popularity: npt.ArrayLike | None) -> Int64:
    if popularity is None:
        return token_counts(batches)
    counts = np.asarray(popularity)
    if counts.shape != (batches.n_layers, batches.n_experts) or counts.dtype.kind not in "iuf":
        raise UsageError(
            f"popularity has shape {counts.shape}; give one count per layer and expert, "
            f"({batches.n_layers}, {batches.n_experts})"
        )
    return counts
