"""torchtitan: its TOML configuration, as its releases up to 0.2 read it.

Names and ranges: `torchtitan/config/job_config.py`, `torchtitan/distributed/parallel_dims.py`,
`torchtitan/distributed/pipeline_parallel.py` and the models' `__init__.py` of torchtitan. Its pull request 2386 replaced the
file by Python; there the fields are options of the command line.
"""

from __future__ import annotations

from typing import Any

from autotune.exporting import Exported, NoOptions
from evaluators.training_layout.exporters.groups import groups_of
from evaluators.training_layout.exporters.launching import torchrun
from evaluators.training_layout.exporters.subject import Chosen
from evaluators.training_layout.exporters.unexpressed import unexpressed

NAME = "torchtitan"
SUMMARY = "a torchtitan job configuration (TOML)"

_MODELS = {
    "llama3-8b": ("llama3", "8B"),
    "llama3-70b": ("llama3", "70B"),
    "llama3-405b": ("llama3", "405B"),
    "qwen3-8b": ("qwen3", "8B"),
    "qwen3-14b": ("qwen3", "14B"),
    "qwen3-32b": ("qwen3", "32B"),
    "qwen3-30b-a3b": ("qwen3", "30B-A3B"),
    "qwen3-235b-a22b": ("qwen3", "235B-A22B"),
    "deepseek-v2-lite": ("deepseek_v3", "16B"),
    "deepseek-v3": ("deepseek_v3", "671B"),
    "gpt-oss-20b": ("gpt_oss", "20b"),
    "gpt-oss-120b": ("gpt_oss", "120b"),
}
# Of these it has no pipelines.
_NO_PIPELINES = ("qwen3", "gpt_oss")
_QUANTIZED = {"fp8": "float8", "mxfp8": "mx"}


def write(chosen: Chosen, options: NoOptions) -> Exported:
    """Model, batch, parallelism, checkpointing and precision; the rest of a job is the user's."""
    del options
    cannot = limits(chosen)
    lines = ["torchtitan, for its releases up to 0.2", *chosen.told(), *_notes(chosen)]
    if cannot:
        lines += ["Not expressed:", *(f"- {sentence}" for sentence in cannot)]
    text = "".join(f"# {line}\n" for line in lines)
    for section, values in document(chosen).items():
        text += f"\n[{section}]\n" + "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())
    return Exported(text, ".toml", cannot)


def _notes(chosen: Chosen) -> list[str]:
    return [
        "on every node:",
        f"  {torchrun(chosen.subject)} -m torchtitan.train --job.config_file THIS_FILE",
        "newer releases take no file: give them --module and --config of the model, and these fields as options, such as "
        f"--parallelism.tensor_parallel_degree={chosen['tp']}",
        "yours: model.hf_assets_path, training.dataset, training.steps, optimizer.lr",
    ]


def document(chosen: Chosen) -> dict[str, dict[str, Any]]:
    """Sections and their fields."""
    model, pipelined = _MODELS.get(chosen.subject.model.name), chosen.degree("pp") > 1
    named: dict[str, Any] = {} if model is None else {"name": model[0], "flavor": model[1]}
    if converters := _converters(chosen):
        named["converters"] = converters
    found: dict[str, dict[str, Any]] = {"model": named} if named else {}
    found |= {
        "training": {
            "local_batch_size": chosen.degree("micro_batch") * (chosen.microbatches if pipelined else 1),
            "global_batch_size": chosen.microbatches * chosen.degree("micro_batch") * chosen.dp,
            "seq_len": chosen.subject.sequence,
            "enable_cpu_offload": chosen.offload_states != "none" and _spreads(chosen),
        },
        "parallelism": {
            **_data_parallel(chosen),
            **_model_parallel(chosen),
            **(_pipeline(chosen) if pipelined else {}),
        },
        "activation_checkpoint": _checkpointing(chosen),
    }
    if converters:
        # Its conversions are slower than bfloat16 unless they are compiled.
        found["compile"] = {"enable": True}
    if chosen.precision == "fp8":
        found["quantize.linear.float8"] = {"recipe_name": "tensorwise", "filter_fqns": ["output"]}
    if chosen.precision in _QUANTIZED and chosen.subject.model.n_experts:
        found[f"quantize.grouped_mm.{_QUANTIZED[chosen.precision]}"] = {"fqns": ["experts"]}
    return found


def _converters(chosen: Chosen) -> list[str]:
    kind = _QUANTIZED.get(chosen.precision)
    if kind is None:
        return []
    return [f"quantize.linear.{kind}", *([f"quantize.grouped_mm.{kind}"] if chosen.subject.model.n_experts else [])]


def _sharded(chosen: Chosen) -> bool:
    """Whether it spreads weights at all: for ZeRO, and where plain copies exist beside nothing else only."""
    alone = chosen.dp == chosen.subject.gpus
    return chosen.zero > 0 or not alone


def _spreads(chosen: Chosen) -> bool:
    """Whether weights end up on several GPUs, which offloading demands."""
    return _groups(chosen)[1] * chosen.degree("cp") > 1


def _groups(chosen: Chosen) -> tuple[int, int]:
    """Copies, and GPUs over which data parallelism spreads; context parallelism spreads too."""
    groups, cp = groups_of(chosen), chosen.degree("cp")
    if not _sharded(chosen):
        return chosen.dp, 1
    if groups.hybrid and _alike(chosen):
        return groups.copies, groups.inner // cp
    return 1, chosen.dp


def _alike(chosen: Chosen) -> bool:
    """Whether it has such shard groups: of several GPUs, alike for all that is spread, and around context parallelism."""
    groups = groups_of(chosen)
    return not groups.outer and groups.inner > 1 and groups.inner % chosen.degree("cp") == 0


def _data_parallel(chosen: Chosen) -> dict[str, Any]:
    copies, spread = _groups(chosen)
    return {
        "data_parallel_replicate_degree": copies,
        "data_parallel_shard_degree": spread,
        "fsdp_reshard_after_forward": "always" if chosen.zero == 3 else "never",
    }


def _model_parallel(chosen: Chosen) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tensor_parallel_degree": chosen.degree("tp"),
        "context_parallel_degree": chosen.degree("cp"),
        "pipeline_parallel_degree": chosen.degree("pp"),
    }
    if chosen.degree("cp") > 1:
        # Gathering beforehand is its usual; passing shards on is what a ring does.
        found["context_parallel_rotate_method"] = "alltoall"
    if chosen.subject.model.n_experts:
        found |= {"expert_parallel_degree": chosen.degree("ep"), "expert_tensor_parallel_degree": chosen.degree("etp")}
    return found


def _pipeline(chosen: Chosen) -> dict[str, Any]:
    # It makes as many chunks as layers, and what first and last stage have less, fill; they must be as many as the stages have.
    return {
        "pipeline_parallel_schedule": "Interleaved1F1B" if chosen.degree("interleave") > 1 else "1F1B",
        "pipeline_parallel_layers_per_stage": chosen.chunk_layers,
        "pipeline_parallel_first_stage_less_layers": int(chosen.counts_ends),
        "pipeline_parallel_last_stage_less_layers": int(chosen.counts_ends),
        "pipeline_parallel_microbatch_size": chosen.degree("micro_batch"),
    }


def _checkpointing(chosen: Chosen) -> dict[str, Any]:
    recompute = str(chosen.get("recompute", "none"))
    every = {"full 1/2": "2", "full 1/4": "4", "selective": "op"}.get(recompute)
    return {"mode": recompute} if every is None else {"mode": "selective", "selective_ac_option": every}


def limits(chosen: Chosen) -> tuple[str, ...]:
    """What it cannot express."""
    return (
        *_model_limits(chosen),
        *_sharding_limits(chosen),
        *_memory_limits(chosen),
        *_local_limits(chosen),
        *unexpressed(chosen, local_steps=False),
    )


def _model_limits(chosen: Chosen) -> list[str]:
    found = []
    name, tp, cp, ep, etp = chosen.subject.model.name, *(chosen.degree(knob) for knob in ("tp", "cp", "ep", "etp"))
    model = _MODELS.get(name)
    if model is None:
        found.append(f"the architecture of {name}: it has no such model that is known here; [model] is yours")
    elif chosen.degree("pp") > 1 and model[0] in _NO_PIPELINES:
        found.append(f"pp={chosen['pp']}: its {model[0]} has no pipelines")
    if ep > 1:
        borrowed, spread = (cp, cp) if etp == tp else (cp * tp, cp * tp)
        if ep % borrowed or _groups(chosen)[1] * spread % ep:
            found.append(
                f"ep={ep}: it refuses all but multiples of {borrowed} that divide {_groups(chosen)[1] * spread}"
            )
    if cp > 1 and chosen.context == "ulysses":
        found.append("context=ulysses: its context parallelism is a ring; written so")
    if chosen.precision in ("fp8-block", "fp4"):
        found.append(f"precision={chosen.precision}: it has no such products; written in bf16")
    if chosen.precision == "fp8" and tp > 1 and model is not None and model[0] == "deepseek_v3":
        found.append(f"precision=fp8 with tp={tp}: its deepseek_v3 refuses a scale for a whole tensor there")
    if chosen.optimizer == "adam8bit":
        found.append("optimizer=adam8bit: its optimizers are Adam and AdamW")
    return found


def _sharding_limits(chosen: Chosen) -> list[str]:
    zero, groups, cp = chosen.zero, groups_of(chosen), chosen.degree("cp")
    found = []
    if zero == 0 and _sharded(chosen) and chosen.replicas > 1:
        found.append(
            "ZeRO 0: plain copies exist beside no other parallelism; written as FSDP that keeps weights from step to step"
        )
    elif zero in (1, 2):
        found.append(
            f"ZeRO {zero} exactly: FSDP spreads weights too, and here keeps them whole from the forward to the backward pass"
        )
    if groups.told:
        found.append(f"{groups.told}; written as spread over all {groups.replicas} replicas")
    elif groups.hybrid and not _alike(chosen):
        why = (
            "all that it spreads, it spreads alike"
            if groups.outer
            else f"groups of {groups.inner} GPUs, beside cp={cp}"
        )
        found.append(f"shard_within={groups.within}: {why}; written as spread over all {groups.replicas} replicas")
    return found


def _memory_limits(chosen: Chosen) -> list[str]:
    found = []
    if (states := chosen.offload_states) != "none":
        what = (
            "weights and gradients go to host memory too"
            if _spreads(chosen)
            else "it offloads with FSDP only; written without"
        )
        found.append(f"offload_states={states}: {what}{', and an SSD it does not have' if states == 'ssd' else ''}")
    if chosen.offload_activations > 0.0:
        found.append(
            f"offload_activations={chosen.offload_activations}: it keeps activations on the GPU; written without"
        )
    return found


def _local_limits(chosen: Chosen) -> list[str]:
    if (steps := int(chosen["local_steps"])) == 1:
        return []
    return [
        f"local_steps={steps}: its DiLoCo is torchft's, whose groups are started one by one (fault_tolerance.semi_sync_method "
        f"= diloco, fault_tolerance.sync_steps = {steps}); written as synchronised in every step"
    ]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
