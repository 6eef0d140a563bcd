"""Known models by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from autotune.errors import UsageError
from evaluators.moe_cache.model_shape import LatentAttention
from evaluators.training_layout.shape import Mamba, TransformerShape

_DEEPSEEK = LatentAttention(512, 1536, 128, 64, 128)
_HUB = "config.json of the Hugging Face hub"


def _llama(
    name: str, layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, vocab: int, source: str
) -> TransformerShape:
    return TransformerShape(
        name, layers, hidden, heads, kv_heads, hidden // heads, ffn, vocab, source=f"{source} {_HUB}"
    )


def _gpt3(name: str, layers: int, hidden: int, heads: int) -> TransformerShape:
    """As Megatron-LM trains GPT: no gates, dropout, learned positions, tied embeddings, vocabulary padded to 51,200."""
    return TransformerShape(
        name, layers, hidden, heads, heads, hidden // heads, 4 * hidden, 51_200, gated=False, tied=True, positions=2048,
        dropout=True, source="arXiv:2104.04473, table 1, and arXiv:2205.05198, table 3",
    )  # fmt: skip


def _nemotron(
    name: str, layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, source: str
) -> TransformerShape:
    """Squared ReLU instead of gates, and a vocabulary of 256,000."""
    return TransformerShape(
        name, layers, hidden, heads, kv_heads, hidden // heads, ffn, 256_000, gated=False, source=source
    )


def _mpt(name: str, layers: int, hidden: int, heads: int) -> TransformerShape:
    return TransformerShape(
        name, layers, hidden, heads, heads, hidden // heads, 4 * hidden, 50_368, gated=False, tied=True, positions=2048,
        source="llm-foundry, scripts/train/yamls/pretrain",
    )  # fmt: skip


_MODELS = (
    _llama("llama2-7b", 32, 4096, 32, 32, 11008, 32000, "meta-llama/Llama-2-7b"),
    _llama("llama2-13b", 40, 5120, 40, 40, 13824, 32000, "meta-llama/Llama-2-13b"),
    _llama("llama2-70b", 80, 8192, 64, 8, 28672, 32000, "meta-llama/Llama-2-70b"),
    _llama("llama3-8b", 32, 4096, 32, 8, 14336, 128256, "meta-llama/Meta-Llama-3.1-8B"),
    _llama("llama3-70b", 80, 8192, 64, 8, 28672, 128256, "meta-llama/Meta-Llama-3.1-70B"),
    _llama("llama3-405b", 126, 16384, 128, 8, 53248, 128256, "meta-llama/Meta-Llama-3.1-405B"),
    _llama("mistral-7b", 32, 4096, 32, 8, 14336, 32000, "mistralai/Mistral-7B-v0.1"),
    _llama("qwen2.5-7b", 28, 3584, 28, 4, 18944, 152064, "Qwen/Qwen2.5-7B"),
    _llama("qwen2.5-14b", 48, 5120, 40, 8, 13824, 152064, "Qwen/Qwen2.5-14B"),
    _llama("qwen2.5-32b", 64, 5120, 40, 8, 27648, 152064, "Qwen/Qwen2.5-32B"),
    _llama("qwen2.5-72b", 80, 8192, 64, 8, 29568, 152064, "Qwen/Qwen2.5-72B"),
    TransformerShape("qwen3-8b", 36, 4096, 32, 8, 128, 12288, 151936, source=f"Qwen/Qwen3-8B {_HUB}"),
    TransformerShape("qwen3-14b", 40, 5120, 40, 8, 128, 17408, 151936, source=f"Qwen/Qwen3-14B {_HUB}"),
    TransformerShape("qwen3-32b", 64, 5120, 64, 8, 128, 25600, 151936, source=f"Qwen/Qwen3-32B {_HUB}"),
    TransformerShape(
        "qwen3-30b-a3b", 48, 2048, 32, 4, 128, 0, 151936, n_experts=128, top_k=8, expert_ffn=768,
        source=f"Qwen/Qwen3-30B-A3B {_HUB}",
    ),
    TransformerShape(
        "qwen3-235b-a22b", 94, 4096, 64, 4, 128, 0, 151936, n_experts=128, top_k=8, expert_ffn=1536,
        source=f"Qwen/Qwen3-235B-A22B {_HUB}",
    ),
    TransformerShape(
        "mixtral-8x7b", 32, 4096, 32, 8, 128, 0, 32000, n_experts=8, top_k=2, expert_ffn=14336,
        source=f"mistralai/Mixtral-8x7B-v0.1 {_HUB}",
    ),
    TransformerShape(
        "mixtral-8x22b", 56, 6144, 48, 8, 128, 0, 32000, n_experts=8, top_k=2, expert_ffn=16384,
        source=f"mistralai/Mixtral-8x22B-v0.1 {_HUB}",
    ),
    TransformerShape(
        "grok-1", 64, 6144, 48, 8, 128, 0, 131072, n_experts=8, top_k=2, expert_ffn=32768, tied=True,
        source=f"xai-org/grok-1 {_HUB}",
    ),
    TransformerShape(
        "llama4-scout", 48, 5120, 40, 8, 128, 0, 202048, n_experts=16, top_k=1, expert_ffn=8192, shared_ffn=8192,
        source=f"meta-llama/Llama-4-Scout-17B-16E {_HUB}",
    ),
    TransformerShape(
        "llama4-maverick", 48, 5120, 40, 8, 128, 16384, 202048, n_experts=128, top_k=1, expert_ffn=8192, shared_ffn=8192,
        expert_layers=24, source=f"meta-llama/Llama-4-Maverick-17B-128E {_HUB}",
    ),
    TransformerShape(
        "glm-4.5", 92, 5120, 96, 8, 128, 12288, 151552, n_experts=160, top_k=8, expert_ffn=1536, shared_ffn=1536,
        expert_layers=89, source=f"zai-org/GLM-4.5 {_HUB}",
    ),
    TransformerShape(
        "glm-4.5-air", 46, 4096, 96, 8, 128, 10944, 151552, n_experts=128, top_k=8, expert_ffn=1408, shared_ffn=1408,
        expert_layers=45, source=f"zai-org/GLM-4.5-Air {_HUB}",
    ),
    TransformerShape(
        "deepseek-v2", 60, 5120, 128, 128, 192, 12288, 102400, n_experts=160, top_k=6, expert_ffn=1536, shared_ffn=3072,
        expert_layers=59, latent=_DEEPSEEK, source=f"deepseek-ai/DeepSeek-V2 {_HUB}",
    ),
    TransformerShape(
        "deepseek-v2-lite", 27, 2048, 16, 16, 192, 10944, 102400, n_experts=64, top_k=6, expert_ffn=1408, shared_ffn=2816,
        expert_layers=26, latent=LatentAttention(512, None, 128, 64, 128), source=f"deepseek-ai/DeepSeek-V2-Lite {_HUB}",
    ),
    TransformerShape(
        "deepseek-v3", 61, 7168, 128, 128, 192, 18432, 129280, n_experts=256, top_k=8, expert_ffn=2048, shared_ffn=2048,
        expert_layers=58, latent=_DEEPSEEK, source=f"deepseek-ai/DeepSeek-V3 {_HUB}",
    ),
    TransformerShape(
        "kimi-k2", 61, 7168, 64, 64, 192, 18432, 163840, n_experts=384, top_k=8, expert_ffn=2048, shared_ffn=2048,
        expert_layers=60, latent=_DEEPSEEK, source=f"moonshotai/Kimi-K2-Instruct {_HUB}",
    ),
    TransformerShape(
        "gpt-oss-20b", 24, 2880, 64, 8, 64, 0, 201088, n_experts=32, top_k=4, expert_ffn=2880, window=128,
        windowed_layers=12, source=f"openai/gpt-oss-20b {_HUB}",
    ),
    TransformerShape(
        "gpt-oss-120b", 36, 2880, 64, 8, 64, 0, 201088, n_experts=128, top_k=4, expert_ffn=2880, window=128,
        windowed_layers=18, source=f"openai/gpt-oss-120b {_HUB}",
    ),
    TransformerShape(
        "nemotron-3-nano", 52, 2688, 32, 2, 128, 0, 131072, gated=False, n_experts=128, top_k=6, expert_ffn=1856,
        shared_ffn=3712, expert_layers=23, attention_layers=6, dense_layers=0, mamba=Mamba(23, 64, 64, 8, 128),
        source=f"nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 {_HUB}",
    ),
    TransformerShape(
        "nemotron-3-super", 88, 4096, 32, 2, 128, 0, 131072, gated=False, n_experts=512, top_k=22, expert_ffn=2688,
        shared_ffn=5376, expert_layers=40, attention_layers=8, dense_layers=0, mamba=Mamba(40, 128, 64, 8, 128),
        source=f"nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8 {_HUB}",
    ),
    TransformerShape(
        "nemotron-h-56b", 118, 8192, 64, 8, 128, 32768, 131072, gated=False, attention_layers=10, dense_layers=54,
        mamba=Mamba(54, 256, 64, 8, 256), source=f"nvidia/Nemotron-H-56B-Base-8K {_HUB}",
    ),
    _nemotron("nemotron-8b", 32, 4096, 32, 32, 16384, "nvidia/nemotron-3-8b-base-4k"),
    _nemotron("nemotron4-15b", 32, 6144, 48, 8, 24576, "arXiv:2402.16819, table 1"),
    _nemotron("nemotron4-340b", 96, 18432, 96, 8, 73728, "arXiv:2406.11704, table 1"),
    _gpt3("gpt3-5b", 24, 4096, 32),
    _gpt3("gpt3-20b", 44, 6144, 48),
    _gpt3("gpt3-1.7b", 24, 2304, 24),
    _gpt3("gpt3-3.6b", 30, 3072, 32),
    _gpt3("gpt3-7.5b", 36, 4096, 32),
    _gpt3("gpt3-18.4b", 40, 6144, 48),
    _gpt3("gpt3-22b", 48, 6144, 64),
    _gpt3("gpt3-39.1b", 48, 8192, 64),
    _gpt3("gpt3-76.1b", 60, 10240, 80),
    _gpt3("gpt3-145.6b", 80, 12288, 96),
    _gpt3("gpt3-175b", 96, 12288, 96),
    _gpt3("gpt3-310.1b", 96, 16384, 128),
    _gpt3("gpt3-529.6b", 105, 20480, 128),
    _gpt3("gpt3-530b", 105, 20480, 128),
    _gpt3("gpt3-1t", 128, 25600, 160),
    _mpt("mpt-125m", 12, 768, 12),
    _mpt("mpt-350m", 24, 1024, 16),
    _mpt("mpt-760m", 24, 1536, 12),
    _mpt("mpt-1b", 24, 2048, 16),
    _mpt("mpt-3b", 32, 2560, 20),
    _mpt("mpt-7b", 32, 4096, 32),
    _mpt("mpt-13b", 40, 5120, 40),
    _mpt("mpt-30b", 48, 7168, 56),
    _mpt("mpt-70b", 80, 8192, 64),
)  # fmt: skip

PRESETS: Mapping[str, TransformerShape] = MappingProxyType({model.name: model for model in _MODELS})
# As other projects spell some of them.
_ALIASES = {
    "llama318b": "llama3-8b",
    "llama3170b": "llama3-70b",
    "llama31405b": "llama3-405b",
    "llama3370b": "llama3-70b",
}
_PLAIN = {re.sub(r"[^a-z0-9]", "", name): name for name in PRESETS}


def preset(name: str) -> TransformerShape:
    """A known model by name, however it is spelt: case, hyphens, dots and what stands in brackets do not count.

    Raises:
        UsageError: when it is unknown; the message lists the known.
    """
    plain = re.sub(r"[^a-z0-9]", "", re.sub(r"\(.*?\)", "", name.lower()))
    found = _ALIASES.get(plain) or _PLAIN.get(plain)
    if found is None:
        raise UsageError(f"model {name!r} is unknown; use one of {', '.join(PRESETS)}, or the path of a config.json")
    return PRESETS[found]
