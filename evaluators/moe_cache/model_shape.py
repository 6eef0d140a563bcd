"""`ModelShape`: the architecture numbers of a mixture-of-experts model, and what its parts weigh.

Letters: ``h`` hidden size, ``f`` intermediate size of one expert, ``L`` decoder layers with experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from autotune.errors import UsageError

# MXFP4: blocks of 32 four-bit values share one eight-bit scale (OCP Microscaling Formats 1.0, section 5.1).
MXFP4_BITS = 4.25
# Widths are kept multiples of what every kernel likes.
_SCALED_ROWS = 8


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): low-rank queries, keys and values.

    Attributes:
        kv_rank, query_rank: ranks of the compressions; ``query_rank`` None projects queries directly.
        nope_dim, rope_dim, value_dim: per head: query and key width without and with rotary positions, value width.
    """

    kv_rank: int
    query_rank: int | None
    nope_dim: int
    rope_dim: int
    value_dim: int

    def parameters(self, hidden: int, n_heads: int) -> int:
        """Weights and norms of one layer's attention."""
        wide = n_heads * (self.nope_dim + self.rope_dim)
        query = hidden * wide if self.query_rank is None else self.query_rank * (hidden + 1 + wide)
        compress = hidden * (self.kv_rank + self.rope_dim) + self.kv_rank
        expand = self.kv_rank * n_heads * (self.nope_dim + self.value_dim)
        return query + compress + expand + n_heads * self.value_dim * hidden


@dataclass(frozen=True)
class ModelShape:
    """Architecture numbers of one model, as its config.json has them.

    Attributes:
        name: of the model.
        n_layers: L, decoder layers with experts.
        n_experts, top_k: routed experts per layer, and how many of them a token uses.
        hidden_size, expert_intermediate_size: h and f; an expert is three matrices of ``h x f`` (SwiGLU).
        n_heads, n_kv_heads, head_dim: of the attention. Ignored but for `n_heads` where `latent` is given.
        vocab: tokens.
        n_shared_experts: experts that every token uses.
        shared_intermediate_size: width of all shared experts together.
        shared_gate: whether the shared experts' output is scaled by a learned gate of width h.
        dense_layers: indices, among all decoder layers, of those with a plain feed-forward block.
        dense_intermediate_size: width of that block.
        latent: multi-head latent attention, where the model has it.
        attention_extra: per layer, parameters of query and key norms, biases and attention sinks.
        router_bias: whether the router has a bias per expert.
        expert_bias: whether an expert's matrices have biases (2f + h).
        tied_embeddings: whether the output projection is the embedding.
        expert_bits: bits per weight of the experts as published.
        dense_bits: bits of everything else, biases of the experts included.
        source: where the numbers come from.
    """

    name: str
    n_layers: int
    n_experts: int
    top_k: int
    hidden_size: int
    expert_intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    n_shared_experts: int = 0
    shared_intermediate_size: int = 0
    shared_gate: bool = False
    dense_layers: tuple[int, ...] = ()
    dense_intermediate_size: int = 0
    latent: LatentAttention | None = None
    attention_extra: int = 0
    router_bias: bool = False
    expert_bias: bool = False
    tied_embeddings: bool = False
    expert_bits: float = 16.0
    dense_bits: float = 16.0
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_experts", "top_k", "hidden_size", "expert_intermediate_size", "n_heads", "vocab"):
            if getattr(self, name) < 1:
                raise UsageError(f"model {self.name}: {name} is {getattr(self, name)}; it must be at least 1")
        if self.top_k > self.n_experts:
            raise UsageError(f"model {self.name}: top_k {self.top_k} exceeds n_experts, which is {self.n_experts}")
        outside = [i for i in self.dense_layers if not 0 <= i < self.n_decoder_layers]
        if outside or len(set(self.dense_layers)) != len(self.dense_layers):
            raise UsageError(
                f"model {self.name}: dense_layers {self.dense_layers} must be distinct and lie within the "
                f"{self.n_decoder_layers} decoder layers"
            )
        for name in ("expert_bits", "dense_bits"):
            _checked_bits(getattr(self, name), name)

    def scaled(self, scale: float) -> ModelShape:
        """A model of the same layers and routing whose experts and attention have a share of the width.

        Loading and computing shrink nearly alike, so that what one costs beside the other stays.
        """
        if scale == 1.0:
            return self
        kv_heads = max(1, round(self.n_kv_heads * scale))
        shared = max(_SCALED_ROWS, round(self.shared_intermediate_size * scale)) if self.shared_intermediate_size else 0
        return replace(
            self,
            name=f"{self.name} at {scale:g} of its width",
            expert_intermediate_size=max(1, round(self.expert_intermediate_size * scale / _SCALED_ROWS)) * _SCALED_ROWS,
            n_heads=kv_heads * (self.n_heads // self.n_kv_heads),
            n_kv_heads=kv_heads,
            shared_intermediate_size=shared,
        )

    @property
    def n_decoder_layers(self) -> int:
        """All decoder layers, with experts or without."""
        return self.n_layers + len(self.dense_layers)

    @property
    def expert_weights(self) -> int:
        """Parameters of one routed expert without its biases."""
        return 3 * self.hidden_size * self.expert_intermediate_size

    @property
    def expert_parameters(self) -> int:
        """Parameters of one routed expert."""
        return self.expert_weights + self._expert_biases

    @property
    def total_parameters(self) -> int:
        """All parameters, embeddings included."""
        return sum(self._outside_experts()) + self.n_layers * self.n_experts * self.expert_parameters + self._ends

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses, embeddings included."""
        return sum(self._outside_experts()) + self.n_layers * self.top_k * self.expert_parameters + self._ends

    def expert_bytes(self, bits: float | None = None) -> int:
        """Bytes of one routed expert.

        Args:
            bits: per weight, scales included; those of the published model if None. Biases keep `dense_bits`.
        """
        width = self.expert_bits if bits is None else _checked_bits(bits, "bits")
        return math.ceil(self.expert_weights * width / 8 + self._expert_biases * self.dense_bits / 8)

    def dense_bytes(self, bits: float | None = None) -> tuple[int, ...]:
        """Bytes of what every token needs in each of the L layers with experts: attention, norms, router, shared experts.

        A decoder layer without experts counts to the next one that has them, or to the last one where none follows, as
        in recorded traces. Embeddings are left out.

        Args:
            bits: per weight; those of the published model if None.
        """
        width = self.dense_bits if bits is None else _checked_bits(bits, "bits")
        return tuple(math.ceil(count * width / 8) for count in self._outside_experts())

    @property
    def _expert_biases(self) -> int:
        return 2 * self.expert_intermediate_size + self.hidden_size if self.expert_bias else 0

    @property
    def _ends(self) -> int:
        return self.vocab * self.hidden_size * (1 if self.tied_embeddings else 2) + self.hidden_size

    @property
    def _attention(self) -> int:
        h = self.hidden_size
        if self.latent is not None:
            weights = self.latent.parameters(h, self.n_heads)
        else:
            weights = 2 * h * self.head_dim * (self.n_heads + self.n_kv_heads)
        return weights + self.attention_extra

    def _outside_experts(self) -> list[int]:
        """Parameters per layer with experts, routed experts apart, dense layers counted to the next."""
        h = self.hidden_size
        common = self._attention + 2 * h
        routed = common + self.n_experts * (h + int(self.router_bias))
        routed += 3 * h * self.shared_intermediate_size + (h if self.shared_gate else 0)
        counts: list[int] = []
        waiting = 0
        for index in range(self.n_decoder_layers):
            if index in self.dense_layers:
                waiting += common + 3 * h * self.dense_intermediate_size
            else:
                counts.append(routed + waiting)
                waiting = 0
        counts[-1] += waiting
        return counts


def _checked_bits(bits: float, name: str) -> float:
    if not 0 < bits <= 64:
        raise UsageError(f"{name} is {bits}; give bits per weight above 0 and up to 64")
    return bits
