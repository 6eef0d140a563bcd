"""Megatron-Bridge (NeMo): overrides of a recipe on the command line.

Names and ranges: `src/megatron/bridge/training/config.py`, `src/megatron/bridge/training/mixed_precision.py`,
`scripts/training/run_recipe.py`, the exports of `src/megatron/bridge/recipes`, and `docs/training` of Megatron-Bridge
(`megatron-fsdp.md`, `cpu-offloading.md`, `mixed-precision.md`). Its model, optimizer and data-parallel fields are those of
Megatron Core's `TransformerConfig`, `ModelParallelConfig`, `OptimizerConfig` and `DistributedDataParallelConfig`.
"""

from __future__ import annotations

from typing import Any

from autotune.exporting import Exported, NoOptions
from evaluators.engines.arguments import commented
from evaluators.training_layout.exporters.groups import groups_of
from evaluators.training_layout.exporters.launching import launched
from evaluators.training_layout.exporters.megatron import (
    SHARDING,
    common_limits,
    context_traffic,
    environment,
    instances_fit,
    offloaded_layers,
    recomputed_modules,
)
from evaluators.training_layout.exporters.subject import Chosen

NAME = "megatron-bridge"
SUMMARY = "overrides of a recipe of Megatron-Bridge (NeMo), Hydra style"

_MIXED = {
    "bf16": "bf16_mixed",
    "fp8": "bf16_with_fp8_current_scaling_mixed",
    "fp8-block": "bf16_with_fp8_subchannel_scaling_mixed",
    "mxfp8": "bf16_with_mxfp8_mixed",
    "fp4": "bf16_with_nvfp4_mixed",
}
# These gather weights in fp8, which offloading optimizers do not take.
_GATHERS_FP8 = ("fp8", "mxfp8")
_RECIPES = {
    "llama2-7b": "llama2_7b",
    "llama3-8b": "llama31_8b",
    "llama3-70b": "llama31_70b",
    "llama3-405b": "llama31_405b",
    "qwen3-8b": "qwen3_8b",
    "qwen3-14b": "qwen3_14b",
    "qwen3-32b": "qwen3_32b",
    "qwen3-30b-a3b": "qwen3_30b_a3b",
    "qwen3-235b-a22b": "qwen3_235b_a22b",
    "deepseek-v2-lite": "deepseek_v2_lite",
    "deepseek-v3": "deepseek_v3",
    "kimi-k2": "kimi_k2",
    "gpt-oss-20b": "gpt_oss_20b",
    "gpt-oss-120b": "gpt_oss_120b",
    "nemotron-3-nano": "nemotron_3_nano",
    "nemotron-3-super": "nemotron_3_super",
    "nemotron-h-56b": "nemotronh_56b",
}


def write(chosen: Chosen, options: NoOptions) -> Exported:
    """The layout; the model is the recipe's."""
    del options
    cannot = limits(chosen)
    notes = [*chosen.told(), *_notes(chosen)]
    return Exported(
        commented("Megatron-Bridge, overrides of a recipe", notes, cannot, overrides(chosen)), ".args", cannot
    )


def _notes(chosen: Chosen) -> list[str]:
    script = f"scripts/training/run_recipe.py --recipe {_recipe(chosen)} --mode pretrain --dataset mock"
    return [
        *environment(chosen),
        *launched(chosen.subject, script, "YOUR_OVERRIDES"),
        "yours: data (--dataset megatron-indexed), tokenizer, optimizer.lr, train.train_iters; older releases call the data "
        "llm-pretrain-mock and llm-pretrain, and have no --mode",
    ]


def _recipe(chosen: Chosen) -> str:
    known = _RECIPES.get(chosen.subject.model.name)
    return f"{known}_pretrain_config" if known else "YOUR_RECIPE"


def overrides(chosen: Chosen) -> list[str]:
    """One override each. What a recipe may say of a setting that the layout leaves alone is taken back."""
    fields = {
        **_training(chosen),
        **_model(chosen),
        **_recomputation(chosen),
        **_data_parallel(chosen),
        **_offloading(chosen),
    }
    return [f"{name}={_hydra(value)}" for name, value in fields.items()]


def _hydra(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(value)}]" if isinstance(value, tuple) else str(value)


def _training(chosen: Chosen) -> dict[str, Any]:
    job = chosen.subject
    return {
        "model.seq_length": job.sequence,
        "dataset.seq_length": job.sequence,
        "train.micro_batch_size": chosen.degree("micro_batch"),
        "train.global_batch_size": job.global_batch,
        "mixed_precision": _MIXED[chosen.precision],
    }


def _model(chosen: Chosen) -> dict[str, Any]:
    chunks, ends = chosen.degree("interleave"), chosen.counts_ends
    found: dict[str, Any] = {
        "model.tensor_model_parallel_size": chosen.degree("tp"),
        "model.pipeline_model_parallel_size": chosen.degree("pp"),
        "model.virtual_pipeline_model_parallel_size": chunks if chunks > 1 else None,
        "model.context_parallel_size": chosen.degree("cp"),
        "model.sequence_parallel": chosen.degree("tp") > 1,
        # It refuses these beside a layout of its own.
        "model.pipeline_model_parallel_layout": None,
        "model.num_layers_in_first_pipeline_stage": None,
        "model.num_layers_in_last_pipeline_stage": None,
        "model.account_for_embedding_in_pipeline_split": ends,
        "model.account_for_loss_in_pipeline_split": ends,
    }
    if chosen.degree("cp") > 1:
        found["model.cp_comm_type"] = context_traffic(chosen)
    if chosen.subject.model.n_experts:
        found |= {
            "model.expert_model_parallel_size": chosen.degree("ep"),
            "model.expert_tensor_parallel_size": chosen.degree("etp"),
            "model.moe_token_dispatcher_type": "alltoall",
        }
    return found


def _recomputation(chosen: Chosen) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(
        (
            "model.recompute_granularity",
            "model.recompute_method",
            "model.recompute_num_layers",
            "model.recompute_modules",
        )
    )
    if chosen.get("recompute", "none") == "selective":
        found |= {"model.recompute_granularity": "selective", "model.recompute_modules": recomputed_modules(chosen)}
    elif layers := chosen.recomputed_layers:
        every = chosen.recomputed_share == 1.0
        found |= {
            "model.recompute_granularity": "full",
            "model.recompute_method": "uniform" if every else "block",
            "model.recompute_num_layers": 1 if every else layers,
        }
    return found


def _data_parallel(chosen: Chosen) -> dict[str, Any]:
    zero, groups = chosen.zero, groups_of(chosen)
    copies = groups.copies if zero and instances_fit(chosen) else 1
    found: dict[str, Any] = {
        "ddp.use_distributed_optimizer": zero > 0,
        "optimizer.use_distributed_optimizer": zero > 0,
        "ddp.overlap_grad_reduce": True,
        "ddp.overlap_param_gather": zero > 0,
        "optimizer.overlap_param_gather": zero > 0,
        "ddp.num_distributed_optimizer_instances": copies,
        "ddp.use_megatron_fsdp": zero > 1,
    }
    if zero > 1:
        found |= {
            "ddp.data_parallel_sharding_strategy": SHARDING[zero],
            "ddp.average_in_collective": False,
            "checkpoint.ckpt_format": "fsdp_dtensor",
            "model.gradient_accumulation_fusion": False,
        }
        if copies > 1:
            found["ddp.outer_dp_sharding_strategy"] = "optim" if groups.outer else "no_shard"
    return found


def _offloading(chosen: Chosen) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if chosen.offload_states != "none" and chosen.zero:
        found |= {
            "optimizer.optimizer_cpu_offload": True,
            "optimizer.optimizer_offload_fraction": 1.0,
            "optimizer.overlap_cpu_optimizer_d2h_h2d": True,
            "optimizer.use_precision_aware_optimizer": True,
        }
    if layers := offloaded_layers(chosen):
        found |= {
            "model.cpu_offloading": True,
            "model.cpu_offloading_num_layers": layers,
            "model.cpu_offloading_weights": False,
        }
    return found


def limits(chosen: Chosen) -> tuple[str, ...]:
    """What it cannot express."""
    found = common_limits(chosen)
    if _recipe(chosen) == "YOUR_RECIPE":
        found.append(
            f"the architecture of {chosen.subject.model.name}: it has no recipe for it that is known here; name your own"
        )
    if chosen.optimizer == "adam8bit":
        found.append(
            "optimizer=adam8bit: types of moments are no texts of an override; set optimizer.exp_avg_dtype in a recipe"
        )
    if chosen.zero == 3:
        found.append(
            "gradients in bfloat16: a precision by name keeps float32; set mixed_precision.grad_reduce_in_fp32 in a recipe"
        )
    if chosen.offload_states != "none" and chosen.precision in _GATHERS_FP8:
        found.append(
            f"offload_states={chosen.offload_states} with precision={chosen.precision}: that precision gathers weights in fp8, "
            "which an offloaded optimizer refuses; set mixed_precision.fp8_param_gather to false in a recipe"
        )
    return tuple(found)
