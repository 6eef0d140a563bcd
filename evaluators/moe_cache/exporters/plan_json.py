"""The whole configuration as plain JSON, nothing left out, for any program. Its schema is `plan.schema.json`, beside this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autotune.exporting import Exported, NoOptions
from autotune.space import Config
from evaluators.moe_cache.exporters.subject import Subject
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.plan_file import SCHEMA_NAME
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.profiled import plan_of

NAME = "plan"
SUMMARY = "everything as plain JSON, with a documented schema"
SCHEMA = Path(__file__).with_name("plan.schema.json")

_VERSION = 1


def write(config: Config, subject: Subject, options: NoOptions, stem: str) -> Exported:
    """The plan, layer by layer, and what it was tuned for."""
    del options, stem
    return Exported(json.dumps(document(plan_of(config), subject), indent=2) + "\n", ".json")


def document(plan: CachePlan, subject: Subject) -> dict[str, Any]:
    """The plan as JSON values; `plan.schema.json` says what each is."""
    model = subject.model
    staging = (1 + plan.prefetch_depth) * model.top_k * int(subject.expert_bytes.max())
    slots = plan.slots(subject.expert_bytes, subject.n_experts)
    policy: dict[str, Any] = {"name": plan.policy}
    if plan.policy == Policy.LCP:
        policy |= {"rho": plan.lcp_rho, "omega_tokens": plan.lcp_omega}
    return {
        "schema": SCHEMA_NAME,
        "schema_version": _VERSION,
        "model": {
            "name": model.name,
            "decoder_layers": model.n_decoder_layers,
            "moe_layers": subject.n_layers,
            "experts_per_layer": subject.n_experts,
            "experts_per_token": model.top_k,
            "hidden_size": model.hidden_size,
            "expert_intermediate_size": model.expert_intermediate_size,
        },
        "trace_model": subject.trace,
        "policy": policy,
        "prefetch_depth_layers": plan.prefetch_depth,
        "predictor": str(plan.predictor) if plan.prefetch_depth else None,
        "cpu_threshold_tokens": plan.cpu_threshold_tokens,
        "memory": {
            "budget_bytes": subject.budget_bytes,
            "staging_bytes": staging,
            "caches_bytes": sum(plan.budget_bytes),
        },
        "layers": [
            {
                "layer": layer,
                "decoder_layer": subject.decoder_layers[layer],
                "budget_bytes": plan.budget_bytes[layer],
                "expert_bytes": int(subject.expert_bytes[layer]),
                "theta": plan.theta[layer],
                "slots": int(slots[layer]),
                "experts_by_popularity": subject.order[layer].tolist(),
            }
            for layer in range(subject.n_layers)
        ],
    }
