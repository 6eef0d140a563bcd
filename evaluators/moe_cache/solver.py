"""The domain's side of the strategy `fixed-point`: budgets and splits by divide and conquer, windows by iteration.

Given how much link time prefetches for each layer can use (the coupling), layers are independent: each has a cost at every
share of the budget, the smallest over its splits, and the (min,+) merge of these curves gives the exact split of the
budget. The plan's timeline then tells the windows that it really causes, and a descent on it (`polish.py`) mends what the
separated problem left out. A reconstruction in the spirit of MoEpic's
"divide-and-conquer algorithm based on fixed-point iteration" (arXiv:2509.08342), whose details are not public: what is
separated, the descent, and which settings are tried are our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autotune.allocation import split_budget
from autotune.errors import UsageError
from evaluators.moe_cache.latency import latency_like
from evaluators.moe_cache.layer_tables import LayerTables, Outer
from evaluators.moe_cache.plan import (
    MAX_CPU_THRESHOLD_TOKENS,
    MAX_PREFETCH_DEPTH,
    CachePlan,
    Costs,
    Floats,
    Ints,
    fiddler_threshold,
)
from evaluators.moe_cache.policies import LCP_OMEGA, Policy
from evaluators.moe_cache.polish import Room, polish
from evaluators.moe_cache.predict import offered
from evaluators.moe_cache.profiled import MIB, plan_of
from evaluators.moe_cache.timeline import TimelineResult, simulate
from evaluators.moe_cache.trace import DECODE, RoutingTrace

# Splits to choose from, whole experts first: of equally good splits the simplest is kept.
THETAS = tuple(round(1.0 - 0.05 * step, 2) for step in range(21))
QUANTA_PER_LAYER = 64

# Constants of `lcp` to start from, over the range in which it turns from LRU into LFU; only ln(rho) / omega matters.
LCP_OMEGAS = (8.0, 32.0, LCP_OMEGA, 512.0)
_OMEGA_RANGE = (1.0, 4096.0)
_OMEGA_STEP = 1.5  # first factor of its descent

_REFINEMENTS = 600  # plans that a refinement asks the timeline about
_PROMISING = 0.1  # of the latency: starts whose equal budgets are further behind are not solved at all ...
_SOLVED = 12  # ... nor are more than so many
_CLOSE = 0.03  # of the latency: starts whose first solution is further behind are not gone on with

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


class CacheSolver:
    """A `FixedPointMap` for one trace, machine and memory.

    The coupling is ``(2 L,)`` ms: for every layer the link time that prefetches for it have before its router is known, and
    how long the link is then still busy with what it began.

    What it may decide can be narrowed, to learn what a mechanism is worth, or for a baseline that lacks it: one policy, one
    split (1 is cache-only, 0 prefetch-only), no prefetching, equal budgets, nothing on the slow tier's processor.

    Args:
        thetas: splits to choose from.
        quanta: shares of a layer in which budgets are given away, at least; whole experts are always among them.
        policies: eviction policies to iterate for.
        lcp_omegas: of the policy `lcp`, to iterate for; the refinement goes on from there if there are several.
        min_prefetch_depth, max_prefetch_depth: 0 to 3.
        uniform_budgets: whether all layers get the same bytes.
        slow_tier: whether missing experts may run on the slow tier's processor, where it has one.

    Attributes:
        evaluations: plans that were simulated so far.
        outer: the settings to choose from, by name.
        tables: what every layer costs in the separated problem.

    Raises:
        UsageError: for settings without anything to choose, or a memory that does not hold the staging buffers.
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
        lcp_omegas: Sequence[float] = LCP_OMEGAS,
        min_prefetch_depth: int = 0,
        max_prefetch_depth: int = MAX_PREFETCH_DEPTH,
        uniform_budgets: bool = False,
        slow_tier: bool = True,
    ) -> None:
        _check_freedom(thetas, policies, lcp_omegas, (min_prefetch_depth, max_prefetch_depth))
        self.trace = trace
        self.costs = costs
        self.memory = memory
        self.thetas = np.asarray(sorted(thetas, reverse=True), dtype=np.float64)
        self.quanta = quanta
        self.uniform_budgets = uniform_budgets
        self.evaluations = 0
        self._omegas = tuple(lcp_omegas)
        thresholds = _thresholds(trace, costs) if slow_tier else (0,)
        self.tables = LayerTables(trace, costs, self.thetas)
        self._usual, *others = offered(trace)
        self.outer = {
            outer.name: outer
            for policy in policies
            for depth in range(min_prefetch_depth, max_prefetch_depth + 1)
            if memory.for_caches(depth) >= 0
            for threshold in thresholds
            for predictor in ([None, *others] if depth else [None])
            for omega in (self._omegas if policy == Policy.LCP else (LCP_OMEGA,))
            for outer in [Outer(policy, depth, threshold, predictor, omega)]
        }
        if not self.outer:
            raise UsageError(
                f"budget of {memory.total_bytes / MIB:.1f} MiB does not hold the staging buffers, "
                f"{(1 + min_prefetch_depth) * memory.staging_bytes / MIB:.1f} MiB; give more"
            )
        self._starts: tuple[str, ...] | None = None
        self._applied: dict[tuple[str, bytes], tuple[Floats, dict[str, Any], float]] = {}

    # ------------------------------------------------------ what the engine asks for

    def starts(self) -> Sequence[str]:
        """Outer settings by the latency of their first solution, the shortest first: of each prefetch depth and threshold one.

        Those far behind are left out. Each depth and threshold has one predictor, the one that is best with the first policy
        and equal budgets: which experts are foreseen hardly depends on which of them leave, and all of them would take
        several times as long.
        """
        if self._starts is None:
            equal = self._with_one_predictor()
            likely = self._first_of(equal, lambda outer: replace(outer, lcp_omega=LCP_OMEGA), _PROMISING)[:_SOLVED]
            solved = {name: min(equal[name], self.apply(name, self.initial(name))[2]) for name in likely}
            self._starts = self._first_of(solved, lambda outer: replace(outer, lcp_omega=LCP_OMEGA, policy=""), _CLOSE)
        return self._starts

    def _with_one_predictor(self) -> dict[str, float]:
        """Latency with equal budgets, of the outer settings with the predictor that is best at their depth and threshold."""
        first = next(iter(self.outer.values()))
        alike = [o for o in self.outer.values() if (o.policy, o.lcp_omega) == (first.policy, first.lcp_omega)]
        latency = {outer: self._latency(self._equal(outer)) for outer in alike}
        best: dict[tuple[int, int], Outer] = {}
        for outer in sorted(latency, key=lambda o: latency[o]):
            best.setdefault((outer.prefetch_depth, outer.cpu_threshold_tokens), outer)
        return {
            name: latency[outer] if outer in latency else self._latency(self._equal(outer))
            for name, outer in self.outer.items()
            if outer.predictor == best[outer.prefetch_depth, outer.cpu_threshold_tokens].predictor
        }

    def _first_of(self, latency: Mapping[str, float], kind: Callable[[Outer], Outer], within: float) -> tuple[str, ...]:
        """The shortest of every kind, in order, no further than a share behind the first of all.

        Kinds leave out what the refinement descends on: the constant of `lcp` and, once it is known what is solved well,
        the policy.
        """
        ranked = sorted(latency, key=lambda name: latency[name])
        first: dict[Outer, str] = {}
        for name in ranked:
            first.setdefault(kind(self.outer[name]), name)
        return tuple(name for name in first.values() if latency[name] <= (1.0 + within) * latency[ranked[0]])

    def initial(self, start: str) -> Floats:
        """What equal budgets of whole experts cause where nothing is demanded."""
        outer = self.outer[start]
        return self._coupling(outer, self._simulate(self.uniform(outer)), np.zeros(self.trace.n_layers))

    def apply(self, start: str, coupling: Floats) -> tuple[Floats, dict[str, Any], float]:
        """Budgets and splits that are best at this coupling; see `autotune.strategies.fixed_point.FixedPointMap`."""
        key = (start, np.asarray(coupling, dtype=np.float64).tobytes())
        if key not in self._applied:
            outer = self.outer[start]
            plan, demand = self.solve(outer, coupling)
            result = self._simulate(plan)
            image = self._coupling(outer, result, demand)
            self._applied[key] = image, config_of(plan, self.costs), float(result.latency_ms.mean())
        return self._applied[key]

    def refine(self, start: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """Descend on the timeline itself, from what the separated problem decided; see `FixedPointMap` and `polish.py`.

        By turns the policy, and budgets and splits, until neither changes; from equal budgets where these are better than what
        was decided. The simulations are bounded, so that the time is too.
        """
        end = self.evaluations + _REFINEMENTS
        given = min(plan_of(config), self._equal(self.outer[start]), key=self._latency)
        plan, best = self._polished(self._better_policy(given), end - self.evaluations)
        while self.evaluations < end:
            other = self._better_policy(plan)
            if (other.policy, other.lcp_omega) == (plan.policy, plan.lcp_omega):
                break
            plan, best = self._polished(other, end - self.evaluations)
        return config_of(plan, self.costs), best

    def descend(self, config: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """Improve budgets and splits alone, of any configuration: `refine` for one that no start of this solver made.

        Returns:
            The best found, and its mean ms of a decode pass; what was given where nothing better was.
        """
        given = plan_of(config)
        before = self._latency(given)
        plan, best = self._polished(given, _REFINEMENTS)
        return config_of(plan if best < before else given, self.costs), min(best, before)

    def start_like(self, config: Mapping[str, Any]) -> str:
        """The outer settings of a configuration, by name; of `lcp` those with the nearest constant.

        Raises:
            UsageError: where this solver has none that are like it.
        """
        plan = plan_of(config)
        alike = self._alike(plan, policy=plan.policy)
        if not alike:
            raise UsageError(
                f"the solver tries no policy {plan.policy!r} with prefetch_depth={plan.prefetch_depth}, "
                f"predictor={str(plan.predictor)!r} and cpu_threshold_tokens={plan.cpu_threshold_tokens}; give one of its own"
            )
        return min(alike, key=lambda outer: abs(math.log(outer.lcp_omega / plan.lcp_omega))).name

    def _alike(self, plan: CachePlan, policy: str | None = None) -> list[Outer]:
        """Outer settings that prefetch as a plan does and have its threshold, of one policy or of all."""
        return [
            outer
            for outer in self.outer.values()
            if (outer.prefetch_depth, outer.cpu_threshold_tokens) == (plan.prefetch_depth, plan.cpu_threshold_tokens)
            and (plan.prefetch_depth == 0 or (outer.predictor or self._usual) == plan.predictor)
            and policy in (None, outer.policy)
        ]

    def _polished(self, plan: CachePlan, evaluations: int) -> tuple[CachePlan, float]:
        latency = latency_like(self.trace, self.costs, plan)

        def counted(asked: CachePlan) -> float:
            self.evaluations += 1
            return latency(asked)

        room = Room(
            expert_bytes=self.costs.expert_bytes,
            n_experts=self.trace.n_experts,
            cache_bytes=self.memory.for_caches(plan.prefetch_depth),
            thetas=tuple(float(theta) for theta in self.thetas),
            uniform_budgets=self.uniform_budgets,
        )
        return polish(plan, counted, room, max(1, evaluations))

    def _better_policy(self, plan: CachePlan) -> CachePlan:
        """The best policy for these budgets and splits; of `lcp` with a constant that a descent finds."""
        # The plan itself first: of equally good ones it stays.
        tried = [plan] + [replace(plan, policy=outer.policy, lcp_omega=outer.lcp_omega) for outer in self._alike(plan)]
        best = min(tried, key=self._latency)
        return self._better_omega(best) if best.policy == Policy.LCP and len(self._omegas) > 1 else best

    def _better_omega(self, plan: CachePlan) -> CachePlan:
        """Descent by ever smaller factors."""
        best, factor = self._latency(plan), _OMEGA_STEP
        while factor > 1.1:
            tried = [
                replace(plan, lcp_omega=min(max(plan.lcp_omega * by, _OMEGA_RANGE[0]), _OMEGA_RANGE[1]))
                for by in (1.0 / factor, factor)
            ]
            latency, candidate = min(((self._latency(p), p) for p in tried), key=lambda pair: pair[0])
            if latency < best:
                best, plan = latency, candidate
            else:
                factor = math.sqrt(factor)
        return plan

    # ------------------------------------------------------------------- the pieces

    def uniform(self, outer: Outer, theta: float = 1.0) -> CachePlan:
        """Equal budgets for all layers and one split."""
        layers = self.trace.n_layers
        share = self._share(outer.prefetch_depth)
        return CachePlan(
            budget_bytes=(share,) * layers,
            theta=(theta,) * layers,
            policy=outer.policy,
            prefetch_depth=outer.prefetch_depth,
            cpu_threshold_tokens=outer.cpu_threshold_tokens,
            lcp_omega=outer.lcp_omega,
            predictor=outer.predictor or self._usual,
        )

    def solve(self, outer: Outer, coupling: Floats) -> tuple[CachePlan, Floats]:
        """The exact optimum of the separated problem, and ``(L,)`` ms that each layer then demands of the link."""
        windows, backlogs = np.split(np.asarray(coupling, dtype=np.float64), 2)
        layers = range(self.trace.n_layers)
        if self.uniform_budgets:
            budgets = np.array([self._share(outer.prefetch_depth)])
        else:
            quantum, count = self._quantum(outer.prefetch_depth)
            budgets = self._budgets(quantum)
        tables = [
            self.tables.of(outer, layer, float(windows[layer]), float(backlogs[layer]), budgets) for layer in layers
        ]
        shares: Sequence[int] | Ints = [0] * len(layers)
        if not self.uniform_budgets:
            shares, _ = split_budget([layer_ms.min(axis=1) for layer_ms, _ in tables], count)
        chosen = [int(np.argmin(layer_ms[share])) for (layer_ms, _), share in zip(tables, shares, strict=True)]
        demand = [demand_ms[q, s] for (_, demand_ms), q, s in zip(tables, shares, chosen, strict=True)]
        plan = CachePlan(
            budget_bytes=tuple(int(budgets[share]) for share in shares),
            theta=tuple(float(self.thetas[index]) for index in chosen),
            policy=outer.policy,
            prefetch_depth=outer.prefetch_depth,
            cpu_threshold_tokens=outer.cpu_threshold_tokens,
            lcp_omega=outer.lcp_omega,
            predictor=outer.predictor or self._usual,
        )
        return plan, np.asarray(demand)

    def _equal(self, outer: Outer) -> CachePlan:
        """Equal budgets for all layers, with the largest split that may be chosen."""
        return self.uniform(outer, float(self.thetas[0]))

    def _share(self, prefetch_depth: int) -> int:
        """Bytes of every layer where all get the same."""
        return max(0, self.memory.for_caches(prefetch_depth)) // self.trace.n_layers

    def _quantum(self, prefetch_depth: int) -> tuple[float, int]:
        """Bytes of a quantum, and how many the memory holds: so many to an expert that a layer has `quanta` at least."""
        quantum = int(self.costs.expert_bytes.max()) / math.ceil(self.quanta / self.trace.n_experts)
        return quantum, math.floor(self.memory.for_caches(prefetch_depth) / quantum)

    def _budgets(self, quantum: float) -> Ints:
        """Bytes of every share of a layer, none to all of its experts, rounded down."""
        shares = np.arange(round(float(self.costs.expert_bytes.max()) * self.trace.n_experts / quantum) + 1)
        budgets: Ints = np.floor(shares * quantum).astype(np.int64)
        return budgets

    def _simulate(self, plan: CachePlan) -> TimelineResult:
        self.evaluations += 1
        return simulate(self.trace, plan, self.costs)

    def _latency(self, plan: CachePlan) -> float:
        self.evaluations += 1
        return latency_like(self.trace, self.costs, plan)(plan)

    def _coupling(self, outer: Outer, result: TimelineResult, demand_ms: Floats) -> Floats:
        """``(2 L,)``: windows, less what the layer before demanded of the link in them, and backlogs.

        Without prefetching nothing couples the layers, and there is nothing to iterate.
        """
        if outer.prefetch_depth == 0:
            return np.zeros(2 * self.trace.n_layers)
        before = np.concatenate(([0.0], demand_ms[:-1]))
        return np.concatenate((np.maximum(result.layer_window_ms - before, 0.0), result.layer_backlog_ms))


def _check_freedom(
    thetas: Sequence[float], policies: Sequence[str], lcp_omegas: Sequence[float], depths: tuple[int, int]
) -> None:
    for name, given in (("thetas", thetas), ("policies", policies), ("lcp_omegas", lcp_omegas)):
        if not given:
            raise UsageError(f"{name} is empty, so the solver has nothing to choose; give one value at least")
    for policy in policies:
        Policy.parse(policy)
    for theta in thetas:
        if not 0.0 <= theta <= 1.0:
            raise UsageError(f"thetas holds {theta}; a split lies between 0 and 1")
    if not 0 <= depths[0] <= depths[1] <= MAX_PREFETCH_DEPTH:
        raise UsageError(
            f"min_prefetch_depth={depths[0]} and max_prefetch_depth={depths[1]} leave no depth; "
            f"give 0 to {MAX_PREFETCH_DEPTH}, the lesser first"
        )


def _thresholds(trace: RoutingTrace, costs: Costs) -> tuple[int, ...]:
    """Tokens up to which a missing expert may run on the slow tier: never, one, and where loading becomes cheaper."""
    if costs.cpu_expert_ms is None:
        return (0,)
    batches = trace.passes()
    largest = int(batches.pass_tokens[batches.pass_phase == DECODE].max())
    return tuple(sorted({0, 1, fiddler_threshold(costs, min(largest, MAX_CPU_THRESHOLD_TOKENS))}))


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
