"""Cells of a map: what a cache setting is worth at a ratio of loading to computing, on one trace, in one budget.

A cell is a trace, a machine that is nothing but ratios, and a memory. Times are in units of what one token's
computation takes when every expert is resident, so that a real machine of the same ratios has the same cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.errors import UsageError
from evaluators.moe_cache.batching import batched
from evaluators.moe_cache.plan import CachePlan, Costs, Floats, fiddler_threshold
from evaluators.moe_cache.solver import Memory
from evaluators.moe_cache.synthetic import SyntheticRouting
from evaluators.moe_cache.timeline import simulate_many
from evaluators.moe_cache.trace import RoutingTrace

THETAS = tuple(round(step / 10, 1) for step in range(11))

DENSE_SHARE = 0.5  # attention, router and shared experts of the computation; Qwen1.5-MoE's weights say 0.6
_EXPERT_BYTES = 2**20  # where the trace does not know; only ratios matter


def ratio_costs(
    trace: RoutingTrace, loading_ratio: float, *, dense_share: float = DENSE_SHARE, cpu_ratio: float | None = None
) -> Costs:
    """A machine by its ratios, on which a token's computation takes 1 ms with every expert resident.

    The link has no latency beside its bandwidth. On the fast tier a pass takes as long for several tokens as for one: it
    reads the weights once, and decode batches are bound by that. On the slow tier an expert takes a time proportional to
    its tokens, as Fiddler models it (arXiv:2402.07033, algorithm 1).

    Args:
        loading_ratio: time to load the k experts of every layer over the time to compute a token; MoEpic
            (arXiv:2509.08342) reports 165 ms over 57 ms.
        dense_share: part of the computation that is not routed experts.
        cpu_ratio: time of one expert for one token on the slow tier over that on the fast tier; None: it cannot compute.

    Raises:
        UsageError: for ratios that cannot be.
    """
    if not (np.isfinite(loading_ratio) and loading_ratio > 0.0) or not 0.0 <= dense_share < 1.0:
        raise UsageError(
            f"loading_ratio={loading_ratio}, dense_share={dense_share}: give a ratio above 0 and a share of 0 or more, below 1"
        )
    if cpu_ratio is not None and not (np.isfinite(cpu_ratio) and cpu_ratio > 0.0):
        raise UsageError(f"cpu_ratio={cpu_ratio} must be above 0; None is a slow tier that cannot compute")
    sizes = trace.expert_bytes if trace.expert_bytes is not None else np.full(trace.n_layers, _EXPERT_BYTES)
    layer_ms = 1.0 / trace.n_layers
    expert_ms = (1.0 - dense_share) * layer_ms / trace.top_k
    ms_per_byte = loading_ratio / (trace.top_k * float(sizes.sum()))
    largest = float(sizes.max())
    tokens: Floats = np.arange(int(trace.passes().pass_tokens.max()) + 1, dtype=np.float64)
    flat = np.minimum(tokens, 1.0)
    return Costs(
        expert_bytes=sizes,
        link_bytes=np.array([1.0, largest]),
        link_ms=np.array([1.0, largest]) * ms_per_byte,
        expert_ms=flat * expert_ms,
        dense_ms=flat * dense_share * layer_ms,
        cpu_expert_ms=None if cpu_ratio is None else tokens * cpu_ratio * expert_ms,
    )


def ratios_of(costs: Costs, top_k: int) -> tuple[float, float]:
    """What `ratio_costs` takes, of a measured machine: the loading ratio, and the dense share of a token's computation."""
    loading = top_k * float(costs.transfer_ms(costs.expert_bytes).sum())
    dense, experts = float(costs.dense_ms[:, 1].sum()), top_k * float(costs.expert_ms[:, 1].sum())
    return loading / (dense + experts), dense / (dense + experts)


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell; `build_cell` makes it. Any plan may be simulated or run in it, not only those that it makes itself."""

    trace: RoutingTrace
    costs: Costs
    memory: Memory
    loading_ratio: float

    def plan(
        self, theta: float = 1.0, *, policy: str = "lru", prefetch_depth: int = 1, cpu_threshold_tokens: int = 0
    ) -> CachePlan:
        """Equal budgets for all layers and one split, in whole slots.

        What does not divide evenly goes to some layers as whole slots, spread over the model, so that no split wins by
        rounding. Staging buffers come out of the same memory.
        """
        available = self.memory.for_caches(prefetch_depth)
        if available < 0:
            raise UsageError(
                f"the cell's budget of {self.memory.total_bytes} bytes does not hold the staging buffers of "
                f"prefetch_depth={prefetch_depth}, {self.memory.total_bytes - available} bytes; give more"
            )
        slot = theta * self.costs.expert_bytes
        share = available / self.trace.n_layers
        fitting = np.minimum(np.divide(share, slot, out=np.zeros(len(slot)), where=slot > 0), self.trace.n_experts)
        edges = np.floor(np.concatenate(([0.0], np.cumsum(fitting))) + 1e-9)
        slots = np.minimum(np.diff(edges), self.trace.n_experts)
        for layer in range(len(slots) - 1, -1, -1):  # layers differ in size, so that rounding may have taken too much
            if float((slots * slot).sum()) <= available:
                break
            slots[layer] = max(0.0, slots[layer] - 1.0)
        return CachePlan(
            budget_bytes=tuple(int(b) for b in np.ceil(slots * slot)),
            theta=(theta,) * self.trace.n_layers,
            policy=policy,
            prefetch_depth=prefetch_depth,
            cpu_threshold_tokens=cpu_threshold_tokens,
        )

    def on_demand(self, policy: str = "lru") -> CachePlan:
        """Whole experts, loaded when the router asks: what people do."""
        return self.plan(1.0, policy=policy, prefetch_depth=0)


def build_cell(
    trace: RoutingTrace,
    loading_ratio: float,
    budget_fraction: float,
    *,
    dense_share: float = DENSE_SHARE,
    cpu_ratio: float | None = None,
) -> Cell:
    """A cell of a trace: its machine by `ratio_costs`, its memory as a share of all expert bytes.

    The memory holds staging buffers for one pass of one layer, and for one more layer where prefetching is on.

    Raises:
        UsageError: for ratios that cannot be, or a budget that holds no staging buffers.
    """
    if not 0.0 < budget_fraction <= 2.0:
        raise UsageError(
            f"budget_fraction={budget_fraction} is a share of all expert bytes; give above 0 and at most 2"
        )
    costs = ratio_costs(trace, loading_ratio, dense_share=dense_share, cpu_ratio=cpu_ratio)
    total = round(budget_fraction * int(costs.expert_bytes.sum()) * trace.n_experts)
    memory = Memory(total, trace.widest_decode * int(costs.expert_bytes.max()))
    return Cell(trace, costs, memory, loading_ratio)


def synthetic_cell(
    routing: SyntheticRouting,
    loading_ratio: float,
    budget_fraction: float,
    *,
    batch: int = 1,
    dense_share: float = DENSE_SHARE,
    cpu_ratio: float | None = None,
) -> Cell:
    """`build_cell` on made-up routing, decoded in batches; see `SyntheticRouting`, `batched` and `build_cell`."""
    trace = batched(routing.trace(), batch)
    return build_cell(trace, loading_ratio, budget_fraction, dense_share=dense_share, cpu_ratio=cpu_ratio)


@dataclass(frozen=True)
class ThetaSweep:
    """Latencies of a cell, in units of a token's computation with every expert resident.

    Attributes:
        thetas, latency: one split for all layers, with prefetching; equally long.
        on_demand: whole experts without prefetching, least recently used first.
        on_demand_hit_rate: its hit rate.
    """

    thetas: tuple[float, ...]
    latency: tuple[float, ...]
    on_demand: float
    on_demand_hit_rate: float

    @property
    def best_theta(self) -> float:
        """The split of the lowest latency; among equals (within 1e-9) the largest, which is the simplest."""
        least = min(self.latency)
        return max(t for t, ms in zip(self.thetas, self.latency, strict=True) if ms <= least * (1.0 + 1e-9))

    def at(self, theta: float) -> float:
        return self.latency[self.thetas.index(theta)]

    def gain_over(self, theta: float) -> float:
        """Share of the latency at this split that the best one saves."""
        return 1.0 - min(self.latency) / self.at(theta)

    @property
    def interior_gain(self) -> float:
        """Share of the better of theta 0 and 1 that the best split strictly between them saves; negative where it loses."""
        inside = min(ms for t, ms in zip(self.thetas, self.latency, strict=True) if 0.0 < t < 1.0)
        return 1.0 - inside / min(self.at(0.0), self.at(1.0))

    @property
    def reduction(self) -> float:
        """Share of the on-demand latency that the best split with prefetching saves."""
        return 1.0 - min(self.latency) / self.on_demand

    @property
    def whole_reduction(self) -> float:
        """The same for whole experts with prefetching."""
        return 1.0 - self.at(1.0) / self.on_demand


def theta_sweep(cell: Cell, *, policy: str = "lru", prefetch_depth: int = 1) -> ThetaSweep:
    """Simulate a cell at every split of `THETAS`, and without prefetching."""
    plans = [cell.plan(theta, policy=policy, prefetch_depth=prefetch_depth) for theta in THETAS]
    first, *rest = simulate_many(cell.trace, [cell.on_demand(), *plans], cell.costs)
    latency = tuple(float(result.latency_ms.mean()) for result in rest)
    return ThetaSweep(THETAS, latency, float(first.latency_ms.mean()), first.hit_rate)


@dataclass(frozen=True)
class ThresholdSweep:
    """Latencies of a cell by the tokens up to which a missing expert runs on the slow tier, without prefetching.

    Attributes:
        thresholds, latency: equally long, thresholds from 0 (always load) to the most
            tokens that any expert has (never load).
        crossover: Fiddler's threshold, the most tokens for which the slow tier is no slower than loading and computing.
        hit_rate: of the look-ups at threshold 0.
    """

    thresholds: tuple[int, ...]
    latency: tuple[float, ...]
    crossover: int
    hit_rate: float

    @property
    def best_threshold(self) -> int:
        """The threshold of the lowest latency; among equals (within 1e-9) the smallest."""
        least = min(self.latency)
        return min(t for t, ms in zip(self.thresholds, self.latency, strict=True) if ms <= least * (1.0 + 1e-9))

    @property
    def gain_over_loading(self) -> float:
        """Share of the latency of always loading that the best threshold saves."""
        return 1.0 - min(self.latency) / self.latency[0]

    @property
    def gain_over_computing(self) -> float:
        """Share of the latency of always computing misses on the slow tier that the best threshold saves."""
        return 1.0 - min(self.latency) / self.latency[-1]

    @property
    def crossover_loss(self) -> float:
        """How much longer Fiddler's threshold takes than the best one, as a share of the best."""
        return self.latency[self.thresholds.index(self.crossover)] / min(self.latency) - 1.0


def threshold_sweep(cell: Cell, *, policy: str = "lru") -> ThresholdSweep:
    """Simulate a cell at every useful threshold: 0 to 8, then powers of two, Fiddler's, and the most tokens of an expert.

    Raises:
        UsageError: for a cell whose slow tier cannot compute.
    """
    if cell.costs.cpu_expert_ms is None:
        raise UsageError("cpu_ratio is None, so there is no threshold to sweep; build the cell with one")
    decode = cell.trace.passes().decode_entries
    most = int(cell.trace.passes().tokens[decode].max())
    crossover = fiddler_threshold(cell.costs, most)
    thresholds = tuple(sorted({t for t in (*range(9), 16, 32, 64, most, crossover) if t <= most}))
    plans = [cell.plan(1.0, policy=policy, prefetch_depth=0, cpu_threshold_tokens=t) for t in thresholds]
    results = simulate_many(cell.trace, plans, cell.costs)
    latency = tuple(float(result.latency_ms.mean()) for result in results)
    return ThresholdSweep(thresholds, latency, crossover, results[0].hit_rate)
