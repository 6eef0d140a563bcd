"""vLLM: as many bytes of expert weights outside the GPU as the caches do not hold.

Checked with `vllm.config.offload` of the vLLM documentation (v0.23 and stable): ``--offload-backend uva``,
``--cpu-offload-gb`` (GiB per GPU) and ``--cpu-offload-params``, whose documented example ``experts`` matches expert weights
alone. vLLM has no expert cache: what is offloaded stays in host memory and is read over the link at every use.
"""

from __future__ import annotations

import math

from autotune.exporting import Exported, NoOptions
from autotune.space import Config
from evaluators.engines.arguments import commented
from evaluators.moe_cache.exporters.subject import GIB, MIB, Subject, losses
from evaluators.moe_cache.profiled import plan_of

NAME = "vllm"
SUMMARY = "--cpu-offload-gb: how many bytes of expert weights lie in host memory"

_DIGITS = 10_000  # GiB are written with four digits, rounded up: what is offloaded need not fit


def write(config: Config, subject: Subject, options: NoOptions, stem: str) -> Exported:
    """Arguments for ``vllm serve``."""
    del options, stem
    plan = plan_of(config)
    kept = int((subject.whole_experts(plan) * subject.expert_bytes).sum())
    total = int(subject.expert_bytes.sum()) * subject.n_experts
    fixed = "there is no cache; experts outside the GPU are read over the link at every use"
    cannot = (
        *losses(
            plan,
            subject,
            policy={"static": fixed, "dynamic": fixed},
            split="weights are offloaded by whole matrices of all experts of a layer",
            prefetch="the backend that reads over the link fetches nothing ahead",
            cpu="all experts are computed on the GPU",
        ),
        f"budgets by layer: {kept / MIB:.1f} MiB of {total / MIB:.1f} MiB of experts stay on the GPU, and vLLM offloads layer "
        "by layer from the first, so that the last layers keep theirs",
    )
    gib = math.ceil((total - kept) / GIB * _DIGITS) / _DIGITS
    arguments = ("--offload-backend uva", f"--cpu-offload-gb {gib:.4f}", "--cpu-offload-params experts") if gib else ()
    title = f"vLLM: {gib:.4f} GiB of expert weights outside the GPU"
    return Exported(
        commented(title, ("vllm serve MODEL $(grep -v '^#' THIS_FILE)",), cannot, arguments), ".args", cannot
    )
