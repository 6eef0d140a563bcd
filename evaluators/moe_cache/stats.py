"""What a routing trace is like before any cache: popularity, reuse distance, affinity between layers, spread of choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.moe_cache.replay import token_counts
from evaluators.moe_cache.trace import Batches, Int64, RoutingTrace

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TraceStats:
    """Statistics of a trace: L layers, N experts per layer, k experts per token.

    Attributes:
        model, n_tokens, decode_tokens, n_layers, n_experts, top_k, n_picks, turn_names: of the trace.
        popularity: ``(L, N)`` tokens routed to each expert.
        entropy_bits: ``(L,)`` Shannon entropy of the popularity.
        effective_experts: ``(L,)`` ``2 ** entropy``: how many equally used experts would be as spread out.
        reuse_distance: ``(L, N)`` look-ups by reuse distance: entry d counts those with d other distinct experts of the
            layer looked up after the same expert's last look-up, so that LRU hits them with d + 1 slots or more.
        first_touches: ``(L,)`` look-ups of an expert that the layer had not seen.
        predictability: ``(L - 1,)`` how often one of a token's experts in layer l + 1 is among the k likeliest successors
            of its experts in layer l; `chance` is k / N. Measured on the counts that it is judged by.
    """

    model: str
    n_tokens: int
    decode_tokens: int
    n_layers: int
    n_experts: int
    top_k: int
    n_picks: int
    turn_names: tuple[str, ...]
    popularity: Int64
    entropy_bits: Floats
    effective_experts: Floats
    reuse_distance: Int64
    first_touches: Int64
    predictability: Floats

    @property
    def chance(self) -> float:
        return self.top_k / self.n_experts

    @property
    def hottest_share(self) -> Floats:
        """``(L,)`` share of the picks that go to the k most popular experts of the layer."""
        ranked = -np.sort(-self.popularity, axis=1)
        return np.asarray(ranked[:, : self.top_k].sum(axis=1) / self.popularity.sum(axis=1))

    def lru_hit_rate(self, capacity: int) -> float:
        """Share of all look-ups that an LRU cache of `capacity` slots in each layer hits."""
        lookups = self.reuse_distance.sum() + self.first_touches.sum()
        return float(self.reuse_distance[:, :capacity].sum() / lookups)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values under the attributes' names."""
        names = [name for name in self.__dataclass_fields__ if name != "turn_names"]
        plain: dict[str, Any] = {name: _plain(getattr(self, name)) for name in names}
        return {**plain, "turn_names": list(self.turn_names), "chance": self.chance}


def trace_stats(trace: RoutingTrace) -> TraceStats:
    """Compute all statistics of a trace."""
    batches = trace.passes()
    counts = token_counts(batches)
    share = counts / counts.sum(axis=1, keepdims=True)
    entropy = -(share * np.log2(share, out=np.zeros_like(share), where=share > 0)).sum(axis=1)
    distance, first = reuse_distances(batches)
    return TraceStats(
        model=trace.model,
        n_tokens=trace.n_tokens,
        decode_tokens=trace.decode_tokens,
        n_layers=trace.n_layers,
        n_experts=trace.n_experts,
        top_k=trace.top_k,
        n_picks=trace.n_picks,
        turn_names=trace.turn_names,
        popularity=counts,
        entropy_bits=entropy,
        effective_experts=2.0**entropy,
        reuse_distance=distance,
        first_touches=first,
        predictability=np.array([predictability(trace, layer) for layer in range(trace.n_layers - 1)]),
    )


def affinity(trace: RoutingTrace, layer: int) -> Floats:
    """``(N, N)`` conditional probability that a token with expert i in `layer` has expert j in the next layer.

    Rows sum to k (a token has k experts there), or to 0 where expert i was never used (ExFlow, arXiv:2401.08383).
    """
    counts, seen = _successors(trace, layer)
    return np.divide(counts, seen[:, None], out=np.zeros(counts.shape), where=seen[:, None] > 0)


def predictability(trace: RoutingTrace, layer: int) -> float:
    """Share of true experts of ``layer + 1`` among the k likeliest successors of each of a token's experts in `layer`."""
    counts, _ = _successors(trace, layer)
    likeliest = np.argsort(-counts, axis=1, kind="stable")[:, : trace.top_k]
    return float(np.take_along_axis(counts, likeliest, axis=1).sum() / counts.sum())


def reuse_distances(batches: Batches) -> tuple[Int64, Int64]:
    """Histogram ``(L, N)`` of reuse distances in distinct experts, and first touches ``(L,)``.

    A batch looks all its experts up at once, so that distances are taken before it began, as the replay does.
    """
    histogram = np.zeros((batches.n_layers, batches.n_experts), dtype=np.int64)
    first = np.zeros(batches.n_layers, dtype=np.int64)
    stacks: list[list[int]] = [[] for _ in range(batches.n_layers)]
    offsets, experts = batches.offsets.tolist(), batches.experts.tolist()
    for row in range(len(offsets) - 1):
        layer = row % batches.n_layers
        batch = experts[offsets[row] : offsets[row + 1]]
        depth = {expert: i for i, expert in enumerate(stacks[layer])}
        for expert in batch:
            if expert in depth:
                histogram[layer, depth[expert]] += 1
            else:
                first[layer] += 1
        chosen = set(batch)
        stacks[layer] = batch[::-1] + [expert for expert in stacks[layer] if expert not in chosen]
    return histogram, first


def _successors(trace: RoutingTrace, layer: int) -> tuple[Int64, Int64]:
    """``(N, N)`` tokens with expert i in `layer` and j in the next one, and ``(N,)`` tokens with i that reached it."""
    here, there = trace.experts[:, layer], trace.experts[:, layer + 1]
    both = (here[:, 0] >= 0) & (there[:, 0] >= 0)
    pairs = here[both].astype(np.int64)[:, :, None] * trace.n_experts + there[both][:, None, :]
    counts = np.bincount(pairs.reshape(-1), minlength=trace.n_experts**2).reshape(trace.n_experts, trace.n_experts)
    seen = np.bincount(here[both].reshape(-1), minlength=trace.n_experts)
    return counts, seen


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


def summary(stats: TraceStats) -> Mapping[str, float]:
    """The few numbers that say how well a trace can be cached and predicted, as means over layers."""
    return {
        "effective_experts": float(stats.effective_experts.mean()),
        "hottest_share": float(stats.hottest_share.mean()),
        "predictability": float(stats.predictability.mean()) if stats.predictability.size else float("nan"),
        "chance": stats.chance,
        **{
            f"lru_hit_rate_{percent}pct": stats.lru_hit_rate(round(stats.n_experts * percent / 100))
            for percent in (10, 25, 50)
        },
    }
