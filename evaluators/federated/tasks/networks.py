"""The networks of the built-in tasks; plain tensor operations, so that they run for many devices at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.checks import whole
from autotune.errors import UsageError

_DISTANCE = 8.0  # from one head to the next, by how much less a distance counts


def mlp(inputs: int, hidden: Sequence[int], classes: int) -> nn.Sequential:
    """Linear layers with ReLU between them; without hidden sizes, a linear classifier."""
    sizes = [inputs, *(whole("hidden", size, 1) for size in hidden)]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


class Block(nn.Module):
    """Causal attention and a feed-forward network, each behind its norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """``(b, t, width)`` to the same, with `bias` ``(heads, t, t)`` added to attention's logits."""
        batch, length, width = x.shape
        by_head = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = by_head.permute(2, 0, 3, 1, 4)
        logits = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads) + bias
        mixed = (logits.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(mixed)
        lifted: Tensor = self.down(functional.gelu(self.up(self.feed_forward_norm(x))))
        return x + lifted


class ByteTransformer(nn.Module):
    """A small causal language model: symbols ``(b, t)`` in, scores ``(b, t, vocabulary)`` of the next one out.

    Positions enter as a penalty on attention that grows with distance (ALiBi, arXiv:2108.12409), with steeper slopes than the
    paper's, 1 and 1/8 and so on, as contexts are short: with them plain SGD learns faster than with learned positions.
    """

    bias: Tensor

    def __init__(self, vocabulary: int, context: int, width: int = 32, layers: int = 1, heads: int = 2) -> None:
        super().__init__()
        for name, value in (("context", context), ("width", width), ("layers", layers), ("heads", heads)):
            whole(name, value, 1)
        if width % heads:
            raise UsageError(
                f"width is {width}, which does not give {heads} heads one width; use a multiple of {heads}"
            )
        self.embedding = nn.Parameter(0.5 * torch.randn(vocabulary, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Parameter(0.02 * torch.randn(vocabulary, width))
        place = torch.arange(context)
        distance = place[:, None] - place[None, :]
        slopes = _DISTANCE ** -torch.arange(heads, dtype=torch.float32)
        bias = (-slopes[:, None, None] * distance).masked_fill(distance < 0, -math.inf)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the next symbol at every position."""
        length = x.shape[1]
        states = self.embedding[x]
        for block in self.blocks:
            states = block(states, self.bias[:, :length, :length])
        scores: Tensor = self.norm(states) @ self.head.T
        return scores
