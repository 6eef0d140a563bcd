"""Options of engines that train, and the kinds of their values, from the engines' own sources."""

from __future__ import annotations

import re
from collections.abc import Mapping

Kind = type[int] | type[float] | type[bool] | type[str] | tuple[str, ...] | re.Pattern[str]

_RECOMPUTE = ("core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts")
_SHARDING = ("no_shard", "optim", "optim_grads", "optim_grads_params")
_BITS = ("fp32", "fp16", "bf16", "fp8")

# Options of `megatron/training/arguments.py`: bool for flags; several values may follow `--recompute-modules`.
MEGATRON: Mapping[str, Kind] = {
    "num-layers": int, "hidden-size": int, "ffn-hidden-size": int, "num-attention-heads": int, "kv-channels": int,
    "group-query-attention": bool, "num-query-groups": int, "max-position-embeddings": int,
    "position-embedding-type": ("learned_absolute", "rope", "mrope", "relative", "none"),
    "normalization": ("LayerNorm", "RMSNorm"), "swiglu": bool, "disable-bias-linear": bool,
    "untie-embeddings-and-output-weights": bool, "attention-dropout": float, "hidden-dropout": float,
    "window-size": re.compile(r"\d+,\d+"), "window-attn-skip-freq": int, "qk-layernorm": bool,
    "multi-latent-attention": bool, "q-lora-rank": int, "kv-lora-rank": int, "qk-head-dim": int,
    "qk-pos-emb-head-dim": int, "v-head-dim": int,
    "num-experts": int, "moe-router-topk": int, "moe-ffn-hidden-size": int, "moe-grouped-gemm": bool,
    "moe-router-pre-softmax": bool, "moe-token-dispatcher-type": ("allgather", "alltoall", "flex"),
    "moe-shared-expert-intermediate-size": int, "moe-layer-freq": re.compile(r"\(\[0(,1)?\]\*\d+(\+\[1\]\*\d+)?\)"),
    "is-hybrid-model": bool, "mamba-num-heads": int, "mamba-head-dim": int, "mamba-num-groups": int, "mamba-state-dim": int,
    "seq-length": int, "micro-batch-size": int, "global-batch-size": int,
    "tensor-model-parallel-size": int, "pipeline-model-parallel-size": int, "context-parallel-size": int,
    "sequence-parallel": bool, "cp-comm-type": ("p2p", "a2a", "allgather", "a2a+p2p"),
    "num-virtual-stages-per-pipeline-rank": int, "account-for-embedding-in-pipeline-split": bool,
    "account-for-loss-in-pipeline-split": bool, "expert-model-parallel-size": int, "expert-tensor-parallel-size": int,
    "overlap-grad-reduce": bool, "overlap-param-gather": bool, "use-distributed-optimizer": bool,
    "num-distributed-optimizer-instances": int, "use-megatron-fsdp": bool, "data-parallel-sharding-strategy": _SHARDING,
    "outer-dp-sharding-strategy": ("no_shard", "optim"), "init-model-with-meta-device": bool,
    "ckpt-format": ("torch", "torch_dist", "torch_dcp", "fsdp_dtensor"), "no-gradient-accumulation-fusion": bool,
    "grad-reduce-in-bf16": bool, "bf16": bool, "fp8-format": ("e4m3", "hybrid"),
    "fp8-recipe": ("tensorwise", "delayed", "mxfp8", "blockwise", "custom"), "fp4-format": ("e2m1",), "fp4-recipe": ("nvfp4",),
    "recompute-granularity": ("full", "selective"), "recompute-method": ("uniform", "block"), "recompute-num-layers": int,
    "recompute-modules": _RECOMPUTE, "optimizer-cpu-offload": bool, "optimizer-offload-fraction": float,
    "overlap-cpu-optimizer-d2h-h2d": bool, "use-precision-aware-optimizer": bool, "exp-avg-dtype": _BITS,
    "exp-avg-sq-dtype": _BITS, "cpu-offloading-num-layers": int,
}  # fmt: skip
_NULL_OR_INT = re.compile(r"null|\d+")
_FLAG = ("true", "false")
# Fields of Megatron-Bridge's `ConfigContainer`.
BRIDGE: Mapping[str, Kind] = {
    "model.seq_length": int, "dataset.seq_length": int, "train.micro_batch_size": int, "train.global_batch_size": int,
    "mixed_precision": (
        "bf16_mixed", "bf16_with_fp8_current_scaling_mixed", "bf16_with_fp8_subchannel_scaling_mixed", "bf16_with_mxfp8_mixed",
        "bf16_with_nvfp4_mixed",
    ),
    "model.tensor_model_parallel_size": int, "model.pipeline_model_parallel_size": int,
    "model.virtual_pipeline_model_parallel_size": _NULL_OR_INT, "model.context_parallel_size": int,
    "model.sequence_parallel": _FLAG, "model.pipeline_model_parallel_layout": ("null",),
    "model.num_layers_in_first_pipeline_stage": ("null",), "model.num_layers_in_last_pipeline_stage": ("null",),
    "model.account_for_embedding_in_pipeline_split": _FLAG, "model.account_for_loss_in_pipeline_split": _FLAG,
    "model.cp_comm_type": ("p2p", "a2a", "allgather"), "model.expert_model_parallel_size": int,
    "model.expert_tensor_parallel_size": int, "model.moe_token_dispatcher_type": ("allgather", "alltoall", "flex"),
    "model.recompute_granularity": ("null", "full", "selective"), "model.recompute_method": ("null", "uniform", "block"),
    "model.recompute_num_layers": _NULL_OR_INT, "model.recompute_modules": re.compile(r"null|\[[a-z_,]+\]"),
    "ddp.use_distributed_optimizer": _FLAG, "optimizer.use_distributed_optimizer": _FLAG, "ddp.overlap_grad_reduce": _FLAG,
    "ddp.overlap_param_gather": _FLAG, "optimizer.overlap_param_gather": _FLAG,
    "ddp.num_distributed_optimizer_instances": int, "ddp.use_megatron_fsdp": _FLAG,
    "ddp.data_parallel_sharding_strategy": _SHARDING, "ddp.average_in_collective": _FLAG,
    "ddp.outer_dp_sharding_strategy": ("no_shard", "optim"), "checkpoint.ckpt_format": ("torch_dist", "fsdp_dtensor"),
    "model.gradient_accumulation_fusion": _FLAG, "optimizer.optimizer_cpu_offload": _FLAG,
    "optimizer.optimizer_offload_fraction": float, "optimizer.overlap_cpu_optimizer_d2h_h2d": _FLAG,
    "optimizer.use_precision_aware_optimizer": _FLAG, "model.cpu_offloading": _FLAG, "model.cpu_offloading_num_layers": int,
    "model.cpu_offloading_weights": _FLAG,
}  # fmt: skip
# Keys of DeepSpeed's configuration, those of a section behind a dot.
DEEPSPEED: Mapping[str, Kind] = {
    "train_batch_size": int, "train_micro_batch_size_per_gpu": int, "gradient_accumulation_steps": int, "bf16.enabled": bool,
    "data_types.grad_accum_dtype": ("fp32", "fp16", "bf16"), "zero_optimization.stage": int,
    "zero_optimization.overlap_comm": bool, "zero_optimization.contiguous_gradients": bool,
    "zero_optimization.zero_hpz_partition_size": int, "zero_optimization.mics_shard_size": int,
    "zero_optimization.offload_optimizer.device": ("cpu", "nvme"), "zero_optimization.offload_optimizer.pin_memory": bool,
    "zero_optimization.offload_optimizer.nvme_path": str, "tensor_parallel.autotp_size": int, "expert_parallel.enabled": bool,
    "expert_parallel.autoep_size": int, "sequence_parallel_size": int, "activation_checkpointing.partition_activations": bool,
    "activation_checkpointing.cpu_checkpointing": bool,
}  # fmt: skip
# Fields of torchtitan's `JobConfig`, behind the sections that hold them.
TORCHTITAN: Mapping[str, Kind] = {
    "model.name": ("llama3", "qwen3", "deepseek_v3", "gpt_oss"), "model.flavor": str, "model.converters": re.compile(r".*"),
    "training.local_batch_size": int, "training.global_batch_size": int, "training.seq_len": int,
    "training.enable_cpu_offload": bool, "parallelism.data_parallel_replicate_degree": int,
    "parallelism.data_parallel_shard_degree": int, "parallelism.fsdp_reshard_after_forward": ("default", "always", "never"),
    "parallelism.tensor_parallel_degree": int, "parallelism.context_parallel_degree": int,
    "parallelism.pipeline_parallel_degree": int, "parallelism.context_parallel_rotate_method": ("allgather", "alltoall"),
    "parallelism.expert_parallel_degree": int, "parallelism.expert_tensor_parallel_degree": int,
    "parallelism.pipeline_parallel_schedule": ("1F1B", "Interleaved1F1B"),
    "parallelism.pipeline_parallel_layers_per_stage": int,
    "parallelism.pipeline_parallel_first_stage_less_layers": int, "parallelism.pipeline_parallel_last_stage_less_layers": int,
    "parallelism.pipeline_parallel_microbatch_size": int,
    "activation_checkpoint.mode": ("selective", "full", "memory_budget", "none"),
    "activation_checkpoint.selective_ac_option": re.compile(r"op|\d+"), "compile.enable": bool,
    "quantize.linear.float8.recipe_name": ("tensorwise", "rowwise", "rowwise_with_gw_hp"),
    "quantize.linear.float8.filter_fqns": re.compile(r".*"), "quantize.grouped_mm.float8.fqns": re.compile(r".*"),
    "quantize.grouped_mm.mx.fqns": re.compile(r".*"),
}  # fmt: skip
