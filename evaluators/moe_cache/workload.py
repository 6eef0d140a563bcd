"""A routing trace on a machine, with the memory that there is: all that cache plans are compared by, and nothing measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from autotune.errors import UsageError
from autotune.hardware import HardwareProfile
from evaluators.moe_cache.batching import batched
from evaluators.moe_cache.correction import Correction
from evaluators.moe_cache.drift import check_same_model
from evaluators.moe_cache.exporters import Subject
from evaluators.moe_cache.machine import LayerWork, costs_of
from evaluators.moe_cache.model_shape import ModelShape
from evaluators.moe_cache.plan import Costs, Floats, Ints
from evaluators.moe_cache.profiled import plan_of
from evaluators.moe_cache.replay import token_counts
from evaluators.moe_cache.solver import SEARCHED_POLICIES, CacheSolver, Memory
from evaluators.moe_cache.timeline import simulate
from evaluators.moe_cache.trace import RoutingTrace


@dataclass(frozen=True, eq=False)
class Workload:
    """L layers of N experts, and what they cost.

    Attributes:
        routing: as recorded, one sequence at a time.
        batch: sequences that are decoded together.
        model, work: architecture numbers, and what a layer computes.
        profile, correction: the machine, and what real runs on it said of the times that follow from its profile.
        expert_bytes: ``(L,)`` bytes of one expert.
        budget_bytes: fast memory for caches and staging buffers.
        link_mib_s: that the link is held to; None lets it be as fast as it is.
        max_prefetch_depth: layers ahead that a plan may look, where the staging buffers fit.
    """

    routing: RoutingTrace
    batch: int
    model: ModelShape
    work: LayerWork
    profile: HardwareProfile
    correction: Correction | None
    expert_bytes: Ints
    budget_bytes: int
    max_prefetch_depth: int
    link_mib_s: float | None = None

    def on(self, routing: RoutingTrace) -> Workload:
        """The same model, machine and memory under other routing.

        Raises:
            UsageError: for a trace of another model, or without a decode token.
        """
        check_same_model(self.routing, routing)
        sizes = [one.expert_bytes for one in (self.routing, routing)]
        if sizes[0] is not None and sizes[1] is not None and not np.array_equal(sizes[0], sizes[1]):
            raise UsageError(
                f"the experts of the trace of {routing.model!r} have {int(sizes[1].max())} bytes at most, those of "
                f"{self.routing.model!r} {int(sizes[0].max())}; give a trace of the model at the same precision"
            )
        return replace(self, routing=routing)

    @cached_property
    def trace(self) -> RoutingTrace:
        """The routing as it is served, in batches."""
        return batched(self.routing, self.batch)

    @cached_property
    def memory(self) -> Memory:
        """For caches and staging buffers; the buffers hold the experts of the widest decode pass."""
        return Memory(self.budget_bytes, self.trace.widest_decode * int(self.expert_bytes.max()))

    @cached_property
    def costs(self) -> Costs:
        """The cost tables, as far as the trace's largest pass."""
        found = costs_of(self.profile, self.work, self.expert_bytes, int(self.trace.passes().pass_tokens.max()))
        found = found.held_to(self.link_mib_s)
        return found if self.correction is None else self.correction.of(found)

    @cached_property
    def popularity(self) -> Ints:
        """``(L, N)`` tokens routed to each expert, which the policy `static` places by."""
        return token_counts(self.trace.passes())

    @property
    def subject(self) -> Subject:
        """What a plan tuned on this routing is exported for."""
        return Subject(self.model, self.trace.model, self.expert_bytes, self.popularity, self.budget_bytes)

    def solver(self, policies: Sequence[str] = SEARCHED_POLICIES, trace: RoutingTrace | None = None) -> CacheSolver:
        """The domain's side of the strategy `fixed-point` for this routing, or for a part of the served trace."""
        memory = self.memory
        depth = max(d for d in range(self.max_prefetch_depth + 1) if d == 0 or memory.for_caches(d) >= 0)
        planned = self.trace if trace is None else trace
        return CacheSolver(planned, self.costs, memory, policies=policies, max_prefetch_depth=depth)

    def latency_ms(self, config: Mapping[str, Any], popularity: npt.ArrayLike | None = None) -> Floats:
        """``(T,)`` predicted latency of each decode pass under a configuration: of one token of every sequence.

        Args:
            popularity: ``(L, N)`` counts that the policy `static` placed its experts by; None places them by this very
                trace, which is hindsight.
        """
        return simulate(self.trace, plan_of(config), self.costs, popularity=popularity).latency_ms


@runtime_checkable
class HasWorkload(Protocol):
    """A domain whose studies can be planned again for other routing."""

    options: type[BaseModel]

    def workload(self, options: Any, profile: Mapping[str, Any]) -> Workload: ...
