"""MoE-Infinity: which share of the GPU's memory its expert cache takes.

Checked with the README of EfficientMoE/MoE-Infinity (2026) for ``offload_path`` and ``device_memory_ratio``, and with its
`moe_infinity/utils/config.py` for ``prefetch`` and for the limits: the ratio lies between 0 and 1, and together with the
key-value cache's share, 0.15 where nobody sets it, it may not exceed 1.
"""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from autotune.errors import UsageError
from autotune.exporting import Exported
from autotune.space import Config
from evaluators.moe_cache.exporters.subject import GIB, MIB, Subject, losses
from evaluators.moe_cache.profiled import plan_of

NAME = "moe-infinity"
SUMMARY = "its configuration as JSON: the share of GPU memory for experts"

_KV_CACHE_RATIO = 0.15


class Options(BaseModel):
    """What MoE-Infinity's configuration needs besides a plan."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpu_gib: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="memory of the GPU, of which the ratio is taken")
    ]
    offload_path: Annotated[
        str, Field(min_length=1, description="folder for the offloaded weights, one for each model")
    ] = "moe-infinity"


def write(config: Config, subject: Subject, options: Options, stem: str) -> Exported:
    """The configuration that ``moe_infinity.MoE(checkpoint, config)`` takes.

    Raises:
        UsageError: when the budget exceeds the GPU's memory.
    """
    del stem
    plan = plan_of(config)
    ratio = subject.budget_bytes / (options.gpu_gib * GIB)
    if ratio > 1.0:
        raise UsageError(
            f"format {NAME!r}: the budget of {subject.budget_bytes / GIB:.2f} GiB exceeds gpu_gib = {options.gpu_gib:g}; give "
            "the memory of a GPU that holds it"
        )
    own = "its cache evicts by the activations that it traced itself"
    cannot = losses(
        plan,
        subject,
        policy={"static": own, "dynamic": own},
        split="whole experts are cached",
        prefetch="prefetching is switched on; how far it looks ahead is its own choice",
        cpu="missing experts are always loaded",
    )
    cannot += (
        f"budgets by layer: one cache of {subject.budget_bytes / MIB:.1f} MiB, staging buffers included, serves all layers",
    )
    if ratio + _KV_CACHE_RATIO > 1.0:
        cannot += (
            f"device_memory_ratio {ratio:.4f}: with the {_KV_CACHE_RATIO} of its native engine's key-value cache it exceeds "
            "the GPU, and MoE-Infinity will take less",
        )
    document = {"offload_path": options.offload_path, "device_memory_ratio": round(ratio, 6)}
    if plan.prefetch_depth:
        document["prefetch"] = True
    return Exported(json.dumps(document, indent=2) + "\n", ".json", cannot)
