"""What a cache configuration is exported for: the model, its routing, and how much memory there is.

Letters: L layers with experts, N experts per layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from evaluators.moe_cache.model_shape import ModelShape
from evaluators.moe_cache.plan import CachePlan, Ints
from evaluators.moe_cache.policies import Policy

MIB = 2**20
GIB = 2**30


@dataclass(frozen=True, eq=False)
class Subject:
    """Model, trace and budget of a study, without any hardware.

    Attributes:
        model: architecture numbers.
        trace: name of the model as the trace gives it.
        expert_bytes: ``(L,)`` bytes of one expert.
        popularity: ``(L, N)`` tokens that the trace routed to each expert, which is what the policy `static` places by.
        budget_bytes: fast memory for experts, staging buffers included.
    """

    model: ModelShape
    trace: str
    expert_bytes: Ints
    popularity: Ints
    budget_bytes: int

    @property
    def n_layers(self) -> int:
        return int(self.popularity.shape[0])

    @property
    def n_experts(self) -> int:
        return int(self.popularity.shape[1])

    @cached_property
    def order(self) -> Ints:
        """``(L, N)`` experts of each layer, the most popular first; among equals the lower index."""
        return np.argsort(-self.popularity, axis=1, kind="stable")

    @cached_property
    def decoder_layers(self) -> tuple[int, ...]:
        """``(L,)`` index of each layer with experts among all decoder layers, as checkpoints number them."""
        dense = set(self.model.dense_layers)
        return tuple(index for index in range(self.model.n_decoder_layers) if index not in dense)

    def whole_experts(self, plan: CachePlan) -> Ints:
        """``(L,)`` whole experts that each layer's budget holds; 0 where the plan caches nothing (theta 0)."""
        whole = replace(plan, theta=(1.0,) * self.n_layers).slots(self.expert_bytes, self.n_experts)
        return np.where(np.asarray(plan.theta) > 0, whole, 0)


def losses(
    plan: CachePlan, subject: Subject, *, policy: Mapping[str, str], split: str, prefetch: str, cpu: str
) -> tuple[str, ...]:
    """What an engine with fixed mechanisms leaves out of a plan: a sentence for each mechanism that the plan uses.

    Args:
        policy: by kind, ``static`` or ``dynamic``, what becomes of eviction; a kind that is absent is expressed.
        split, prefetch, cpu: what becomes of split experts, prefetching and the threshold for the slow tier's processor.
    """
    kind = "static" if plan.policy == Policy.STATIC else "dynamic"
    told = []
    if kind in policy:
        constants = f" (rho {plan.lcp_rho:g}, omega {plan.lcp_omega:g})" if plan.policy == Policy.LCP else ""
        told.append(f"policy {plan.policy}{constants}: {policy[kind]}")
    parts = sum(1 for theta in plan.theta if 0.0 < theta < 1.0)
    if parts:
        told.append(
            f"theta below 1 in {parts} of {subject.n_layers} layers (only the top of an expert is kept): {split}"
        )
    if plan.prefetch_depth:
        told.append(f"prefetch_depth {plan.prefetch_depth}: {prefetch}")
    if plan.cpu_threshold_tokens:
        told.append(f"cpu_threshold_tokens {plan.cpu_threshold_tokens}: {cpu}")
    return tuple(told)
