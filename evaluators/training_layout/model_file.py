"""Reads a `TransformerShape` from a local Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autotune.errors import UsageError
from evaluators.config_files import ConfigFile, read_config
from evaluators.moe_cache.model_shape import LatentAttention
from evaluators.training_layout.shape import Mamba, TransformerShape


def from_config_json(path: str | Path) -> TransformerShape:
    """Architecture numbers from a config.json, or from the folder that holds one.

    Families (field ``model_type``): llama, mistral, qwen2, qwen3, gpt_neox, mixtral, qwen2_moe, qwen3_moe, deepseek_v2,
    deepseek_v3, kimi_k2, olmoe, granitemoe, gpt_oss, nemotron_h.

    Raises:
        UsageError: when the file cannot be read, is of another family, or lacks a field.
    """
    config = read_config(path, _FAMILIES)
    return TransformerShape(**{**_common(config), **_FAMILIES[config.family](config)})


def _common(config: ConfigFile) -> dict[str, Any]:
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads")
    return {
        "name": config.name,
        "n_layers": config.number("num_hidden_layers"),
        "hidden": hidden,
        "n_heads": heads,
        "n_kv_heads": config.number("num_key_value_heads", default=heads),
        "head_dim": config.number("head_dim", default=hidden // max(1, heads)),
        "vocab": config.number("vocab_size"),
        "tied": config.flag("tie_word_embeddings", False),
        "ffn": 0,
        "source": str(config.path),
    }


def _dense(config: ConfigFile) -> dict[str, Any]:
    return {"ffn": config.number("intermediate_size")}


def _neox(config: ConfigFile) -> dict[str, Any]:
    return {**_dense(config), "gated": False}


def _mixtral(config: ConfigFile) -> dict[str, Any]:
    return {
        "n_experts": config.number("num_local_experts", "num_experts"),
        "top_k": config.number("num_experts_per_tok"),
        "expert_ffn": config.number("intermediate_size"),
    }


def _sparse_qwen(config: ConfigFile) -> dict[str, Any]:
    layers = config.number("num_hidden_layers")
    step = max(1, config.number("decoder_sparse_step", default=1))
    plain = config.values.get("mlp_only_layers") or []
    dense = sum(i in plain or (i + 1) % step != 0 for i in range(layers))
    return {
        "n_experts": config.number("num_experts", "num_local_experts"),
        "top_k": config.number("num_experts_per_tok"),
        "expert_ffn": config.number("moe_intermediate_size"),
        "shared_ffn": config.number("shared_expert_intermediate_size", default=0),
        "expert_layers": layers - dense,
        "ffn": config.number("intermediate_size") if dense else 0,
    }


def _deepseek(config: ConfigFile) -> dict[str, Any]:
    layers = config.number("num_hidden_layers")
    dense = min(layers, config.number("first_k_dense_replace", default=0))
    width = config.number("moe_intermediate_size")
    nope, rope = config.number("qk_nope_head_dim"), config.number("qk_rope_head_dim")
    query_rank = config.number("q_lora_rank", default=0) or None
    return {
        "n_experts": config.number("n_routed_experts", "num_local_experts"),
        "top_k": config.number("num_experts_per_tok"),
        "expert_ffn": width,
        "shared_ffn": config.number("n_shared_experts", default=0) * width,
        "expert_layers": layers - dense,
        "ffn": config.number("intermediate_size") if dense else 0,
        "head_dim": nope + rope,
        "latent": LatentAttention(config.number("kv_lora_rank"), query_rank, nope, rope, config.number("v_head_dim")),
    }


def _gpt_oss(config: ConfigFile) -> dict[str, Any]:
    # Every other layer looks back over a window.
    return {
        **_mixtral(config),
        "window": config.number("sliding_window", default=0),
        "windowed_layers": config.number("num_hidden_layers") // 2,
    }


def _nemotron(config: ConfigFile) -> dict[str, Any]:
    """Layers by letter: M state space, * attention, E experts, - dense block."""
    pattern = config.values.get("hybrid_override_pattern")
    if not isinstance(pattern, str) or set(pattern) - set("M*E-"):
        raise UsageError(
            f"{config.path}: field hybrid_override_pattern is {pattern!r}; it must be of the letters M, *, E and -"
        )
    mamba = Mamba(
        pattern.count("M"),
        config.number("mamba_num_heads"),
        config.number("mamba_head_dim"),
        config.number("n_groups"),
        config.number("ssm_state_size"),
        config.number("conv_kernel", default=4),
    )
    experts = {
        "n_experts": config.number("n_routed_experts"),
        "top_k": config.number("num_experts_per_tok"),
        "expert_ffn": config.number("moe_intermediate_size"),
        "shared_ffn": config.number("n_shared_experts", default=0)
        * config.number("moe_shared_expert_intermediate_size"),
    }
    return {
        "ffn": config.number("intermediate_size"),
        "gated": False,
        "attention_layers": pattern.count("*"),
        "dense_layers": pattern.count("-"),
        "expert_layers": pattern.count("E"),
        "mamba": mamba,
        **(experts if "E" in pattern else {}),
    }


_FAMILIES: Mapping[str, Callable[[ConfigFile], dict[str, Any]]] = {
    "llama": _dense,
    "mistral": _dense,
    "qwen2": _dense,
    "qwen3": _dense,
    "gpt_neox": _neox,
    "mixtral": _mixtral,
    "olmoe": _mixtral,
    "granitemoe": _mixtral,
    "qwen2_moe": _sparse_qwen,
    "qwen3_moe": _sparse_qwen,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "kimi_k2": _deepseek,
    "gpt_oss": _gpt_oss,
    "nemotron_h": _nemotron,
}
