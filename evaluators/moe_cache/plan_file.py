"""Reads what `autotune export --format plan` writes: a cache plan, and the model that it is for.

Letters: L layers with experts, N experts per layer, k of them per token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.errors import UsageError
from evaluators.moe_cache.plan import CachePlan, Ints
from evaluators.moe_cache.policies import LCP_OMEGA, LCP_RHO
from evaluators.moe_cache.predict import Predictor

SCHEMA_NAME = "autotune/moe-cache-plan"


@dataclass(frozen=True, eq=False)
class PlanFile:
    """A plan and what it was tuned for.

    Attributes:
        trace_model: the model's name in the trace.
        shape: L, N and k.
        expert_shape: hidden size and intermediate size of an expert.
        expert_bytes: ``(L,)`` bytes of one expert, as the budgets count them.
        popularity: ``(L, N)``, larger for experts that the trace used more.
    """

    plan: CachePlan
    trace_model: str
    shape: tuple[int, int, int]
    expert_shape: tuple[int, int]
    expert_bytes: tuple[int, ...]
    popularity: Ints

    def check_model(
        self, name: str, shape: tuple[int, int, int], expert_shape: tuple[int, int], expert_bytes: int
    ) -> None:
        """Refuse another model than the plan's, and experts of other sizes, in one sentence.

        Raises:
            UsageError: for these.
        """
        if (shape, expert_shape) != (self.shape, self.expert_shape):
            raise UsageError(
                f"the plan is of a trace from another model than the checkpoint: {self.trace_model} has "
                f"{_shown(self.shape, self.expert_shape)}, and {name} has {_shown(shape, expert_shape)}; search on a "
                "trace that autotune trace record made of this checkpoint"
            )
        sizes = sorted(set(self.expert_bytes))
        if len(sizes) > 1:
            raise UsageError(
                f"the plan's experts differ in size ({', '.join(map(str, sizes[:4]))} bytes); the runtime holds experts of one "
                "size"
            )
        if sizes[0] != expert_bytes:
            raise UsageError(
                f"the plan counts {sizes[0]} bytes to an expert and the checkpoint's have {expert_bytes}; search again with "
                f"--set bits={8 * expert_bytes / (3 * expert_shape[0] * expert_shape[1]):g}, so that budgets mean the same"
            )


def read_plan(text: str, source: str) -> PlanFile:
    """The plan of a JSON document.

    Args:
        source: where it comes from, for messages.

    Raises:
        UsageError: for a document that is no plan, or holds values that cannot be.
    """
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA_NAME or document["schema_version"] != 1:
            raise UsageError(
                f"{source} is of the schema {document['schema']} {document['schema_version']}, not {SCHEMA_NAME} 1; write it "
                "again with autotune export --format plan"
            )
        return _plan_file(document)
    except UsageError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            f"{source} is no plan of the domain moe-cache ({what}); write one with autotune export --format plan"
        ) from error


def _plan_file(document: Mapping[str, Any]) -> PlanFile:
    model, policy, layers = document["model"], document["policy"], document["layers"]
    shape = (int(model["moe_layers"]), int(model["experts_per_layer"]), int(model["experts_per_token"]))
    if len(layers) != shape[0]:
        raise ValueError(f"it has {len(layers)} layers and says {shape[0]}")
    plan = CachePlan(
        budget_bytes=tuple(int(layer["budget_bytes"]) for layer in layers),
        theta=tuple(float(layer["theta"]) for layer in layers),
        policy=policy["name"],
        lcp_rho=policy.get("rho", LCP_RHO),
        lcp_omega=policy.get("omega_tokens", LCP_OMEGA),
        prefetch_depth=document["prefetch_depth_layers"],
        cpu_threshold_tokens=document["cpu_threshold_tokens"],
        predictor=document.get("predictor") or Predictor.RECORDED,
    )
    return PlanFile(
        plan=plan,
        trace_model=str(document["trace_model"]),
        shape=shape,
        expert_shape=(int(model["hidden_size"]), int(model["expert_intermediate_size"])),
        expert_bytes=tuple(int(layer["expert_bytes"]) for layer in layers),
        popularity=_popularity([layer["experts_by_popularity"] for layer in layers], shape[1]),
    )


def _popularity(orders: Sequence[Sequence[int]], n_experts: int) -> Ints:
    """Counts that put experts in these orders, the most popular first."""
    found = np.zeros((len(orders), n_experts), dtype=np.int64)
    for layer, order in enumerate(orders):
        if sorted(order) != list(range(n_experts)):
            raise ValueError(f"layer {layer} does not order its {n_experts} experts by popularity")
        found[layer, list(order)] = np.arange(n_experts, 0, -1)
    return found


def _shown(shape: tuple[int, int, int], expert: tuple[int, int]) -> str:
    return f"{shape[0]} layers of {shape[1]} experts ({expert[0]} x {expert[1]}), top {shape[2]}"
