"""A small decoder-only mixture-of-experts language model over bytes.

Pre-norm decoder with RMSNorm, rotary positions, SwiGLU experts and top-k routing whose weights are the softmax of the
chosen logits (Mixtral, arXiv:2401.04088, section 2.1), trained with a small load-balancing loss (Switch Transformer,
arXiv:2101.03961, equations 4 to 6) so that the routing keeps the skew of real models. Shapes: B sequences, T positions,
N = B*T tokens, d hidden, f expert intermediate, E experts, k experts per token, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.errors import UsageError


@dataclass(frozen=True)
class TinyMoEConfig:
    """Architecture numbers; the defaults are the model of the shipped trace."""

    n_layers: int = 8
    n_experts: int = 32
    top_k: int = 4
    hidden_size: int = 128
    expert_intermediate_size: int = 256
    n_heads: int = 4
    vocab: int = 256
    context: int = 256
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.n_heads):
            raise UsageError(
                f"hidden_size {self.hidden_size} does not give {self.n_heads} heads an even width; "
                f"use a multiple of {2 * self.n_heads}"
            )
        if not 1 <= self.top_k <= self.n_experts:
            raise UsageError(f"top_k {self.top_k} must lie between 1 and n_experts, which is {self.n_experts}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.n_heads


@dataclass(frozen=True)
class Routing:
    """What one layer's router saw and chose in one forward pass.

    Attributes:
        hidden: ``N x d``, the residual stream after attention, before the norm of the experts.
        experts: ``N x k`` chosen experts, the best first.
        weights: ``N x k`` their weights, each row summing to one.
    """

    hidden: Tensor
    experts: Tensor
    weights: Tensor


class KVCache:
    """Keys and values of one sequence batch, one pair per layer, each ``B x heads x positions x head_dim``."""

    def __init__(self, n_layers: int) -> None:
        self._pairs: list[tuple[Tensor, Tensor] | None] = [None] * n_layers

    @property
    def length(self) -> int:
        """Positions held."""
        return 0 if self._pairs[0] is None else self._pairs[0][0].shape[2]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append a pass's keys and values; returns all that the layer holds."""
        held = self._pairs[layer]
        if held is not None:
            keys, values = torch.cat((held[0], keys), dim=2), torch.cat((held[1], values), dim=2)
        self._pairs[layer] = (keys, values)
        return keys, values


class Attention(nn.Module):
    """Causal multi-head self-attention with rotary positions."""

    inverse_frequencies: Tensor

    def __init__(self, config: TinyMoEConfig) -> None:
        super().__init__()
        self.n_heads, self.head_dim = config.n_heads, config.head_dim
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        self.register_buffer("inverse_frequencies", config.rope_theta**-exponents, persistent=False)

    def forward(self, x: Tensor, layer: int, cache: KVCache | None, start: int) -> Tensor:
        """``B x T x d`` at positions ``start..start+T`` to the same shape."""
        batch, length, width = x.shape
        query, key, value = self.qkv(x).view(batch, length, 3, self.n_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        positions = torch.arange(start, start + length, dtype=torch.float32, device=x.device)
        angles = torch.outer(positions, self.inverse_frequencies)
        cos, sin = torch.cat((angles, angles), dim=-1).cos(), torch.cat((angles, angles), dim=-1).sin()
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        if length > 1 and key.shape[2] != length:
            raise UsageError(
                f"a pass of {length} tokens onto {start} cached ones is not supported; feed one token at a time"
            )
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=length > 1)
        projected: Tensor = self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return projected


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class SparseMoE(nn.Module):
    """Top-k routing over SwiGLU experts, computed expert by expert on tokens sorted by expert.

    Attributes:
        computed: who computes ``(x, experts, weights)`` in place of the experts held here, which may then be deleted; None is
            nobody.
    """

    computed: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __init__(self, config: TinyMoEConfig) -> None:
        super().__init__()
        self.n_experts, self.top_k = config.n_experts, config.top_k
        d, f = config.hidden_size, config.expert_intermediate_size
        self.router = nn.Linear(d, config.n_experts, bias=False)
        self.gate_up = nn.Parameter(torch.randn(config.n_experts, d, 2 * f) / math.sqrt(d))
        self.down = nn.Parameter(torch.randn(config.n_experts, f, d) / math.sqrt(f * 2 * config.n_layers))

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert's weights."""
        return sum(int(p[0].numel() * p.element_size()) for p in (self.gate_up, self.down))

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed states ``N x d`` to all probabilities ``N x E``, the chosen experts and their weights, ``N x k``.

        In float32 under autocast too, as near ties between experts are common.
        """
        with torch.autocast(x.device.type, enabled=False):
            logits = functional.linear(x.float(), self.router.weight)
        chosen, experts = logits.topk(self.top_k, dim=-1)
        return logits.softmax(dim=-1), experts, chosen.softmax(dim=-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``N x d`` to the layer's output ``N x d``, the balance loss, the experts and their weights (``N x k``)."""
        probabilities, experts, weights = self.route(x)
        picks = experts.flatten()
        counts = torch.bincount(picks, minlength=self.n_experts)
        if self.computed is None:
            mixed = self._mixed(x, experts, weights, counts.tolist())
        else:
            mixed = self.computed(x, experts, weights)
        fractions = counts / picks.numel()
        return mixed, self.n_experts * (fractions * probabilities.mean(dim=0)).sum(), experts, weights

    def _mixed(self, x: Tensor, experts: Tensor, weights: Tensor, sizes: list[int]) -> Tensor:
        order = experts.flatten().argsort(stable=True)
        inputs = _by_expert(x[order // self.top_k], sizes)
        lifted = torch.cat([a @ w for a, w in zip(inputs, self.gate_up, strict=True)])
        gate, up = lifted.chunk(2, dim=-1)
        activations = _by_expert(functional.silu(gate) * up, sizes)
        outputs = torch.cat([a @ w for a, w in zip(activations, self.down, strict=True)])
        by_token = outputs[order.argsort()].view(*experts.shape, -1)
        return (by_token * weights.unsqueeze(-1).to(by_token.dtype)).sum(dim=1)


def _by_expert(rows: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    return tuple(torch.split_with_sizes(rows, sizes))


class Block(nn.Module):
    """One decoder layer: attention and experts, each behind its norm, each added to the residual stream."""

    def __init__(self, config: TinyMoEConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size)
        self.attention = Attention(config)
        self.moe_norm = nn.RMSNorm(config.hidden_size)
        self.moe = SparseMoE(config)

    def forward(self, x: Tensor, layer: int, cache: KVCache | None, start: int) -> tuple[Tensor, Tensor, Routing]:
        """``B x T x d`` to the same shape, the balance loss and the routing."""
        x = x + self.attention(self.attention_norm(x), layer, cache, start)
        hidden = x.flatten(0, 1)
        mixed, balance, experts, weights = self.moe(self.moe_norm(hidden))
        return x + mixed.view_as(x), balance, Routing(hidden, experts, weights)


class TinyMoE(nn.Module):
    """The language model: bytes in, logits over the next byte out."""

    def __init__(self, config: TinyMoEConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.normal_(self.head.weight, std=0.02)

    def layers(self) -> list[Block]:
        """The decoder layers in order."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> tuple[Tensor, Tensor, list[Routing]]:
        """One pass.

        Args:
            tokens: int64 ``B x T``, following what the cache holds.
            cache: extended in place; None computes without one.

        Returns:
            Logits ``B x T x vocab``, the layers' mean balance loss (1 is perfect balance) and the routing by layer.
        """
        start = 0 if cache is None else cache.length
        x = self.embedding(tokens)
        balances, routings = [], []
        for layer, block in enumerate(self.layers()):
            x, balance, routing = block(x, layer, cache, start)
            balances.append(balance)
            routings.append(routing)
        return self.head(self.norm(x)), torch.stack(balances).mean(), routings

    def predict(self, routings: list[Routing], layer: int, depth: int) -> Tensor:
        """Experts ``N x k`` that `layer` is predicted to choose, from the hidden state `depth` layers before it.

        The residual stream barely moves from one layer to the next, so an earlier layer's post-attention state through
        the later layer's norm and router guesses its choice (Eliseev and Mazur, arXiv:2312.17238, section 3.2).
        """
        block = self.layers()[layer]
        return block.moe.route(block.moe_norm(routings[layer - depth].hidden))[1]

    def dense_bytes(self) -> list[int]:
        """Bytes of each layer's weights that every token needs: attention, norms and router."""
        totals = [sum(p.numel() * p.element_size() for p in block.parameters()) for block in self.layers()]
        held = [block.moe.expert_bytes * block.moe.n_experts for block in self.layers()]
        return [total - experts for total, experts in zip(totals, held, strict=True)]
