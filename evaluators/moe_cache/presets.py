"""Known mixture-of-experts models by name, and the door to any other: `preset` and `from_config_json`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from autotune.errors import UsageError
from evaluators.moe_cache.model_config import from_config_json
from evaluators.moe_cache.model_shape import MXFP4_BITS, LatentAttention, ModelShape

__all__ = ["PRESETS", "LatentAttention", "ModelShape", "from_config_json", "preset"]

# Every number below is the field of that name in the model's own config.json on the Hugging Face hub (`source`).
_MODELS = (
    ModelShape(
        "mixtral-8x7b", n_layers=32, n_experts=8, top_k=2, hidden_size=4096, expert_intermediate_size=14336, n_heads=32,
        n_kv_heads=8, head_dim=128, vocab=32000,
        source="mistralai/Mixtral-8x7B-v0.1 config.json; 46.7B in all, 12.9B per token (arXiv:2401.04088, section 1)",
    ),
    ModelShape(
        "qwen3-30b-a3b", n_layers=48, n_experts=128, top_k=8, hidden_size=2048, expert_intermediate_size=768, n_heads=32,
        n_kv_heads=4, head_dim=128, vocab=151936, attention_extra=2 * 128,
        source="Qwen/Qwen3-30B-A3B config.json; 30.5B in all, 3.3B per token (model card)",
    ),
    ModelShape(
        "deepseek-v2-lite", n_layers=26, n_experts=64, top_k=6, hidden_size=2048, expert_intermediate_size=1408,
        n_heads=16, n_kv_heads=16, head_dim=192, vocab=102400, n_shared_experts=2, shared_intermediate_size=2 * 1408,
        dense_layers=(0,), dense_intermediate_size=10944, latent=LatentAttention(512, None, 128, 64, 128),
        source="deepseek-ai/DeepSeek-V2-Lite config.json; 15.7B in all (arXiv:2405.04434, appendix B)",
    ),
    ModelShape(
        "olmoe-1b-7b", n_layers=16, n_experts=64, top_k=8, hidden_size=2048, expert_intermediate_size=1024, n_heads=16,
        n_kv_heads=16, head_dim=128, vocab=50304, attention_extra=2 * 2048,
        source="allenai/OLMoE-1B-7B-0924 config.json; 6.9B in all, 1.3B per token (arXiv:2409.02060, table 1)",
    ),
    ModelShape(
        "gpt-oss-120b", n_layers=36, n_experts=128, top_k=4, hidden_size=2880, expert_intermediate_size=2880, n_heads=64,
        n_kv_heads=8, head_dim=64, vocab=201088, router_bias=True, expert_bias=True, expert_bits=MXFP4_BITS,
        # Biases of query, key, value and output, and one attention sink per head.
        attention_extra=(64 + 2 * 8) * 64 + 2880 + 64,
        source="openai/gpt-oss-120b config.json; 116.8B in all, 5.1B per token (arXiv:2508.10925, table 1)",
    ),
    ModelShape(
        "granite-3.0-1b-a400m", n_layers=24, n_experts=32, top_k=8, hidden_size=1024, expert_intermediate_size=512,
        n_heads=16, n_kv_heads=8, head_dim=64, vocab=49155, tied_embeddings=True,
        source="ibm-granite/granite-3.0-1b-a400m-base config.json; 1.3B in all, 400M per token (model card)",
    ),
    ModelShape(
        "tiny-moe", n_layers=8, n_experts=32, top_k=4, hidden_size=128, expert_intermediate_size=256, n_heads=4,
        n_kv_heads=4, head_dim=32, vocab=256, expert_bits=32, dense_bits=32,
        source="evaluators/moe_cache/recording/tiny_moe.py, the model of the shipped trace",
    ),
)  # fmt: skip

PRESETS: Mapping[str, ModelShape] = MappingProxyType({model.name: model for model in _MODELS})


def preset(name: str) -> ModelShape:
    """A known model by name, whatever its case.

    Raises:
        UsageError: when it is unknown; the message lists the known.
    """
    found = PRESETS.get(name.strip().lower())
    if found is None:
        raise UsageError(f"model {name!r} is unknown; use one of {', '.join(PRESETS)}, or the path of a config.json")
    return found
