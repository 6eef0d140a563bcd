"""SGLang's expert parallelism: the popularity that `static` places by, as the load that its balancer starts from.

Checked with the server arguments of the SGLang documentation (``--init-expert-location``, ``--ep-num-redundant-experts``)
and with `srt/eplb/expert_location.py` of sgl-project/sglang, which reads a JSON file with ``logical_count`` (layers x experts)
or ``physical_to_logical_map`` (layers x places).

An expert-parallel engine holds all experts on its GPUs, so that budgets, splits and eviction mean nothing to it. SGLang
together with kt-kernel, which does keep experts outside, is the format `ktransformers`.
"""

from __future__ import annotations

from autotune.errors import UsageError
from autotune.exporting import Exported, NoOptions
from autotune.space import Config
from evaluators.engines.expert_maps import sglang_load
from evaluators.moe_cache.exporters.subject import Subject, losses
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.profiled import plan_of

NAME = "sglang"
SUMMARY = "--init-expert-location: the popularity that policy static places by, for balancing experts over GPUs"


def write(config: Config, subject: Subject, options: NoOptions, stem: str) -> Exported:
    """The counts as JSON.

    Raises:
        UsageError: for every policy but `static`, of which an expert-parallel engine can use nothing.
    """
    del options, stem
    plan = plan_of(config)
    if plan.policy != Policy.STATIC:
        raise UsageError(
            f"format {NAME!r} can express nothing of policy {plan.policy}: expert parallelism holds all experts on GPUs, where "
            "none is evicted; export it for ktransformers, which is SGLang with experts on the CPU, or for llama.cpp-cache"
        )
    nothing = "all experts are on GPUs"
    cannot = (
        *losses(plan, subject, policy={}, split=nothing, prefetch=nothing, cpu=nothing),
        "budgets: all experts are on GPUs; only the popularity of the experts is handed over, for balancing them",
    )
    return Exported(sglang_load(subject.popularity, subject.model.dense_layers), ".json", cannot)
