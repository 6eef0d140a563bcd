"""Small randomly initialised checkpoints of real families, and a byte-level tokenizer, built on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 300
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "bos_token_id": 256, "eos_token_id": 257,
    "pad_token_id": 258, "initializer_range": 0.2,
}  # fmt: skip
_MLA: dict[str, Any] = {
    "num_key_value_heads": 4, "head_dim": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "moe_intermediate_size": 24, "n_routed_experts": 16, "n_shared_experts": 1,
    "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
}  # fmt: skip

# Family: its configuration class, what differs from _COMMON, and what a trace of it must say:
# experts, top-k, decoder layers with experts, parameters of one expert.
FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[int, int, tuple[int, ...], int]]] = {
    "mixtral": (
        "MixtralConfig",
        {"num_local_experts": 8, "num_experts_per_tok": 2},
        (8, 2, (0, 1, 2, 3), 3 * 32 * 48),
    ),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {"num_experts": 12, "num_experts_per_tok": 4, "moe_intermediate_size": 24, "mlp_only_layers": [2],
         "shared_expert_intermediate_size": 40},
        (12, 4, (0, 1, 3), 3 * 32 * 24),
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 24, "norm_topk_prob": True},
        (16, 4, (0, 1, 2, 3), 3 * 32 * 24),
    ),
    "deepseek_v2": (
        "DeepseekV2Config",
        {**_MLA, "topk_method": "group_limited_greedy", "routed_scaling_factor": 1.0},
        (16, 4, (1, 2, 3), 3 * 32 * 24),
    ),
    "deepseek_v3": ("DeepseekV3Config", _MLA, (16, 4, (1, 2, 3), 3 * 32 * 24)),
    "olmoe": ("OlmoeConfig", {"num_experts": 8, "num_experts_per_tok": 2}, (8, 2, (0, 1, 2, 3), 3 * 32 * 48)),
    "gpt_oss": (
        "GptOssConfig",
        {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 16},
        (8, 2, (0, 1, 2, 3), 3 * 32 * 48 + 2 * 48 + 32),  # its experts have biases
    ),
    "granitemoe": (
        "GraniteMoeConfig",
        {"num_local_experts": 8, "num_experts_per_tok": 2},
        (8, 2, (0, 1, 2, 3), 3 * 32 * 48),
    ),
}  # fmt: skip


def build(family: str, seed: int = 0) -> Any:
    """A model of the family with random weights. Routers' biases are random too, where they have any."""
    config_class, options, _ = FAMILIES[family]
    config = getattr(transformers, config_class)(**{**_COMMON, **options})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
        if name.endswith(("e_score_correction_bias", "router.bias", "norm.weight", "layernorm.weight")):
            tensor.data += 0.3 * torch.randn_like(tensor)
    return model


def save_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer whose ids are unlike the bytes themselves, so that using bytes by mistake shows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def save(family: str, folder: Path) -> Path:
    """A whole checkpoint: weights, configuration and tokenizer."""
    build(family).save_pretrained(folder)
    save_tokenizer(folder)
    return folder
