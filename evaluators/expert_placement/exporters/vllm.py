"""vLLM's expert parallelism: the arguments that come closest to the placement; `evaluators.engines.expert_maps` says why."""

from __future__ import annotations

from autotune.exporting import Exported, NoOptions
from evaluators.engines.arguments import commented
from evaluators.engines.expert_maps import places_of, vllm_expert_parallel
from evaluators.expert_placement.exporters.placed import Placed

NAME = "vllm"
SUMMARY = "--enable-expert-parallel: linear or round-robin placements; others are left to its balancer"


def write(placed: Placed, options: NoOptions) -> Exported:
    """Arguments for ``vllm serve``."""
    del options
    gpus = placed.cluster.gpus
    arguments, map_not_told = vllm_expert_parallel(places_of(placed.placement, gpus), placed.n_experts, gpus)
    cannot = map_not_told or (placed.other_dataflow("vLLM"),)
    notes = (
        "vllm serve MODEL $(grep -v '^#' THIS_FILE)",
        f"with --tensor-parallel-size and --data-parallel-size whose product is {gpus}",
    )
    text = commented(f"vLLM: experts over {gpus} GPUs", notes, cannot, (arguments,))
    return Exported(text, ".args", cannot)
