"""A decoder-only transformer of a `TransformerShape`, written so that PyTorch's parallel styles can split it.

Every block, the embedding and the output projection draw their weights from a seed of their own, so that a model begins
alike however it is split. Letters in shapes: ``b`` sequences, ``s`` tokens of each, ``h`` hidden size.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluators.training_layout.real.experts import FeedForward, Held, RoutedExperts
from evaluators.training_layout.shape import TransformerShape

# Of the embedding's weights, as GPT-2 and most after it begin; where it is the output projection, logits begin small.
_EMBEDDING_SPREAD = 0.02
# Seeds: of the data, of the ends, and of the first layer.
_EMBEDDING, _HEAD, _LAYERS = 1, 2, 1000


class Attention(nn.Module):
    """Causal self-attention with grouped queries and rotary positions."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.queries = nn.Linear(shape.hidden, shape.n_heads * shape.head_dim, bias=False)
        self.keys = nn.Linear(shape.hidden, shape.n_kv_heads * shape.head_dim, bias=False)
        self.values = nn.Linear(shape.hidden, shape.n_kv_heads * shape.head_dim, bias=False)
        self.out = nn.Linear(shape.n_heads * shape.head_dim, shape.hidden, bias=False)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        """Inputs and outputs are ``(b, s, h)``; `turns` is complex, ``(s, head_dim / 2)``."""
        q, k, v = (self._heads(part(x)) for part in (self.queries, self.keys, self.values))
        q, k = _turned(q, turns), _turned(k, turns)
        grouped = q.shape[1] != k.shape[1]
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        # Heads are counted from the projection, which holds a share of them under tensor parallelism.
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


class Half(nn.Module):
    """Attention or a feed-forward block behind a norm, added to what comes in."""

    def __init__(self, hidden: int, inner: nn.Module) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(hidden)
        self.inner = inner

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        """``(b, s, h)`` to ``(b, s, h)``; what else is given goes to the inner block."""
        out: Tensor = x + self.inner(self.norm(x), *given)
        return out


class Block(nn.Module):
    """A layer: attention and a feed-forward block, dense or of experts.

    Args:
        layer: its number, from which its seed follows.
        held: the experts that this process holds; None for a dense layer.
    """

    def __init__(self, shape: TransformerShape, layer: int, held: Held | None) -> None:
        super().__init__()
        torch.manual_seed(_LAYERS + layer)
        self.attention: nn.Module = Half(shape.hidden, Attention(shape))
        inner = (
            FeedForward(shape.hidden, shape.ffn, gated=shape.gated)
            if held is None
            else RoutedExperts(shape, layer, held)
        )
        self.feed_forward = Half(shape.hidden, inner)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        """``(b, s, h)`` to ``(b, s, h)``."""
        out: Tensor = self.feed_forward(self.attention(x, turns))
        return out


class Transformer(nn.Module):
    """The ends of a model, or of one chunk of it, around blocks that are added one after the other.

    Args:
        sequence: tokens; their positions are a buffer, which context parallelism splits as it does the tokens.
        first, last: whether it has the embedding, and the output projection.
    """

    positions: Tensor

    def __init__(self, shape: TransformerShape, sequence: int, *, first: bool = True, last: bool = True) -> None:
        super().__init__()
        self.embedding: nn.Embedding | None = None
        self.norm: nn.RMSNorm | None = None
        self.head: nn.Linear | None = None
        self.blocks = nn.ModuleDict()
        self.register_buffer("positions", torch.arange(sequence, dtype=torch.float32), persistent=False)
        self._head_dim = shape.head_dim
        if first:
            torch.manual_seed(_EMBEDDING)
            self.embedding = nn.Embedding(shape.vocab, shape.hidden)
            nn.init.normal_(self.embedding.weight, std=_EMBEDDING_SPREAD)
        if last:
            torch.manual_seed(_HEAD)
            self.norm = nn.RMSNorm(shape.hidden)
            self.head = nn.Linear(shape.hidden, shape.vocab, bias=False)

    def tie(self) -> None:
        """Let the output projection be the embedding."""
        assert self.head is not None and self.embedding is not None
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(b, s)``, or what the chunk before made ``(b, s, h)``, to logits or to what the next chunk takes."""
        if self.embedding is not None:
            x = self.embedding(x)
        turns = _turns(self.positions, self._head_dim)
        for block in self.blocks.values():
            x = block(x, turns)
        if self.norm is not None:
            x = cast(nn.Linear, self.head)(self.norm(x))
        return x


def _turns(positions: Tensor, dim: int) -> Tensor:
    """``(s, d / 2)`` rotations of positions ``(s,)`` (arXiv:2104.09864, equation 34), complex."""
    slow = 10_000.0 ** -(torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim)
    angles = torch.outer(positions, slow)
    return torch.polar(torch.ones_like(angles), angles)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
