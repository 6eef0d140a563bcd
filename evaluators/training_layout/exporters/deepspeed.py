"""DeepSpeed: its JSON configuration.

Names and ranges: `docs/_pages/config-json.md`, `deepspeed/runtime/config.py`, `deepspeed/runtime/zero/config.py`,
`deepspeed/runtime/zero/offload_config.py`, `deepspeed/runtime/zero/mics.py`, `deepspeed/runtime/pipe/engine.py` and
`deepspeed/runtime/tensor_parallel/config.py` of DeepSpeed.
"""

from __future__ import annotations

import json
from typing import Any

from autotune.exporting import Exported, NoOptions
from evaluators.training_layout.exporters.groups import groups_of
from evaluators.training_layout.exporters.subject import Chosen
from evaluators.training_layout.exporters.unexpressed import unexpressed

NAME = "deepspeed"
SUMMARY = "a configuration file of DeepSpeed (ds_config.json)"

# Where its documents put the SSD.
_NVME = "/local_nvme"


def write(chosen: Chosen, options: NoOptions) -> Exported:
    """Batch, ZeRO stage, parallel degrees that it has, offloading and checkpointing."""
    del options
    return Exported(json.dumps(document(chosen), indent=2) + "\n", ".json", limits(chosen))


def document(chosen: Chosen) -> dict[str, Any]:
    """The configuration as JSON values."""
    zero = chosen.zero
    # It multiplies micro-batch, accumulation and data-parallel copies, and refuses another train_batch_size.
    found: dict[str, Any] = {
        "train_batch_size": chosen.microbatches * chosen.degree("micro_batch") * chosen.dp,
        "train_micro_batch_size_per_gpu": chosen.degree("micro_batch"),
        "gradient_accumulation_steps": chosen.microbatches,
        "bf16": {"enabled": True},
        "zero_optimization": _sharding(chosen),
    }
    if zero < 3 and chosen.offload_states == "none":
        found["data_types"] = {"grad_accum_dtype": "fp32"}
    if chosen.degree("tp") > 1 and chosen.degree("pp") == 1:
        found["tensor_parallel"] = {"autotp_size": chosen.degree("tp")}
    if chosen.degree("ep") > 1:
        found["expert_parallel"] = {"enabled": True, "autoep_size": chosen.degree("ep")}
    if chosen.degree("cp") > 1:
        found["sequence_parallel_size"] = chosen.degree("cp")
    if chosen.recomputed_share:
        found["activation_checkpointing"] = {
            "partition_activations": chosen.degree("tp") > 1,
            "cpu_checkpointing": chosen.offload_activations > 0.0,
        }
    return found


def _sharding(chosen: Chosen) -> dict[str, Any]:
    zero, groups = chosen.zero, groups_of(chosen)
    found: dict[str, Any] = {"stage": zero, "overlap_comm": True, "contiguous_gradients": True}
    if zero == 3 and groups.hybrid:
        found["zero_hpz_partition_size" if groups.outer else "mics_shard_size"] = groups.inner
    if (device := _offloads_to(chosen)) is not None:
        found["offload_optimizer"] = {"device": device, "pin_memory": True}
        if device == "nvme":
            found["offload_optimizer"]["nvme_path"] = _NVME
    return found


def _offloads_to(chosen: Chosen) -> str | None:
    """Where optimizer states go; only ZeRO 3 takes them to an SSD, and ZeRO 0 nowhere."""
    if chosen.offload_states == "none" or not chosen.zero:
        return None
    return "nvme" if chosen.offload_states == "ssd" and chosen.zero == 3 else "cpu"


def limits(chosen: Chosen) -> tuple[str, ...]:
    """What it cannot express."""
    return (*_degree_limits(chosen), *_sharding_limits(chosen), *_memory_limits(chosen), *unexpressed(chosen))


def _degree_limits(chosen: Chosen) -> list[str]:
    tp, pp, cp, ep = (chosen.degree(name) for name in ("tp", "pp", "cp", "ep"))
    found = []
    if tp > 1 and pp == 1:
        found.append(
            f"tp={tp} of any model: its AutoTP splits models of Hugging Face that have a plan, or give it preset_model"
        )
    elif tp > 1:
        found.append(f"tp={tp} in a pipeline: tensor parallelism is the model's own, or that of Megatron-DeepSpeed")
    if pp > 1:
        found.append(f"pp={pp}: the number of stages is an argument of PipelineModule in the training script")
    if chosen.degree("interleave") > 1:
        found.append(f"interleave={chosen['interleave']}: its pipelines have one chunk a stage")
    if ep > 1:
        found.append(
            f"ep={ep} of any model: its AutoEP replaces experts of models of transformers 5 that it knows; another "
            "training script gives its MoE layer ep_size"
        )
    if chosen.degree("etp") > 1:
        found.append(f"etp={chosen['etp']}: its experts are not split by tensor parallelism")
    if cp > 1 and chosen.context == "ring":
        found.append(f"context=ring: sequence_parallel_size={cp} is Ulysses', which exchanges heads")
    if cp > 1 and chosen.subject.model.n_heads // tp % cp:
        found.append(
            f"cp={cp}: so many GPUs cannot share {chosen.subject.model.n_heads // tp} heads evenly, as Ulysses does"
        )
    if chosen.precision != "bf16":
        found.append(f"precision={chosen.precision}: products in fewer bits are the model's own; written in bf16")
    return found


def _sharding_limits(chosen: Chosen) -> list[str]:
    zero, groups = chosen.zero, groups_of(chosen)
    found = []
    if groups.told:
        found.append(f"{groups.told}; written as spread over all {groups.replicas} replicas")
    elif groups.hybrid and zero < 3:
        found.append(
            f"shard_within={groups.within}: its shard groups are of ZeRO 3; written as spread over all {groups.replicas}"
        )
    elif groups.outer:
        found.append(
            f"shard_within={groups.within} exactly: zero_hpz_partition_size keeps a second copy of the weights within "
            f"{groups.inner} GPUs, and spreads gradients over all {groups.replicas}"
        )
    elif groups.hybrid:
        found.append("mics_shard_size alone: the training script builds the model within deepspeed.zero.MiCS_Init")
    if zero > 1 and chosen.degree("pp") > 1:
        found.append(f"ZeRO {zero} with pp={chosen['pp']}: its pipelines refuse it")
    return found


def _memory_limits(chosen: Chosen) -> list[str]:
    found = []
    recompute, share, states = chosen.get("recompute", "none"), chosen.offload_activations, chosen.offload_states
    if recompute == "selective":
        found.append("recompute=selective: which modules compute again is the training script's")
    elif chosen.recomputed_share:
        found.append(
            f"recompute={recompute}: the training script wraps {chosen.recomputed_layers} of every {chosen.chunk_layers} layers"
        )
    if share > 0.0 and not chosen.recomputed_share:
        found.append(
            f"offload_activations={share}: it offloads inputs of layers that are computed again only; written without"
        )
    elif 0.0 < share < 1.0:
        found.append(
            f"offload_activations={share}: cpu_checkpointing offloads the inputs of all layers that are computed again"
        )
    if chosen.optimizer == "adam8bit":
        found.append(
            "optimizer=adam8bit: give the training script one, such as bitsandbytes', and zero_allow_untested_optimizer"
        )
    if states != "none":
        found.append(_told_of_states(chosen, states))
    return found


def _told_of_states(chosen: Chosen, states: str) -> str:
    device = _offloads_to(chosen)
    if device is None:
        return f"offload_states={states}: offloading is of ZeRO's stages 1 to 3; written without"
    if device == "nvme":
        return f"offload_states=ssd: the path is yours; {_NVME} stands for it"
    if states == "ssd":
        return f"offload_states=ssd: an SSD takes states of ZeRO 3 only, and this is ZeRO {chosen.zero}; on the host"
    return "offload_states=host with an optimizer of the script's: it steps there by its own Adam (DeepSpeedCPUAdam)"
