"""The domain's side of the strategy `fixed-point`: budgets and splits by divide and conquer, windows by iteration.

Given how much link time prefetches for each layer can use (the coupling), layers are independent: each has a cost at every
share of the budget, the smallest over its splits, and the (min,+) merge of these curves gives the exact split of the
budget. The plan's timeline then tells the windows that it really causes. A reconstruction in the spirit of MoEpic's
"divide-and-conquer algorithm based on fixed-point iteration" (arXiv:2509.08342), whose details are not public.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.allocation import split_budget
from autotune.errors import UsageError
from evaluators.moe_cache.cost_curves import LayerPasses, layer_costs
from evaluators.moe_cache.plan import (
    MAX_CPU_THRESHOLD_TOKENS,
    MAX_PREFETCH_DEPTH,
    CachePlan,
    Costs,
    Floats,
    Ints,
    fiddler_threshold,
)
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.predict import Predictor, lookahead, offered
from evaluators.moe_cache.profiled import MIB, plan_of
from evaluators.moe_cache.replay import hit_curves
from evaluators.moe_cache.timeline import TimelineResult, simulate
from evaluators.moe_cache.trace import DECODE, RoutingTrace

# Splits to choose from, whole experts first: of equally good splits the simplest is kept.
THETAS = tuple(round(1.0 - 0.05 * step, 2) for step in range(21))
QUANTA_PER_LAYER = 64

_REFINEMENTS = 300  # simulations of one refinement
_LAYERS_TRIED = 8  # layers that a refinement takes from, and gives to, at a time
_WORTH_A_MOVE = 1e-6  # relative; below, moves would chase rounding

SEARCHED_POLICIES = tuple(policy.value for policy in Policy if policy is not Policy.BELADY)


@dataclass(frozen=True)
class Memory:
    """Fast memory that a plan may use.

    Attributes:
        total_bytes: of caches and staging buffers together.
        staging_bytes: of the buffers for one layer's experts in flight; prefetching d layers ahead needs 1 + d of them.
    """

    total_bytes: int
    staging_bytes: int

    def for_caches(self, prefetch_depth: int) -> int:
        """Bytes left for the caches; negative where not even the staging buffers fit."""
        return self.total_bytes - (1 + prefetch_depth) * self.staging_bytes


@dataclass(frozen=True)
class Outer:
    """The settings that the iteration is run for, one start each.

    Attributes:
        predictor: of prefetches; None for the first that the trace offers.
    """

    policy: str
    prefetch_depth: int
    cpu_threshold_tokens: int = 0
    predictor: Predictor | None = None

    @property
    def name(self) -> str:
        cpu = f" cpu<={self.cpu_threshold_tokens}" if self.cpu_threshold_tokens else ""
        return f"{self.policy} prefetch={self.prefetch_depth}{cpu}{f' {self.predictor}' if self.predictor else ''}"


_Move = Callable[[CachePlan], CachePlan | None]


class CacheSolver:
    """A `FixedPointMap` for one trace, machine and memory.

    The coupling is ``(2 L,)`` ms: for every layer the link time that prefetches for it have before its router is known, and
    how long the link is then still busy with what it began.

    Args:
        thetas: splits to choose from.
        quanta: shares of a layer's experts in which budgets are given away.
        max_prefetch_depth: 0 to 3.
        policies: eviction policies to iterate for.
    """

    def __init__(
        self,
        trace: RoutingTrace,
        costs: Costs,
        memory: Memory,
        *,
        thetas: Sequence[float] = THETAS,
        quanta: int = QUANTA_PER_LAYER,
        policies: Sequence[str] = SEARCHED_POLICIES,
        max_prefetch_depth: int = MAX_PREFETCH_DEPTH,
    ) -> None:
        self.trace = trace
        self.costs = costs
        self.memory = memory
        self.thetas = np.asarray(thetas, dtype=np.float64)
        self.quanta = quanta
        thresholds = _thresholds(trace, costs)
        self._usual, *others = offered(trace)
        self._outer = {
            outer.name: outer
            for policy in policies
            for depth in range(max_prefetch_depth + 1)
            if memory.for_caches(depth) >= 0
            for threshold in thresholds
            for predictor in ([None, *others] if depth else [None])
            for outer in [Outer(policy, depth, threshold, predictor)]
        }
        if not self._outer:
            raise UsageError(
                f"budget of {memory.total_bytes / MIB:.1f} MiB does not hold the staging buffers, "
                f"{memory.staging_bytes / MIB:.1f} MiB; give more"
            )
        self._hits: dict[str, npt.NDArray[np.int16]] = {}
        self._work: dict[int, tuple[Floats, Floats, Floats, Floats]] = {}
        self._predicted: dict[tuple[int, Predictor], tuple[Ints, Ints]] = {}
        self._starts: tuple[str, ...] | None = None

    # ------------------------------------------------------ what the engine asks for

    def starts(self) -> Sequence[str]:
        """Outer settings by their latency with equal budgets of whole experts, the shortest first.

        Each depth and threshold has one predictor there, the one that is best with the first policy: which experts are
        foreseen hardly depends on which of them leave, and all of them would take several times as long.
        """
        if self._starts is None:
            first = next(iter(self._outer.values())).policy
            latency = {outer: self._uniform_ms(outer) for outer in self._outer.values() if outer.policy == first}
            best: dict[tuple[int, int], Outer] = {}
            for outer in sorted(latency, key=lambda o: latency[o]):
                best.setdefault((outer.prefetch_depth, outer.cpu_threshold_tokens), outer)
            chosen = {
                other: latency[other] if other in latency else self._uniform_ms(other)
                for other in self._outer.values()
                if other.predictor == best[other.prefetch_depth, other.cpu_threshold_tokens].predictor
            }
            self._starts = tuple(outer.name for outer in sorted(chosen, key=lambda o: chosen[o]))
        return self._starts

    def _uniform_ms(self, outer: Outer) -> float:
        return float(self._simulate(self.uniform(outer)).latency_ms.mean())

    def initial(self, start: str) -> Floats:
        """What equal budgets of whole experts cause where nothing is demanded."""
        return _coupling(self._simulate(self.uniform(self._outer[start])), np.zeros(self.trace.n_layers))

    def apply(self, start: str, coupling: Floats) -> tuple[Floats, dict[str, Any], float]:
        """Budgets and splits that are best at this coupling; see `autotune.strategies.fixed_point.FixedPointMap`."""
        plan, demand = self.solve(self._outer[start], coupling)
        result = self._simulate(plan)
        return _coupling(result, demand), config_of(plan, self.costs), float(result.latency_ms.mean())

    def refine(self, start: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """Descend on the timeline itself, from what the separated problem decided; see `FixedPointMap`.

        A move takes a quantum from one layer to another, or a layer's split to the next; where no move helps, pairs of them
        are tried. All layers take part where there are few, else those that wait most and those that wait least. The
        first improvement is kept, and the simulations are bounded, so that the time is too.
        """
        del start
        plan = plan_of(config)
        best = float(self._simulate(plan).latency_ms.mean())
        left = _REFINEMENTS
        improved = True
        while improved and left > 0:
            improved = False
            for candidate in self._moves(plan):
                if left == 0:
                    break
                left -= 1
                latency = float(self._simulate(candidate).latency_ms.mean())
                if latency < best * (1.0 - _WORTH_A_MOVE):
                    plan, best, improved = candidate, latency, True
                    break
        return config_of(plan, self.costs), best

    def _moves(self, plan: CachePlan) -> Iterator[CachePlan]:
        """Neighbours by one move, then by two."""
        waits = self._simulate(plan).layer_exposed_ms
        by_wait = [int(layer) for layer in np.argsort(-waits, kind="stable")]
        receivers, donors = by_wait[:_LAYERS_TRIED], by_wait[::-1][:_LAYERS_TRIED]
        moves: list[_Move] = [
            partial(self._shift_quantum, receiver, donor)
            for receiver, donor in itertools.product(receivers, donors)
            if receiver != donor
        ]
        moves += [partial(self._shift_theta, layer, step) for layer in by_wait[: 2 * _LAYERS_TRIED] for step in (1, -1)]
        singles = [(move, moved) for move in moves if (moved := move(plan)) is not None]
        yield from (moved for _, moved in singles)
        for (_, moved), (second, _) in itertools.combinations(singles, 2):
            twice = second(moved)
            if twice is not None:
                yield twice

    def _shift_quantum(self, receiver: int, donor: int, plan: CachePlan) -> CachePlan | None:
        step = math.floor(self._quantum(plan.prefetch_depth)[0])
        if not plan.budget_bytes[donor] >= step > 0:
            return None
        budgets = list(plan.budget_bytes)
        budgets[receiver] += step
        budgets[donor] -= step
        return replace(plan, budget_bytes=tuple(budgets))

    def _shift_theta(self, layer: int, step: int, plan: CachePlan) -> CachePlan | None:
        index = int(np.argmin(np.abs(self.thetas - plan.theta[layer]))) + step
        if not 0 <= index < len(self.thetas):
            return None
        theta = list(plan.theta)
        theta[layer] = float(self.thetas[index])
        return replace(plan, theta=tuple(theta))

    # ------------------------------------------------------------------- the pieces

    def uniform(self, outer: Outer, theta: float = 1.0) -> CachePlan:
        """Equal budgets for all layers and one split."""
        layers = self.trace.n_layers
        share = max(0, self.memory.for_caches(outer.prefetch_depth)) // layers
        return CachePlan(
            budget_bytes=(share,) * layers,
            theta=(theta,) * layers,
            policy=outer.policy,
            prefetch_depth=outer.prefetch_depth,
            cpu_threshold_tokens=outer.cpu_threshold_tokens,
            predictor=outer.predictor or self._usual,
        )

    def solve(self, outer: Outer, coupling: Floats) -> tuple[CachePlan, Floats]:
        """The exact optimum of the separated problem, and ``(L,)`` ms that each layer then demands of the link."""
        windows, backlogs = np.split(np.asarray(coupling, dtype=np.float64), 2)
        quantum, count = self._quantum(outer.prefetch_depth)
        tables = [
            self._layer_tables(outer, layer, float(windows[layer]), float(backlogs[layer]), quantum)
            for layer in range(self.trace.n_layers)
        ]
        shares, _ = split_budget([layer_ms.min(axis=1) for layer_ms, _ in tables], count)
        chosen = [int(np.argmin(layer_ms[share])) for (layer_ms, _), share in zip(tables, shares, strict=True)]
        demand = [demand_ms[q, s] for (_, demand_ms), q, s in zip(tables, shares, chosen, strict=True)]
        plan = CachePlan(
            budget_bytes=tuple(math.floor(share * quantum) for share in shares),
            theta=tuple(float(self.thetas[index]) for index in chosen),
            policy=outer.policy,
            prefetch_depth=outer.prefetch_depth,
            cpu_threshold_tokens=outer.cpu_threshold_tokens,
            predictor=outer.predictor or self._usual,
        )
        return plan, np.asarray(demand)

    def _quantum(self, prefetch_depth: int) -> tuple[float, int]:
        """Bytes of a quantum and how many there are: all of the memory, each at most a layer's experts / `quanta`."""
        available = self.memory.for_caches(prefetch_depth)
        largest = int(self.costs.expert_bytes.max()) * self.trace.n_experts
        count = max(1, math.ceil(available / (largest / self.quanta)))
        return available / count, count

    def _layer_tables(
        self, outer: Outer, layer: int, window_ms: float, backlog_ms: float, quantum: float
    ) -> tuple[Floats, Floats]:
        """``(quanta + 1, splits)`` each: mean ms per decode pass of a layer's experts and of its demand, by share and split."""
        size = float(self.costs.expert_bytes[layer])
        n_experts = self.trace.n_experts
        shares = np.arange(math.ceil(size * n_experts / quantum) + 1 if quantum > 0 else 1)
        # Rounded down as the plan's budget will be, so that no slot is counted that the bytes do not hold.
        budget = np.floor(shares * quantum)[:, None]
        slot = self.thetas * size
        fitting = np.divide(budget, slot, out=np.zeros((len(shares), len(slot))), where=slot > 0)
        slots = np.minimum(np.floor(fitting + 1e-9), n_experts).astype(np.int64)
        rest = (1.0 - self.thetas) * size
        layer_ms, demand_ms = np.empty(slots.shape), np.empty(slots.shape)
        layer_costs(
            self._layer_passes(outer, layer),
            slots,
            self.thetas,
            float(self.costs.transfer_ms(size)),
            np.where(rest > 0, self.costs.transfer_ms(rest), 0.0),
            window_ms if outer.prefetch_depth else 0.0,
            backlog_ms if outer.prefetch_depth else 0.0,
            layer_ms,
            demand_ms,
        )
        return layer_ms, demand_ms

    def _layer_passes(self, outer: Outer, layer: int) -> LayerPasses:
        if outer.policy not in self._hits:
            self._hits[outer.policy] = hit_curves(self.trace.passes(), outer.policy)
        right, wrong = self._predictions(outer.prefetch_depth, outer.predictor or self._usual)
        hits = np.ascontiguousarray(self._hits[outer.policy][:, layer])
        work = self._pass_work(outer.cpu_threshold_tokens)
        lookups, mean_ms, slow_share, slow_ms = (np.ascontiguousarray(part[:, layer]) for part in work)
        return LayerPasses(
            lookups=lookups.astype(np.int64),
            right=right[:, layer].copy(),
            wrong=wrong[:, layer].copy(),
            hits=hits,
            mean_ms=mean_ms,
            slow_share=slow_share,
            slow_ms=slow_ms,
        )

    def _pass_work(self, cpu_threshold_tokens: int) -> tuple[Floats, Floats, Floats, Floats]:
        """``(P, L)`` each, of the decode passes: `LayerPasses`' lookups, mean_ms, slow_share and slow_ms."""
        if cpu_threshold_tokens not in self._work:
            batches = self.trace.passes()
            decode = batches.pass_phase == DECODE
            layer = batches.row_of_entry % batches.n_layers
            few = batches.tokens <= cpu_threshold_tokens
            slow = self.costs.expert_ms if self.costs.cpu_expert_ms is None else self.costs.cpu_expert_ms

            def sums(of_entry: npt.NDArray[Any]) -> Floats:
                by_row = np.bincount(batches.row_of_entry, of_entry, len(batches.offsets) - 1)
                return np.asarray(by_row.reshape(-1, batches.n_layers)[decode])

            lookups, eligible = sums(np.ones(len(few))), sums(few)
            self._work[cpu_threshold_tokens] = (
                lookups,
                sums(self.costs.expert_ms[layer, batches.tokens]) / lookups,
                eligible / lookups,
                sums(few * slow[layer, batches.tokens]) / np.maximum(eligible, 1.0),
            )
        return self._work[cpu_threshold_tokens]

    def _predictions(self, depth: int, predictor: Predictor) -> tuple[Ints, Ints]:
        """``(P, L)`` counts of experts that were predicted and needed, and predicted in vain, per decode pass."""
        if (depth, predictor) not in self._predicted:
            needed = self.trace.passes()
            decode = needed.pass_phase == DECODE
            shape = (needed.n_passes, needed.n_layers)
            right = np.zeros(shape, dtype=np.int64)
            wrong = np.zeros(shape, dtype=np.int64)
            if depth:
                ahead = lookahead(self.trace, depth, predictor).batches
                keys = ahead.row_of_entry * needed.n_experts + ahead.experts
                wanted = needed.row_of_entry * needed.n_experts + needed.experts
                used = np.isin(keys, wanted)
                right = np.bincount(ahead.row_of_entry[used], minlength=right.size).reshape(shape)
                wrong = np.bincount(ahead.row_of_entry[~used], minlength=right.size).reshape(shape)
            self._predicted[depth, predictor] = right[decode], wrong[decode]
        return self._predicted[depth, predictor]

    def _simulate(self, plan: CachePlan) -> TimelineResult:
        return simulate(self.trace, plan, self.costs)


def _thresholds(trace: RoutingTrace, costs: Costs) -> tuple[int, ...]:
    """Tokens up to which a missing expert may run on the slow tier: never, one, and where loading becomes cheaper."""
    if costs.cpu_expert_ms is None:
        return (0,)
    batches = trace.passes()
    largest = int(batches.pass_tokens[batches.pass_phase == DECODE].max())
    return tuple(sorted({0, 1, fiddler_threshold(costs, min(largest, MAX_CPU_THRESHOLD_TOKENS))}))


def _coupling(result: TimelineResult, demand_ms: Floats) -> Floats:
    """``(2 L,)``: windows, less what the layer before demanded of the link in them, and backlogs."""
    before = np.concatenate(([0.0], demand_ms[:-1]))
    return np.concatenate((np.maximum(result.layer_window_ms - before, 0.0), result.layer_backlog_ms))


def config_of(plan: CachePlan, costs: Costs) -> dict[str, Any]:
    """The configuration of the domain `moe-cache` that means this plan."""
    config: dict[str, Any] = {
        "budget_mib": [budget / MIB for budget in plan.budget_bytes],
        "theta": list(plan.theta),
        "policy": plan.policy,
        "prefetch_depth": plan.prefetch_depth,
    }
    if plan.prefetch_depth:
        config["predictor"] = str(plan.predictor)
    if plan.policy == Policy.LCP:
        config |= {"lcp_rho": plan.lcp_rho, "lcp_omega": plan.lcp_omega}
    if costs.cpu_expert_ms is not None:
        config["cpu_threshold_tokens"] = plan.cpu_threshold_tokens
    return config
