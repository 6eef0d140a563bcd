"""Reads a `ModelShape` from a local Hugging Face config.json of a known mixture-of-experts family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autotune.errors import UsageError
from evaluators.config_files import ConfigFile, read_config
from evaluators.moe_cache.model_shape import MXFP4_BITS, LatentAttention, ModelShape

_DTYPE_BITS = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0}


def from_config_json(path: str | Path) -> ModelShape:
    """Architecture numbers from a config.json, or from the folder that holds one.

    Families: mixtral, qwen2_moe, qwen3_moe, deepseek_v2, deepseek_v3, olmoe, gpt_oss, granitemoe (field ``model_type``).

    Raises:
        UsageError: when the file cannot be read, is of another family, or lacks a field.
    """
    config = read_config(path, _FAMILIES)
    expert_bits, dense_bits = _bits(config)
    fields = {
        **_common(config),
        "expert_bits": expert_bits,
        "dense_bits": dense_bits,
        **_FAMILIES[config.family](config),
    }
    return ModelShape(**fields)


def _common(config: ConfigFile) -> dict[str, Any]:
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads")
    return {
        "name": config.name,
        "n_layers": config.number("num_hidden_layers"),
        "top_k": config.number("num_experts_per_tok"),
        "hidden_size": hidden,
        "n_heads": heads,
        "n_kv_heads": config.number("num_key_value_heads", default=heads),
        "head_dim": config.number("head_dim", default=hidden // max(1, heads)),
        "vocab": config.number("vocab_size"),
        "tied_embeddings": config.flag("tie_word_embeddings", False),
        "source": str(config.path),
    }


def _attention_biases(config: ConfigFile, output: bool) -> int:
    """Biases of query, key and value, and of the output projection where the family has one."""
    shape = _common(config)
    inner = shape["head_dim"] * (shape["n_heads"] + 2 * shape["n_kv_heads"])
    return int(inner + (shape["hidden_size"] if output else 0))


def _mixtral(config: ConfigFile) -> dict[str, Any]:
    return {
        "n_experts": config.number("num_local_experts"),
        "expert_intermediate_size": config.number("intermediate_size"),
    }


def _granite(config: ConfigFile) -> dict[str, Any]:
    bias = _attention_biases(config, output=True) if config.flag("attention_bias", False) else 0
    # transformers ties this family's embeddings unless the file says otherwise.
    return {**_mixtral(config), "attention_extra": bias, "tied_embeddings": config.flag("tie_word_embeddings", True)}


def _olmoe(config: ConfigFile) -> dict[str, Any]:
    shape = _common(config)
    norms = shape["head_dim"] * (shape["n_heads"] + shape["n_kv_heads"])
    bias = _attention_biases(config, output=True) if config.flag("attention_bias", False) else 0
    return {
        "n_experts": config.number("num_experts", "num_local_experts"),
        "expert_intermediate_size": config.number("intermediate_size"),
        "attention_extra": norms + bias,
    }


def _sparse_qwen(config: ConfigFile) -> dict[str, Any]:
    layers = config.number("num_hidden_layers")
    step = max(1, config.number("decoder_sparse_step", default=1))
    plain = config.values.get("mlp_only_layers") or []
    dense = tuple(i for i in range(layers) if i in plain or (i + 1) % step)
    return {
        "n_layers": layers - len(dense),
        "n_experts": config.number("num_experts", "num_local_experts"),
        "expert_intermediate_size": config.number("moe_intermediate_size"),
        "dense_layers": dense,
        "dense_intermediate_size": config.number("intermediate_size") if dense else 0,
    }


def _qwen2(config: ConfigFile) -> dict[str, Any]:
    return {
        **_sparse_qwen(config),
        "attention_extra": _attention_biases(config, output=False) if config.flag("qkv_bias", True) else 0,
        "n_shared_experts": 1,
        "shared_intermediate_size": config.number("shared_expert_intermediate_size"),
        "shared_gate": True,
    }


def _qwen3(config: ConfigFile) -> dict[str, Any]:
    bias = _attention_biases(config, output=True) if config.flag("attention_bias", False) else 0
    return {**_sparse_qwen(config), "attention_extra": 2 * _common(config)["head_dim"] + bias}


def _deepseek(config: ConfigFile) -> dict[str, Any]:
    layers = config.number("num_hidden_layers")
    dense = tuple(range(min(layers, config.number("first_k_dense_replace", default=0))))
    width = config.number("moe_intermediate_size")
    shared = config.number("n_shared_experts", default=0)
    nope, rope = config.number("qk_nope_head_dim"), config.number("qk_rope_head_dim")
    query_rank = config.number("q_lora_rank", default=0) or None
    latent = LatentAttention(config.number("kv_lora_rank"), query_rank, nope, rope, config.number("v_head_dim"))
    return {
        "n_layers": layers - len(dense),
        "n_experts": config.number("n_routed_experts", "num_local_experts"),
        "expert_intermediate_size": width,
        "n_shared_experts": shared,
        "shared_intermediate_size": shared * width,
        "dense_layers": dense,
        "dense_intermediate_size": config.number("intermediate_size") if dense else 0,
        "head_dim": nope + rope,
        "latent": latent,
    }


def _gpt_oss(config: ConfigFile) -> dict[str, Any]:
    bias = _attention_biases(config, output=True) if config.flag("attention_bias", True) else 0
    return {
        **_mixtral(config),
        "attention_extra": bias + _common(config)["n_heads"],  # one attention sink per head
        "router_bias": True,
        "expert_bias": True,
    }


_FAMILIES: Mapping[str, Callable[[ConfigFile], dict[str, Any]]] = {
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2,
    "qwen3_moe": _qwen3,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "olmoe": _olmoe,
    "gpt_oss": _gpt_oss,
    "granitemoe": _granite,
}


def _bits(config: ConfigFile) -> tuple[float, float]:
    """Bits per weight of the experts and of the rest."""
    dtype = config.values.get("dtype") or config.values.get("torch_dtype") or "bfloat16"
    if dtype not in _DTYPE_BITS:
        raise UsageError(f"{config.path}: field dtype is {dtype!r}; known: {', '.join(_DTYPE_BITS)}")
    dense = _DTYPE_BITS[dtype]
    quantisation = config.values.get("quantization_config")
    if not quantisation:
        return dense, dense
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    if method == "mxfp4":
        return MXFP4_BITS, dense
    if method == "fp8":
        return 8.0, 8.0
    if method in ("gptq", "awq") and isinstance(quantisation.get("bits"), int):
        return float(quantisation["bits"]), dense
    raise UsageError(
        f"{config.path}: quant_method {method!r} is unknown; known are mxfp4, fp8, gptq and awq, or remove "
        "quantization_config and give the bits per weight yourself"
    )
