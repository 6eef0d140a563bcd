"""The adversary of `fixed-point` on moe-cache: annealed local search by random moves, from its own answers.

It is given what the strategy is not: a hundred times the evaluations, moves of any pair of layers under every policy and
prefetch depth, and every answer of the solver to begin with. Whatever it finds below the solver's best was there to be found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluators.moe_cache.latency import Latency, latency_like
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.solver import CacheSolver

_WARM = 3e-4  # first temperature, as a share of the latency; falls to a hundredth
_GO_ON = 4
_OMEGA_EVERY = 100  # moves; each replays the trace for new ranks
_THETA_STEPS = (-0.2, -0.1, -0.05, 0.05, 0.1, 0.2)
_SLOTS = (1, 1, 1, 2, 3, 5)


@dataclass(frozen=True)
class Found:
    """The best plan, its mean ms of a decode pass, and how often the timeline was asked."""

    plan: CachePlan
    latency_ms: float
    evaluations: int


def attack(solver: CacheSolver, answers: Sequence[CachePlan], evaluations: int, seed: int) -> Found:
    """Search from the solver's answers, and from equal budgets under every other setting; the best four go on.

    Args:
        evaluations: in all; a quarter of them decide who goes on.
    """
    rng = np.random.default_rng(seed)
    starts = [*answers, *(solver.uniform(outer) for outer in solver.outer.values())]
    first = [_anneal(solver, plan, max(2, evaluations // 4 // len(starts)), rng) for plan in starts]
    spent = sum(f.evaluations for f in first)
    best = sorted(first, key=lambda f: f.latency_ms)[:_GO_ON]
    share = max(2, (evaluations - spent) // (1 + len(best)))
    found = [*best, *(_anneal(solver, f.plan, share, rng) for f in [best[0], *best])]
    last = min(found, key=lambda f: f.latency_ms)
    return Found(last.plan, last.latency_ms, spent + sum(f.evaluations for f in found[len(best) :]))


def _anneal(solver: CacheSolver, start: CachePlan, evaluations: int, rng: np.random.Generator) -> Found:
    latency = latency_like(solver.trace, solver.costs, start)
    plan = best_plan = start
    now = best = latency(start)
    for spent in range(1, evaluations):
        warmth = _WARM * best * 0.01 ** (spent / evaluations)
        tuned = plan.policy == Policy.LCP and spent % _OMEGA_EVERY == 0
        moved = _new_omega(plan, rng) if tuned else _moved(solver, plan, rng)
        asked: Latency = latency_like(solver.trace, solver.costs, moved) if tuned else latency
        found = asked(moved)
        if found > now and rng.random() >= math.exp((now - found) / warmth):
            continue
        plan, now, latency = moved, found, asked
        if now < best:
            best_plan, best = plan, now
    return Found(best_plan, best, evaluations)


def _new_omega(plan: CachePlan, rng: np.random.Generator) -> CachePlan:
    return replace(plan, lcp_omega=float(np.clip(plan.lcp_omega * 2.0 ** (0.5 * rng.normal()), 1.0, 4096.0)))


def _moved(solver: CacheSolver, plan: CachePlan, rng: np.random.Generator) -> CachePlan:
    """Slots from one layer to another, or a layer's split with as many bytes or as many slots; always within the memory."""
    budgets, thetas = list(plan.budget_bytes), list(plan.theta)
    sizes = solver.costs.expert_bytes
    taker, giver = (int(layer) for layer in rng.choice(len(budgets), 2, replace=False))
    slots = plan.slots(sizes, solver.trace.n_experts)
    if rng.random() < 0.3:
        thetas[taker] = round(min(1.0, max(0.0, thetas[taker] + rng.choice(_THETA_STEPS))), 2)
        wanted = budgets[taker] if rng.random() < 0.5 else math.ceil(slots[taker] * thetas[taker] * sizes[taker])
    else:
        wanted = budgets[taker] + math.ceil(rng.choice(_SLOTS) * max(thetas[taker], 0.05) * sizes[taker])
    free = solver.memory.for_caches(plan.prefetch_depth) - sum(budgets)
    lacking = max(0, wanted - budgets[taker] - free)
    if lacking > budgets[giver]:
        wanted -= lacking - budgets[giver]
        lacking = budgets[giver]
    surplus = max(0, budgets[taker] - wanted)
    budgets[taker] = wanted
    budgets[giver] += surplus - lacking
    return replace(plan, budget_bytes=tuple(int(b) for b in budgets), theta=tuple(thetas))
