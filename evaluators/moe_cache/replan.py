"""A tuned configuration under other routing: what it costs there, what would be better, and whether that is worth a change.

All latencies are of the profiled evaluator: means over generated tokens of the timeline (`timeline.py`), nothing is measured. A
plan that is found on a trace and judged by it has seen what it is asked. Choice and decision therefore rest on the *held-out*
gain: every turn's generated tokens are halved, a plan is found on either half with the same policy and prefetching, and
judged by the tokens of the other half, as the present plan is (two-fold cross-validation; Stone, Cross-validatory choice and
assessment of statistical predictions, J. R. Stat. Soc. B 36, 1974).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from autotune.errors import UsageError
from autotune.strategies.fixed_point import iterate, refine
from evaluators.moe_cache.drift import Drift, drift
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.profiled import plan_of
from evaluators.moe_cache.replay import token_counts
from evaluators.moe_cache.solver import SEARCHED_POLICIES, CacheSolver
from evaluators.moe_cache.token_blocks import Bools, Floats
from evaluators.moe_cache.trace import DECODE, RoutingTrace
from evaluators.moe_cache.workload import Workload

THRESHOLD = 0.02  # below, other prompts of the same kind may well turn a gain into a loss
STARTS = 4  # settings of policy and prefetching, the most promising first
_LEAST_HALF = 8  # decode passes; fewer say nothing of others
_WORTH_REFINING = 0.03  # share of the best latency; a refinement rarely gains more
_SETTINGS = ("policy", "lcp_rho", "lcp_omega", "prefetch_depth", "predictor", "cpu_threshold_tokens")
DYNAMIC_POLICIES = tuple(policy for policy in SEARCHED_POLICIES if policy != Policy.STATIC)
_PRESENT = "the present configuration, refined"


@dataclass(frozen=True)
class LayerChange:
    """One layer before and after.

    Attributes:
        slots_before, slots_after: experts (their top shares theta) that its cache holds.
        placed_anew: experts that the policy `static` holds after and did not before; None unless it is the policy of both.
    """

    layer: int
    budget_mib_before: float
    budget_mib_after: float
    slots_before: int
    slots_after: int
    theta_before: float
    theta_after: float
    placed_anew: int | None

    @property
    def changes(self) -> bool:
        """Whether anything but bytes that hold no further expert differs."""
        return self.slots_before != self.slots_after or self.theta_before != self.theta_after or bool(self.placed_anew)


@dataclass(frozen=True, eq=False)
class Replan:
    """What other routing asks of a configuration.

    Attributes:
        drift: whether the routing differs from that which the configuration was tuned on.
        present: the configuration.
        tuned_ms: its latency on the routing that it was tuned on.
        present_ms: its latency on the other; the policy `static` keeps the experts that it had placed.
        found, found_ms: the configuration found for the other routing, and its latency there, in hindsight. Of several
            the one with the largest held-out gain.
        found_by: the start of `fixed-point` that found it, or that it is the present one, refined.
        held_out_gain: what plans found so gain over the present one on tokens that they were not found on; None where the
            trace has too few.
        threshold: the gain from which a change is recommended.
        layers: every layer, before and after.
        settings: those of the whole plan that differ, before and after; None where a setting has no meaning.
    """

    drift: Drift
    present: Mapping[str, Any]
    tuned_ms: float
    present_ms: float
    found: Mapping[str, Any]
    found_ms: float
    found_by: str
    held_out_gain: float | None
    threshold: float
    layers: tuple[LayerChange, ...]
    settings: Mapping[str, tuple[Any, Any]]

    @property
    def gain(self) -> float:
        """Share of the present latency that the found configuration saves, in hindsight."""
        return 1.0 - self.found_ms / self.present_ms

    @property
    def changed(self) -> bool:
        """Whether the routing is worth another configuration: by the held-out gain, in hindsight where there is none."""
        return (self.gain if self.held_out_gain is None else self.held_out_gain) >= self.threshold

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "recommendation": "replan" if self.changed else "keep",
            "drift": self.drift.to_dict(),
            "tuned_ms": self.tuned_ms,
            "present_ms": self.present_ms,
            "found_ms": self.found_ms,
            "found_by": self.found_by,
            "saved_ms": self.present_ms - self.found_ms,
            "gain": self.gain,
            "held_out_gain": self.held_out_gain,
            "threshold": self.threshold,
            "present": dict(self.present),
            "found": dict(self.found),
            "settings": {name: {"before": a, "after": b} for name, (a, b) in self.settings.items()},
            "layers": [asdict(layer) for layer in self.layers],
        }


def replan(
    before: Workload,
    after: Workload,
    present: Mapping[str, Any],
    *,
    threshold: float = THRESHOLD,
    starts: int = STARTS,
    found_drift: Drift | None = None,
) -> Replan:
    """Plan anew for other routing, and compare.

    Args:
        before, after: the routing that `present` was tuned on, and the other; see `Workload.on`.
        present: a configuration of the domain `moe-cache`.
        threshold: least gain, as a share of the present latency, that is worth a change.
        starts: settings of policy and prefetching that `fixed-point` is run for.
        found_drift: what `drift` says of the two, where it was asked with other settings than its own.

    Raises:
        UsageError: for a threshold or a number of starts that cannot be.
    """
    if not 0.0 <= threshold < 1.0:
        raise UsageError(f"threshold is {threshold}; a gain worth a change is a share from 0 to below 1, such as 2%")
    if starts < 1:
        raise UsageError(f"starts is {starts}; run fixed-point for one at least")
    placed = before.popularity
    present_ms = after.latency_ms(present, placed)
    found = candidates(after, present, starts)
    held_out = _held_out_gains(after, present, present_ms, found)
    # Of equal ones the first, which changes least.
    best = max(range(len(found)), key=lambda i: -found[i].found_ms if held_out is None else held_out[i])
    chosen = found[best]
    return Replan(
        drift=drift(before.routing, after.routing) if found_drift is None else found_drift,
        present=present,
        tuned_ms=float(before.latency_ms(present).mean()),
        present_ms=float(present_ms.mean()),
        found=chosen.config,
        found_ms=chosen.found_ms,
        found_by=chosen.start or _PRESENT,
        held_out_gain=None if held_out is None else held_out[best],
        threshold=threshold,
        layers=_layers(before, after, present, chosen.config),
        settings={
            name: (present.get(name), chosen.config.get(name))
            for name in _SETTINGS
            if present.get(name) != chosen.config.get(name)
        },
    )


@dataclass(frozen=True, eq=False)
class Candidate:
    """A configuration found for a workload.

    Attributes:
        found_ms: its latency in hindsight.
        start: that found it, None for the present.
    """

    config: Mapping[str, Any]
    found_ms: float
    start: str | None


def candidates(workload: Workload, present: Mapping[str, Any], starts: int) -> tuple[Candidate, ...]:
    """The present configuration refined, the best that `fixed-point` finds, and the best that does not place statically.

    The last is there because a placement read off a trace looks better on it than on any other.
    """
    refined, refined_ms = workload.solver().descend(present)
    found = [Candidate(refined, refined_ms, None), fixed_point(workload.solver(), starts)]
    if found[-1].config["policy"] == Policy.STATIC:
        found.append(fixed_point(workload.solver(DYNAMIC_POLICIES), starts))
    return tuple(found)


def fixed_point(solver: CacheSolver, starts: int) -> Candidate:
    """The best of the first starts, as the strategy `fixed-point` solves them: refined where that could make it the best."""
    runs = [iterate(solver, start) for start in solver.starts()[:starts]]
    ahead = min(run.best_iterate.loss for run in runs)
    runs = [refine(solver, run) if run.best_iterate.loss <= (1.0 + _WORTH_REFINING) * ahead else run for run in runs]
    best = min(runs, key=lambda run: run.best.loss)
    return Candidate(best.best.config, best.best.loss, best.start)


def _held_out_gains(
    after: Workload, present: Mapping[str, Any], present_ms: Floats, found: Sequence[Candidate]
) -> list[float] | None:
    """What plans found as the candidates were gain on passes that they were not found on; None where these are too few."""
    trace = after.trace
    late = _late_half(trace)
    decode = trace.phase == DECODE
    of_pass = np.unique(trace.token_pass[decode], return_index=True)[1]  # a token of every decode pass
    late_pass = late[decode][of_pass]
    if min(np.count_nonzero(late_pass), np.count_nonzero(~late_pass)) < _LEAST_HALF:
        return None
    saved = np.zeros(len(found))
    for learns_late in (False, True):
        learned = trace.keep(late if learns_late else ~late)  # the prompts belong to the first half
        popularity = token_counts(learned.passes())
        for index, one in enumerate(found):
            # A refinement may change the policy: what it settled on is what is planned with again.
            solver = after.solver((one.config["policy"],), learned)
            if one.start is None:
                planned = solver.descend(present)[0]
            else:
                planned = refine(solver, iterate(solver, solver.start_like(one.config))).best.config
            found_ms = after.latency_ms(planned, popularity)
            saved[index] += float((present_ms - found_ms)[late_pass != learns_late].sum())
    return [float(gain) for gain in saved / float(present_ms.sum())]


def _late_half(trace: RoutingTrace) -> Bools:
    """``(T,)``: whether a token is in the second half of its turn's decode passes."""
    late = np.zeros(trace.n_tokens, dtype=bool)
    for turn in np.unique(trace.turn):
        own = (trace.turn == turn) & (trace.phase == DECODE)
        passes = np.unique(trace.token_pass[own])
        late |= own & np.isin(trace.token_pass, passes[len(passes) // 2 :])
    return late


def _layers(
    before: Workload, after: Workload, present: Mapping[str, Any], found: Mapping[str, Any]
) -> tuple[LayerChange, ...]:
    plans = [plan_of(present), plan_of(found)]
    slots = [plan.slots(after.expert_bytes, after.trace.n_experts) for plan in plans]
    orders = [workload.subject.order for workload in (before, after)]
    static = all(plan.policy == Policy.STATIC for plan in plans)
    made = []
    for layer in range(after.trace.n_layers):
        held = [set(order[layer, : own[layer]].tolist()) for order, own in zip(orders, slots, strict=True)]
        made.append(
            LayerChange(
                layer=layer,
                budget_mib_before=float(present["budget_mib"][layer]),
                budget_mib_after=float(found["budget_mib"][layer]),
                slots_before=int(slots[0][layer]),
                slots_after=int(slots[1][layer]),
                theta_before=float(present["theta"][layer]),
                theta_after=float(found["theta"][layer]),
                placed_anew=len(held[1] - held[0]) if static else None,
            )
        )
    return tuple(made)
