"""A model's own arguments of Megatron-LM, as far as its numbers tell them.

Names and ranges: `megatron/training/arguments.py` (network size, mixtures of experts, latent attention, state-space layers) and
`megatron/core/transformer/transformer_config.py` of Megatron-LM.
"""

from __future__ import annotations

from evaluators.training_layout.shape import TransformerShape

# What a model has and its numbers do not tell.
UNTOLD = (
    "rotary base and scaling, epsilon of the norms, norms of queries and keys, biases, activations other than SwiGLU and GELU, "
    "the router's scores and balance"
)


def architecture(model: TransformerShape, sequence: int) -> list[str]:
    """One option each; a list's values follow its option."""
    found = [
        f"--num-layers={model.n_layers}",
        f"--hidden-size={model.hidden}",
        f"--num-attention-heads={model.n_heads}",
        # A model that has experts in every layer has no width of dense blocks, and what Megatron-LM derives then is unused.
        f"--ffn-hidden-size={model.ffn or model.expert_ffn}",
        *_attention(model),
        *_kind(model, sequence),
    ]
    if not model.tied:
        found.append("--untie-embeddings-and-output-weights")
    if not model.dropout:
        found += ["--attention-dropout=0.0", "--hidden-dropout=0.0"]
    if model.n_experts:
        found += _experts(model)
    if model.mamba is not None:
        found += [
            "--is-hybrid-model",
            f"--mamba-num-heads={model.mamba.heads}",
            f"--mamba-head-dim={model.mamba.head_dim}",
            f"--mamba-num-groups={model.mamba.groups}",
            f"--mamba-state-dim={model.mamba.state}",
        ]
    return found


def _kind(model: TransformerShape, sequence: int) -> list[str]:
    """Blocks and positions, either as GPT-2 has them or as Llama has them."""
    if model.positions:
        return [
            "--position-embedding-type=learned_absolute",
            f"--max-position-embeddings={max(model.positions, sequence)}",
        ]
    # State-space layers tell positions by themselves.
    positions = "none" if model.mamba else "rope"
    found = [
        "--normalization=RMSNorm",
        "--disable-bias-linear",
        f"--position-embedding-type={positions}",
        f"--max-position-embeddings={sequence}",
    ]
    return [*found, "--swiglu"] if model.gated else found


def _attention(model: TransformerShape) -> list[str]:
    if (latent := model.latent) is not None:
        return [
            "--multi-latent-attention",
            *([f"--q-lora-rank={latent.query_rank}"] if latent.query_rank else []),
            f"--kv-lora-rank={latent.kv_rank}",
            f"--qk-head-dim={latent.nope_dim}",
            f"--qk-pos-emb-head-dim={latent.rope_dim}",
            f"--v-head-dim={latent.value_dim}",
            f"--kv-channels={latent.value_dim}",
            # Latent attention norms what it compressed.
            "--qk-layernorm",
        ]
    found = [f"--kv-channels={model.head_dim}"]
    if model.n_kv_heads < model.n_heads:
        found += ["--group-query-attention", f"--num-query-groups={model.n_kv_heads}"]
    if model.windowed_layers:
        found.append(f"--window-size={model.window},0")
        if (full := model.attention_layers - model.windowed_layers) and model.attention_layers % full == 0:
            found.append(f"--window-attn-skip-freq={model.attention_layers // full}")
    return found


def _experts(model: TransformerShape) -> list[str]:
    found = [
        f"--num-experts={model.n_experts}",
        f"--moe-router-topk={model.top_k}",
        f"--moe-ffn-hidden-size={model.expert_ffn}",
        "--moe-grouped-gemm",
        "--moe-token-dispatcher-type=alltoall",
    ]
    if model.top_k == 1:
        # It refuses a softmax over one expert, which has no gradient.
        found.append("--moe-router-pre-softmax")
    if model.shared_ffn:
        found.append(f"--moe-shared-expert-intermediate-size={model.shared_ffn}")
    dense = model.n_layers - model.expert_layers
    if dense and model.mamba is None:
        found.append(f"--moe-layer-freq={layer_order(model)}")
    return found


def layer_order(model: TransformerShape) -> str:
    """Which layers have experts, as a list of 0 and 1: every other one where there are as many dense ones (Llama 4 Maverick),
    else those behind the dense ones (DeepSeek-V2, arXiv:2405.04434, section 3.1.2)."""
    dense = model.n_layers - model.expert_layers
    return f"([0,1]*{dense})" if dense == model.expert_layers else f"([0]*{dense}+[1]*{model.expert_layers})"


def architecture_limits(model: TransformerShape, sequence: int) -> list[str]:
    """What of a model no argument tells."""
    found = []
    if model.mamba is not None:
        found.append(
            "the order of state-space, attention and feed-forward layers: give pretrain_mamba.py (pretrain_hybrid.py of newer "
            "releases) --hybrid-override-pattern, which the model's numbers do not tell"
        )
    if model.positions and sequence > model.positions:
        found.append(
            f"{model.positions} learned positions: {sequence} are needed, and learned, for sequences as long as this job's"
        )
    full = model.attention_layers - model.windowed_layers
    if model.windowed_layers and full and model.attention_layers % full:
        found.append(
            f"which {full} layers of {model.attention_layers} look back beyond the window: --window-attn-skip-freq is yours"
        )
    return found
