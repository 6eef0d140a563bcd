"""Megatron-LM: arguments of `pretrain_gpt.py`.

Names and ranges: `megatron/training/arguments.py`, `megatron/core/transformer/transformer_config.py` and
`megatron/core/optimizer/optimizer_config.py` of Megatron-LM, and its guide on Megatron-FSDP
(`docs/user-guide/features/megatron_fsdp.md`).
"""

from __future__ import annotations

from autotune.exporting import Exported, NoOptions
from evaluators.engines.arguments import commented
from evaluators.training_layout.exporters.architecture import UNTOLD, architecture, architecture_limits
from evaluators.training_layout.exporters.groups import groups_of
from evaluators.training_layout.exporters.launching import launched
from evaluators.training_layout.exporters.subject import Chosen
from evaluators.training_layout.exporters.unexpressed import unexpressed

NAME = "megatron"
SUMMARY = "arguments of Megatron-LM's pretrain_gpt.py"

_PRECISION = {
    "bf16": ["--bf16"],
    "fp8": ["--bf16", "--fp8-format=hybrid", "--fp8-recipe=tensorwise"],
    "fp8-block": ["--bf16", "--fp8-format=e4m3", "--fp8-recipe=blockwise"],
    "mxfp8": ["--bf16", "--fp8-format=e4m3", "--fp8-recipe=mxfp8"],
    "fp4": ["--bf16", "--fp4-format=e2m1", "--fp4-recipe=nvfp4"],
}
SHARDING = ("no_shard", "optim", "optim_grads", "optim_grads_params")
# Its rings pass keys and values from GPU to GPU; its all-to-alls exchange heads.
_CONTEXT = {"ring": "p2p", "ulysses": "a2a", "tokenring": "p2p"}


def write(chosen: Chosen, options: NoOptions) -> Exported:
    """The layout and the model; data, tokenizer and learning rate are the user's."""
    del options
    cannot = limits(chosen)
    script = "pretrain_mamba.py" if chosen.subject.model.mamba else "pretrain_gpt.py"
    text = commented(f"Megatron-LM, for {script}", [*chosen.told(), *_notes(chosen, script)], cannot, arguments(chosen))
    return Exported(text, ".args", cannot)


def _notes(chosen: Chosen, script: str) -> list[str]:
    """How it is started, and what is left to the user."""
    vocab = chosen.subject.model.vocab
    return [
        *environment(chosen),
        *launched(chosen.subject, script, "YOUR_ARGUMENTS"),
        f"yours: data, tokenizer, learning rate and length of the training; {UNTOLD}",
        "to try it without data: --mock-data --tokenizer-type=NullTokenizer "
        f"--vocab-size={vocab - 1} --lr=1e-4 --train-iters=20 --eval-iters=0",
    ]


def environment(chosen: Chosen) -> list[str]:
    """Variables that it demands, in lines of a comment."""
    if chosen.zero > 1:
        return ["before: unset CUDA_DEVICE_MAX_CONNECTIONS (Megatron-FSDP refuses 1)"]
    if chosen.degree("tp") > 1 or chosen.degree("cp") > 1:
        return ["before: export CUDA_DEVICE_MAX_CONNECTIONS=1 (demanded on Hopper and older GPUs)"]
    return []


def arguments(chosen: Chosen) -> list[str]:
    """One option each; a list's values follow its option."""
    job = chosen.subject
    return [
        *architecture(job.model, job.sequence),
        f"--seq-length={job.sequence}",
        f"--micro-batch-size={chosen['micro_batch']}",
        f"--global-batch-size={job.global_batch}",
        *_degrees(chosen),
        *_data_parallel(chosen),
        *_recomputation(chosen),
        *_PRECISION[chosen.precision],
        *_optimizer(chosen),
        *_offloaded_activations(chosen),
    ]


def _degrees(chosen: Chosen) -> list[str]:
    found = [
        f"--tensor-model-parallel-size={chosen['tp']}",
        f"--pipeline-model-parallel-size={chosen['pp']}",
        f"--context-parallel-size={chosen['cp']}",
    ]
    if chosen.degree("tp") > 1:
        # Experts demand it where tensor parallelism splits the rest.
        found.append("--sequence-parallel")
    if chosen.degree("cp") > 1:
        found.append(f"--cp-comm-type={context_traffic(chosen)}")
    if chosen.degree("interleave") > 1:
        found.append(f"--num-virtual-stages-per-pipeline-rank={chosen['interleave']}")
    if chosen.counts_ends:
        found += ["--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split"]
    if chosen.subject.model.n_experts:
        found += [f"--expert-model-parallel-size={chosen['ep']}", f"--expert-tensor-parallel-size={chosen['etp']}"]
    return found


def context_traffic(chosen: Chosen) -> str:
    """How GPUs of context parallelism exchange keys and values."""
    traffic = _CONTEXT[chosen.context]
    # Rings of Transformer Engine have no windows.
    return "allgather" if traffic == "p2p" and chosen.subject.model.windowed_layers else traffic


def _data_parallel(chosen: Chosen) -> list[str]:
    zero, groups = chosen.zero, groups_of(chosen)
    found = ["--overlap-grad-reduce"]
    if zero:
        found += ["--use-distributed-optimizer", "--overlap-param-gather"]
        if groups.copies > 1 and instances_fit(chosen):
            found.append(f"--num-distributed-optimizer-instances={groups.copies}")
    if zero > 1:
        found += [
            "--use-megatron-fsdp",
            f"--data-parallel-sharding-strategy={SHARDING[zero]}",
            "--ckpt-format=fsdp_dtensor",
            # Fused accumulation writes to buffers that only newer kernels of Transformer Engine find in a shard.
            "--no-gradient-accumulation-fusion",
        ]
        if groups.copies > 1 and instances_fit(chosen):
            found.append(f"--outer-dp-sharding-strategy={'optim' if groups.outer else 'no_shard'}")
    if zero == 3:
        found += ["--init-model-with-meta-device", "--grad-reduce-in-bf16"]
    return found


def instances_fit(chosen: Chosen) -> bool:
    """Whether the shard groups of a layout exist: those of experts are as many, and states outside need ZeRO 3 inside."""
    groups = groups_of(chosen)
    even = not chosen.subject.model.n_experts or chosen.expert_replicas % groups.copies == 0
    return even and (not groups.outer or chosen.zero == 3)


def _recomputation(chosen: Chosen) -> list[str]:
    if chosen.get("recompute", "none") == "selective":
        return ["--recompute-granularity=selective", "--recompute-modules", *recomputed_modules(chosen)]
    if chosen.recomputed_share == 1.0:
        return ["--recompute-granularity=full", "--recompute-method=uniform", "--recompute-num-layers=1"]
    if chosen.recomputed_layers:
        return [
            "--recompute-granularity=full",
            "--recompute-method=block",
            f"--recompute-num-layers={chosen.recomputed_layers}",
        ]
    return []


def recomputed_modules(chosen: Chosen) -> tuple[str, ...]:
    """What selective recomputation computes anew: norms, and activations of the feed-forward blocks."""
    return ("moe_act", "layernorm") if chosen.subject.model.n_experts else ("layernorm", "mlp")


def _optimizer(chosen: Chosen) -> list[str]:
    if not chosen.zero:
        # Everything below is of the distributed optimizer.
        return []
    found = []
    if chosen.offload_states != "none":
        found += ["--optimizer-cpu-offload", "--optimizer-offload-fraction=1.0", "--overlap-cpu-optimizer-d2h-h2d"]
    if chosen.optimizer == "adam8bit":
        found += ["--exp-avg-dtype=fp8", "--exp-avg-sq-dtype=fp8"]
    return ["--use-precision-aware-optimizer", *found] if found else []


def offloaded_layers(chosen: Chosen) -> int:
    """Layers whose activations wait in host memory; 0 where none can."""
    if chosen.degree("pp") > 1 or chosen.get("recompute", "none") != "none":
        return 0
    layers = chosen.subject.model.n_layers
    # The last layer's are needed at once, and it refuses as many layers as there are.
    return min(layers - 1, round(chosen.offload_activations * layers))


def _offloaded_activations(chosen: Chosen) -> list[str]:
    layers = offloaded_layers(chosen)
    return [f"--cpu-offloading-num-layers={layers}"] if layers else []


def limits(chosen: Chosen) -> tuple[str, ...]:
    """What it cannot express."""
    found = [*architecture_limits(chosen.subject.model, chosen.subject.sequence), *common_limits(chosen)]
    if chosen.optimizer == "adam8bit":
        found.append(
            "optimizer=adam8bit: 8-bit moments with a scale for each block; written as moments in fp8 of its precision-aware "
            "optimizer, as many bytes rounded otherwise"
            if chosen.zero
            else "optimizer=adam8bit: moments in fewer bits need its distributed optimizer, which is ZeRO 1; written with Adam"
        )
    return tuple(found)


def common_limits(chosen: Chosen) -> list[str]:
    """What Megatron Core cannot express, whatever starts it."""
    return [*_sharding_limits(chosen), *_memory_limits(chosen), *_context_limits(chosen), *unexpressed(chosen)]


def _sharding_limits(chosen: Chosen) -> list[str]:
    groups, zero = groups_of(chosen), chosen.zero
    found = []
    if groups.told:
        found.append(f"{groups.told}; written as spread over all {groups.replicas} replicas")
    elif groups.hybrid and not instances_fit(chosen):
        why = (
            f"states over all replicas and the rest within {groups.inner} GPUs need ZeRO 3"
            if groups.outer and zero != 3
            else f"{chosen.expert_replicas} replicas of the experts do not make {groups.copies} groups"
        )
        found.append(f"shard_within={groups.within}: {why}; written as spread over all {groups.replicas} replicas")
    if zero > 1 and chosen.degree("pp") > 1:
        found.append(
            f"ZeRO {zero} with pp={chosen['pp']}: some releases of Megatron-FSDP build no groups for pipelines"
        )
    return found


def _memory_limits(chosen: Chosen) -> list[str]:
    found = []
    recompute, states = chosen.get("recompute", "none"), chosen.offload_states
    if recompute == "selective" and not chosen.subject.model.n_experts:
        found.append(
            "recompute=selective of activations alone: its modules are whole, so that 'mlp' computes products again too"
        )
    elif (
        0.0 < chosen.recomputed_share < 1.0
        and chosen.recomputed_layers != chosen.recomputed_share * chosen.chunk_layers
    ):
        found.append(
            f"recompute={recompute} exactly: {chosen.recomputed_layers} of the {chosen.chunk_layers} layers of a model chunk"
        )
    if states != "none" and not chosen.zero:
        found.append(
            f"offload_states={states}: offloading is of its distributed optimizer, which is ZeRO 1; written without"
        )
    elif states == "ssd":
        found.append("offload_states=ssd: it offloads to host memory only; written so")
    if (share := chosen.offload_activations) > 0.0 and not offloaded_layers(chosen):
        found.append(
            f"offload_activations={share}: layers are offloaded where nothing is pipelined or computed again; written without "
            "(newer releases offload modules: --fine-grained-activation-offloading --offload-modules)"
        )
    return found


def _context_limits(chosen: Chosen) -> list[str]:
    model, cp, tp = chosen.subject.model, chosen.degree("cp"), chosen.degree("tp")
    if cp == 1:
        return []
    if chosen.context != "ulysses":
        told = "context=ring: attention within windows has no ring in Transformer Engine; written as gathering keys and values"
        return [told] if model.windowed_layers else []
    queries, keys = model.n_heads // tp, max(1, model.n_kv_heads // tp)
    told = f"context=ulysses: {cp} GPUs cannot share {queries} heads of queries and {keys} of keys and values, and are refused"
    return [told] if queries % cp or keys % cp else []
